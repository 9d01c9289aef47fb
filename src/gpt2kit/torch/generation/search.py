"""Greedy search and sampling in PyTorch: the loop that writes one token a step.

What a step needs is allocated before the first one, and nothing but attention grows with the text.
Dimensions: B rows of text, T tokens of the prompt, S positions so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer
from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.generation.dola import contrast_layers
from gpt2kit.torch.generation.logits import LogitsProcessorList, PrefixConstrainedLogitsProcessor
from gpt2kit.torch.generation.prompt import Prompt
from gpt2kit.torch.generation.record import GreedySearchDecoderOnlyOutput, Record, SampleDecoderOnlyOutput
from gpt2kit.torch.generation.stopping import StoppingCriteriaList, ended_rows

__all__ = [
    "Draft",
    "Search",
    "Written",
    "check_choice",
    "check_shape",
    "choose",
    "ended_by_now",
    "padding",
    "search",
    "step",
    "streaming",
]


@dataclass
class Search:
    """How tokens are chosen, and what ends the text.

    Attributes:
        max_length: Tokens of prompt and text together, at most.
        processors: Rules for the scores.
        sampled: Whether tokens are drawn, or the likeliest is taken.
        criteria: What ends a row or all rows before `max_length`.
        pad_token_id: What fills a row that ends before the others.
        use_cache: Whether keys and values are kept from step to step.
        record: What is kept of every step; None returns the tokens alone.
        streamer: Gets every token as it is made.
        own_code: Whether processors or criteria of the user's see the text.
        warpers: Rules of sampling, which come after the processors; empty where nothing is drawn.
        assistant: The model that drafts for assisted decoding.
        dola: Layers that DoLa may contrast the last one with; empty takes the model's own scores.
    """

    max_length: int
    processors: LogitsProcessorList
    sampled: bool
    criteria: StoppingCriteriaList
    pad_token_id: int | None
    use_cache: bool
    record: Record | None = None
    streamer: BaseStreamer | None = None
    own_code: bool = False
    warpers: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    assistant: Any = None
    dola: tuple[int, ...] = ()


class Draft:
    """The text as it grows, in memory that is allocated once.

    Args:
        prompt: What the text begins with.
        max_length: How many tokens it may grow to.
    """

    def __init__(self, prompt: Prompt, max_length: int) -> None:
        B, T = prompt.ids.shape
        new = max_length - T
        self.ids = prompt.ids.new_empty(B, max_length, dtype=torch.long)  # [B, T + new]
        self.ids[:, :T] = prompt.ids
        self.length = T
        self.positions = prompt.positions
        self.mask = _extended(prompt.mask, lambda mask: mask.new_ones(B, new))  # [B, S + new]
        self.types = _extended(
            prompt.token_type_ids, lambda types: types[:, -1:].expand(B, new)
        )  # [B, T + new]
        self.places = _extended(
            prompt.position_ids,
            lambda places: places[:, -1:] + torch.arange(1, new + 1, device=places.device),  # [B, new]
        )  # [B, S + new]

    def text(self, contiguous: bool = False) -> Tensor:
        """Return the tokens so far, [B, length]; a view, unless it has to be contiguous or gradients flow."""
        view = self.ids[:, : self.length]  # [B, length]
        if torch.is_grad_enabled():  # a backward pass looks them up again, and the view would have changed
            return view.clone()
        return view.contiguous() if contiguous else view

    def append(self, tokens: Tensor) -> None:
        """Add one token to each row."""
        self.ids[:, self.length] = tokens
        self.length += 1
        self.positions += 1

    def take(self, rows: Tensor) -> None:
        """Keep the texts of these rows, in their order and as often as they are named."""
        for name in ("ids", "mask", "types", "places"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value.index_select(0, rows))  # [rows, ...]

    def inputs(self) -> dict[str, Tensor]:
        """Return what the model reads besides the tokens, up to here."""
        found = {}
        if self.mask is not None:
            found["attention_mask"] = self.mask[:, : self.positions]  # [B, S]
        if self.types is not None:
            found["token_type_ids"] = self.types[:, : self.length]  # [B, length]
        return found


def _extended(start: Tensor | None, rest: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return a tensor of the prompt with what follows it, side by side."""
    return None if start is None else torch.cat((start, rest(start)), dim=1)


