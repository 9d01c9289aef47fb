"""Who drafts the tokens that assisted decoding checks: a smaller model, or the text itself.

A draft is a guess: it decides how fast the text is written, never what is written.
Dimensions: T tokens so far, n drafted tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import GenerationPlan
from gpt2kit.generation.way import Assistance
from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.generation.guidance import UnbatchedClassifierFreeGuidanceLogitsProcessor
from gpt2kit.torch.generation.processor import LogitsProcessorList
from gpt2kit.torch.generation.prompt import Prompt
from gpt2kit.torch.generation.search import Draft, Search

__all__ = ["Drafter", "ModelDrafter", "PromptLookup", "check_assistant", "drafter_of"]

_OF_THE_ENCODER = ("encoder_hidden_states", "encoder_attention_mask")
_FIRST_COUNT = 5  # of 4.34: tokens drafted at first, where nobody says how many


class Drafter(Protocol):
    """Propose what may follow a text."""

    def propose(self, draft: Draft, most: int) -> Tensor:
        """Return up to `most` tokens that may follow the text, [1, n]; n may be 0."""

    def learn(self, accepted: int) -> None:
        """Learn how many of the last proposal were right."""


class ModelDrafter:
    """Draft by a smaller language model, always its likeliest tokens.

    Args:
        model: The assistant.
        processors: Rules for its scores, so that it drafts no token that cannot follow.
        eos_token_ids: After one of these it drafts nothing.
        count: Tokens of the first draft; None begins with what the assistant's last call ended with (its
            attribute `max_assistant_tokens`, as in 4.34), then with its own option, then with 5.
        schedule: "heuristic" drafts two more after a draft that was all right and one fewer after any other,
            and remembers the number for the next call; "heuristic_transient" forgets it; "constant".
        encoder: What the assistant's cross-attention looks at.
    """

    def __init__(
        self,
        model: Any,
        processors: LogitsProcessorList,
        eos_token_ids: Sequence[int] = (),
        count: int | None = None,
        schedule: str | None = None,
        encoder: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        # Guidance asks the large model for every token, which is what a draft shall save.
        self.processors = LogitsProcessorList(
            each
            for each in processors
            if not isinstance(each, UnbatchedClassifierFreeGuidanceLogitsProcessor)
        )
        self.eos_token_ids = frozenset(eos_token_ids)
        own = model.generation_config
        if count is None:
            count = getattr(model, "max_assistant_tokens", None) or own.num_assistant_tokens or _FIRST_COUNT
        self.count = float(count)
        self.schedule = schedule or own.num_assistant_tokens_schedule or "heuristic"
        self.encoder = encoder or {}
        self.past: GPT2Cache | None = None
        self.read = 0  # tokens of the text that the last proposal began from

    def propose(self, draft: Draft, most: int) -> Tensor:
        """Return up to `most` tokens that may follow the text, [1, n]."""
        self.read = draft.length
        # The assistant may know fewer positions than the model; it reads all but the last token it drafts.
        most = min(most, int(self.count), self.model.config.n_positions - draft.length + 1)
        text = draft.text()  # [1, T]
        for _ in range(most):
            logits = self._next(draft, text)  # [1, V]
            try:
                token = self.processors(text.contiguous(), logits).argmax(dim=-1)  # [1]
            except InputError:  # a dead end, where no token may follow; the model may never go there
                break
            text = torch.cat((text, token[:, None]), dim=1)  # [1, T + drafted]
            if int(token) in self.eos_token_ids:
                break
        return text[:, self.read :]  # [1, n]

    def _next(self, draft: Draft, text: Tensor) -> Tensor:
        """Return the assistant's scores for the token after a text [1, T], as [1, V]."""
        extra = {}
        if draft.mask is not None:
            extra["attention_mask"] = draft.mask[:, : text.shape[1]]  # [1, T]
        if draft.types is not None:
            extra["token_type_ids"] = draft.types[:, : text.shape[1]]  # [1, T]
        past = self.past if self.past is not None and self.past.get_seq_length() else None
        inputs = self.model.prepare_inputs_for_generation(
            text, past_key_values=past, use_cache=True, **extra, **self.encoder
        )
        if past is None:
            room = min(draft.ids.shape[1], self.model.config.n_positions)
            inputs["past_key_values"] = GPT2Cache.empty(self.model.config, capacity=room)
        outputs = self.model(**inputs, return_dict=True, logits_to_keep=1)
        if outputs.past_key_values is not None:
            self.past = GPT2Cache.from_legacy(outputs.past_key_values)
        logits: Tensor = outputs.logits[:, -1, :]  # [1, V]
        return logits

    def learn(self, accepted: int) -> None:
        """Forget what was read of wrong tokens, and choose how many to draft next."""
        if self.past is not None:  # which may lack the last drafted token: nothing came after it
            self.past = self.past.rewind(min(self.read + accepted, self.past.get_seq_length()))
        if self.schedule != "constant":
            all_right = accepted == int(self.count)
            self.count = self.count + 2.0 if all_right else max(1.0, self.count - 1.0)
        if self.schedule == "heuristic":
            self.model.max_assistant_tokens = self.count


