"""Assisted decoding: tokens are drafted cheaply, and the model checks a whole draft in one call.

The model chooses at each place exactly as it would without a draft, by the same rules and in the order of
random draws of plain decoding; a drafted token only spares the call that would have made its successor. So
the text, the scores and, for the same seed, the draws are those of `greedy_search` and `sample`.
Dimensions: T tokens so far, n drafted tokens, H heads, S positions so far, D n_embd, V vocabulary; one row.

Source:
    Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", with 4.34's rule: a
    drafted token is kept where it is the one that the model itself chooses.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.torch.cache import GPT2Cache, cache_of
from gpt2kit.torch.generation.draft import Drafter
from gpt2kit.torch.generation.prompt import Prompt
from gpt2kit.torch.generation.record import GreedySearchDecoderOnlyOutput, Record
from gpt2kit.torch.generation.search import Draft, Search, Written, check_shape, choose

__all__ = ["AssistedDecoderOnlyOutput", "assisted_generation"]

_logger = logging.getLogger(__name__)


@dataclass
class AssistedDecoderOnlyOutput(GreedySearchDecoderOnlyOutput):
    """What assisted decoding returns: that of plain decoding, and how good the drafts were.

    Attributes:
        sequences: As in `GreedySearchDecoderOnlyOutput`, like all that is not listed here.
        drafted: Tokens that were drafted.
        accepted: How many of them are in the text.
    """

    drafted: int | None = None
    accepted: int | None = None


def assisted_generation(model: Any, prompt: Prompt, how: Search, drafter: Drafter) -> Any:
    """Write on from one prompt, checking drafts.

    Args:
        model: A language model with `prepare_inputs_for_generation` that returns a cache.
        prompt: What the text begins with; one row of tokens.
        how: The rules, the ends and what to keep.
        drafter: Who proposes tokens.

    Returns:
        The tokens [1, T + new], or an output with them and what was kept.

    Raises:
        InputError: a prompt without tokens, or a model that keeps no cache.
    """
    _check_prompt(prompt)
    draft = Draft(prompt, how.max_length)
    past = prompt.past
    if past is None:
        past = GPT2Cache.empty(model.config, capacity=max(how.max_length - 1, 1))
    record = how.record or Record()
    written = Written(draft, how, record)
    drafted = accepted = 0
    over = False
    while not over:
        guesses = drafter.propose(draft, how.max_length - draft.length - 1)  # [1, n]
        seen, read = past.get_seq_length(), draft.positions - past.get_seq_length()
        outputs = _check(model, prompt, draft, past, guesses, how)
        past = cache_of(outputs, "Assisted decoding")
        right = 0
        for number, guess in enumerate([*guesses[0].tolist(), None]):
            text = draft.text(how.own_code)  # [1, length]
            logits = outputs.logits[:, number, :]  # [1, V]
            scores = how.warpers(text, how.processors(text, logits))  # [1, V]
            if how.own_code:
                check_shape(scores, logits)
            record.add(scores, _part(outputs, record, number, seen, read))
            best, token = choose(scores, how.sampled)  # [1] each
            over = written.is_over_after(best, token)
            is_right = guess is not None and int(token) == guess
            right += is_right
            if over or not is_right:
                break
        past = past.rewind(draft.positions - 1)
        drafter.learn(right)
        drafted, accepted = drafted + guesses.shape[1], accepted + right
    sequences = written.close()  # [1, T + new]
    _logger.info("%d of %d drafted tokens are in the text.", accepted, drafted)
    if how.record is None:
        return sequences
    return AssistedDecoderOnlyOutput(
        sequences=sequences, **record.fields(), drafted=drafted, accepted=accepted
    )


def _check(model: Any, prompt: Prompt, draft: Draft, past: GPT2Cache, guesses: Tensor, how: Search) -> Any:
    """Run the model on what the past has not seen yet and the drafted tokens behind it, [1, n].

    Returns:
        Its output, with logits [1, n + 1, V]: for the token after the text, and after each drafted one.
    """
    n, seen = guesses.shape[1], past.get_seq_length()
    whole, positions = draft.length + n, draft.positions + n
    draft.ids[:, draft.length : whole] = guesses  # free places, which the next token overwrites
    extra = {}
    if draft.mask is not None:
        extra["attention_mask"] = draft.mask[:, :positions]  # [1, S + n]
    if draft.types is not None:
        extra["token_type_ids"] = draft.types[:, :whole]  # [1, T + n]
    inputs = model.prepare_inputs_for_generation(
        draft.ids[:, :whole],  # [1, T + n]
        past_key_values=past if seen else None,
        use_cache=True,
        **extra,
        **prompt.passed_on,
    )
    if inputs["input_ids"].shape[1] != positions - seen:
        raise InputError(
            f"Assisted decoding reads {positions - seen} tokens at once, but prepare_inputs_for_generation "
            f"of {type(model).__name__} returned {inputs['input_ids'].shape[1]}. Return all tokens that the "
            "past has not seen."
        )
    if not seen:
        inputs["past_key_values"] = past
    if draft.places is not None:
        inputs["position_ids"] = draft.places[:, seen:positions]  # [1, positions read]
    return model(
        **inputs,
        return_dict=True,
        output_attentions=how.record is not None and how.record.attentions is not None,
        output_hidden_states=how.record is not None and how.record.hidden_states is not None,
        logits_to_keep=n + 1,
    )


def _part(outputs: Any, record: Record, number: int, seen: int, read: int) -> Any:
    """Return what plain decoding would have kept of one token.

    Args:
        outputs: Of the call that read `read` positions of the text and the drafted tokens.
        record: What is kept.
        number: Which of the call's new tokens it is, from 0.
        seen: Positions that the past held before the call.
        read: Positions of the text that the call read.
    """
    start, stop = (0, read) if number == 0 else (read + number - 1, read + number)
    part = SimpleNamespace(attentions=None, hidden_states=None, cross_attentions=None)
    if record.attentions is not None:
        part.attentions = tuple(
            weights[:, :, start:stop, : seen + stop] for weights in outputs.attentions
        )  # [1, H, positions, S] each
    cross_attentions = getattr(outputs, "cross_attentions", None)  # an output of two heads has no such field
    if record.attentions is not None and cross_attentions is not None:
        part.cross_attentions = tuple(
            weights[:, :, start:stop] for weights in cross_attentions
        )  # [1, H, positions, E] each
    if record.hidden_states is not None:
        part.hidden_states = tuple(layer[:, start:stop] for layer in outputs.hidden_states)  # [1, ., D] each
    return part


def _check_prompt(prompt: Prompt) -> None:
    B, T = prompt.ids.shape
    if B != 1:
        raise InputError(
            f"Assisted decoding writes one text at a time, but there are {B} prompts. Call it for each."
        )
    if prompt.embeds is not None or prompt.positions != T:
        raise InputError(
            "Assisted decoding drafts from the tokens of the whole text, but inputs_embeds or a past stand "
            "for a part of it. Give all tokens as input_ids."
        )