class Written:
    """What a loop writes: one token for each row at a time, until all rows have ended.

    Args:
        draft: The text, which this makes longer.
        how: What ends it, what fills a row that has ended, and who gets the tokens.
        record: What was kept so far, whose scores a criterion may look at.
    """

    def __init__(self, draft: Draft, how: Search, record: Record) -> None:
        self.draft, self.how, self.record = draft, how, record
        self.ended: Tensor | None = None  # [B], once a row may end before the others
        self.worst: Tensor | None = None  # the lowest score that a token was chosen for

    def is_over_after(self, scores: Tensor, tokens: Tensor) -> bool:
        """Write the tokens that were chosen for these scores, [B] each; tell whether they are the last."""
        draft, how = self.draft, self.how
        if self.ended is not None and len(tokens) > 1:  # one row alone does not go on behind its end
            tokens = torch.where(self.ended, padding(how.pad_token_id), tokens)  # [B]
            scores = torch.where(self.ended, 0, scores)  # [B]
        lowest = scores.detach().min()
        self.worst = lowest if self.worst is None else torch.minimum(self.worst, lowest)
        draft.append(tokens)
        if how.streamer is not None:
            how.streamer.put(tokens.cpu())
        if how.criteria:
            self.ended = ended_by_now(how, draft.text(how.own_code), self.record.scores, self.ended)  # [B]
        return draft.length >= how.max_length or (self.ended is not None and bool(self.ended.all()))

    def close(self) -> Tensor:
        """Tell the streamer that nothing follows, and return the text, [B, T + new].

        Raises:
            InputError: some token was chosen for a score that is none.
        """
        if self.worst is not None:
            check_choice(self.worst)
        if self.how.streamer is not None:
            self.how.streamer.end()
        draft = self.draft
        return draft.ids if draft.length == self.how.max_length else draft.text().clone()  # [B, T + new]


def search(model: Any, prompt: Prompt, how: Search) -> Any:
    """Write on from a prompt, one token for every row at each step.

    Args:
        model: A language model with `prepare_inputs_for_generation`.
        prompt: What the text begins with.
        how: The rules, the ends and what to keep.

    Returns:
        The tokens [B, T + new], or an output with them and what was kept.
    """
    draft = Draft(prompt, how.max_length)
    past, embeds = prompt.past, prompt.embeds
    room = how.max_length - draft.length + draft.positions - 1  # the last token is never read
    if past is None and how.use_cache:
        past = GPT2Cache.empty(model.config, capacity=room)
    record = how.record or Record()
    written = Written(draft, how, record)
    while True:
        outputs = step(model, prompt, draft, past, embeds, how)
        past = outputs.past_key_values
        text = draft.text(how.own_code)  # [B, length]
        logits = contrast_layers(model, outputs, how.dola) if how.dola else outputs.logits[:, -1, :]  # [B, V]
        scores = how.warpers(text, how.processors(text, logits))  # [B, V]
        if how.own_code:
            check_shape(scores, outputs.logits)
        record.add(scores, outputs)
        if written.is_over_after(*choose(scores, how.sampled)):
            break
        if embeds is not None and past is None:  # without a cache, every step reads all embeddings again
            last = draft.text()[:, -1:]  # [B, 1]
            embeds = torch.cat((embeds, model.get_input_embeddings()(last)), dim=1)  # [B, S, D]
    sequences = written.close()  # [B, T + new]
    if how.record is None:
        return sequences
    kind = SampleDecoderOnlyOutput if how.sampled else GreedySearchDecoderOnlyOutput
    return kind(sequences=sequences, **record.fields())