class PromptLookup:
    """Draft what followed when the text last ended like this: no model, for texts that repeat themselves.

    The longest ending that the text holds earlier counts, and its first place, as in later releases of
    transformers.

    Args:
        count: Tokens of a draft.
        longest: Tokens of the longest ending that is looked for.
        eos_token_ids: A draft stops before one of these.

    Source:
        Saxena 2023, "Prompt Lookup Decoding".
    """

    def __init__(self, count: int, longest: int = 2, eos_token_ids: Sequence[int] = ()) -> None:
        self.count, self.longest = count, longest
        self.eos_token_ids = frozenset(eos_token_ids)

    def propose(self, draft: Draft, most: int) -> Tensor:
        """Return up to `most` tokens that may follow the text, [1, n]."""
        text = draft.text()  # [1, T]
        T = text.shape[1]
        for size in range(min(self.longest, T - 1), 0, -1):
            earlier = text[0, : T - 1].unfold(
                0, size, 1
            )  # [T - size, size]; none of them is the ending itself
            places = (earlier == text[0, T - size :]).all(dim=1).nonzero()  # [found, 1]
            if len(places):
                start = int(places[0]) + size
                ids = text[0, start : start + min(self.count, most)].tolist()
                stop = next((at for at, token in enumerate(ids) if token in self.eos_token_ids), len(ids))
                return text[:, start : start + stop]  # [1, n]
        return text[:, :0]  # [1, 0]

    def learn(self, accepted: int) -> None:
        """Learn nothing: the next draft is as long as this one."""


def check_assistant(assistant: Any, model: Any) -> None:
    """Refuse a model that cannot draft for another.

    Raises:
        InputError: what does not fit, with both numbers.
    """
    if not hasattr(assistant, "prepare_inputs_for_generation"):
        raise InputError(
            f"assistant_model has to be a language model, such as GPT2LMHeadModel, but is a "
            f"{type(assistant).__name__}."
        )
    ours, theirs = model.config.vocab_size, assistant.config.vocab_size
    if ours != theirs:
        raise InputError(
            f"assistant_model has a vocabulary of {theirs} tokens and the model one of {ours}; a token would "
            "not be the same text to both. Take an assistant with the model's own tokenizer."
        )
    if assistant.device != model.device:
        raise InputError(
            f"assistant_model is on {assistant.device} and the model on {model.device}. Move one: "
            "assistant_model.to(model.device)."
        )


def drafter_of(numbers: Assistance, prompt: Prompt, how: Search, plan: GenerationPlan) -> Drafter:
    """Return who drafts in a plan.

    Raises:
        InputError: an assistant whose cross-attention cannot look at the encoder's states.
    """
    if numbers.by_lookup:
        return PromptLookup(numbers.count or 1, numbers.longest, plan.eos_token_ids)
    assistant = how.assistant
    encoder = {}
    if assistant.config.add_cross_attention:
        encoder = {name: prompt.passed_on[name] for name in _OF_THE_ENCODER if name in prompt.passed_on}
        states = encoder.get("encoder_hidden_states")
        if states is not None and states.shape[-1] != assistant.config.n_embd:
            raise InputError(
                f"encoder_hidden_states are {states.shape[-1]} wide, and the cross-attention of "
                f"assistant_model wants {assistant.config.n_embd}. Take an assistant without cross-attention."
            )
    return ModelDrafter(
        assistant, how.processors, plan.eos_token_ids, numbers.count, numbers.schedule, encoder
    )