def step(
    model: Any, prompt: Prompt, draft: Draft, past: GPT2Cache | None, embeds: Tensor | None, how: Search
) -> Any:
    """Run the model on what the past has not seen yet."""
    seen = 0 if past is None else past.get_seq_length()
    inputs = model.prepare_inputs_for_generation(
        draft.text(),
        past_key_values=past if seen else None,
        inputs_embeds=embeds,
        use_cache=how.use_cache,
        **draft.inputs(),
        **prompt.passed_on,
    )
    if not seen and inputs.get("past_key_values") is None:  # a subclass may begin with a past of its own
        inputs["past_key_values"] = past
    if draft.places is not None:
        inputs["position_ids"] = draft.places[:, seen : draft.positions]  # [B, positions read]
    return model(
        **inputs,
        return_dict=True,
        output_attentions=how.record is not None and how.record.attentions is not None,
        output_hidden_states=bool(how.dola)
        or (how.record is not None and how.record.hidden_states is not None),
        logits_to_keep=1,
    )


def choose(scores: Tensor, sampled: bool) -> tuple[Tensor, Tensor]:
    """Return the score and the token that are chosen for each row, [B] each."""
    if not sampled:
        return scores.max(dim=-1)  # [B] each
    probabilities = scores.softmax(dim=-1)  # [B, V]
    try:
        tokens = torch.multinomial(probabilities, num_samples=1)  # [B, 1]; the generator is used as in 4.34
    except RuntimeError:
        check_choice(scores.amax(dim=-1).min())
        raise
    return scores.gather(1, tokens).squeeze(1), tokens.squeeze(1)  # [B] each


def check_shape(scores: Any, logits: Tensor) -> None:
    """Refuse what a processor of the user's returned if it is not one score for each row and token.

    Raises:
        InputError: the shape that is wanted and what came.
    """
    wanted = [logits.shape[0], logits.shape[-1]]
    if not isinstance(scores, Tensor) or list(scores.shape) != wanted:
        came = list(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise InputError(
            f"Logits processors have to return scores of the shape {wanted}, but returned {came}."
        )


def check_choice(score: Tensor) -> None:
    """Refuse a text for which no token was left to choose, or whose scores were no numbers.

    This is looked at once, after the loop: doing so at each step would wait for the device.

    Raises:
        InputError: what the lowest chosen score was, and what may be done.
    """
    value = float(score)
    if value != value:
        raise InputError(
            "The model gave NaN for scores. Look for NaN in its weights, use a wider dtype, or pass "
            "remove_invalid_values=True to go on regardless."
        )
    if value == -float("inf"):
        raise InputError(
            "The rules barred every token of the vocabulary at some step, so none could be chosen. Loosen "
            "the rules, which gpt2kit.generation.make_plan(...) lists in their order."
        )


def padding(pad_token_id: int | None) -> int:
    """Return the token that fills a row, or refuse to go on without one."""
    if pad_token_id is None:
        raise InputError(
            "A row has ended before the others, and there is no `pad_token_id` to fill it with. Pass one, "
            "such as "
            "the tokenizer's end token."
        )
    return pad_token_id


def ended_by_now(
    how: Search, text: Tensor, scores: list[Tensor] | None, ended: Tensor | None
) -> Tensor | None:
    """Return which rows have ended by now, [B]; None while no criterion can say of single rows.

    A criterion that answers with a plain False costs nothing on the device.
    """
    for criterion in how.criteria:
        answer = criterion(text, scores)
        if isinstance(answer, Tensor) or answer:
            rows = ended_rows(answer, text)  # [B]
            ended = rows if ended is None else ended | rows  # [B]
    for rule in how.processors:
        if isinstance(rule, PrefixConstrainedLogitsProcessor):
            rule.ended = ended  # the user's function has no answer for a row that has ended
    return ended


def streaming(streamer: BaseStreamer | None) -> AbstractContextManager[Any]:
    """Return the context that tells a streamer of an error; a streamer of another library is not told."""
    return streamer if isinstance(streamer, BaseStreamer) else nullcontext()
