"""Contrastive search: of the k likeliest tokens, the one that says something new.

A candidate v is worth (1 - alpha) p(v) - alpha max_j cos(h_v, h_j): the model's confidence, less how much its
hidden state resembles that of any position so far. The k candidates of a step are read in one call: they go
on from the same keys and values, each hidden from the others, so that nothing of the past is copied.
Dimensions: B rows of text, k candidates, S positions so far, D n_embd, H heads, E encoder positions,
V vocabulary.

Source:
    Su et al. 2022, "A Contrastive Framework for Neural Text Generation", section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation.way import Contrast
from gpt2kit.outputs import ModelOutput
from gpt2kit.torch.cache import GPT2Cache, cache_of
from gpt2kit.torch.generation.prompt import Prompt
from gpt2kit.torch.generation.record import Record
from gpt2kit.torch.generation.search import Draft, Search, Written, check_shape, step

__all__ = ["ContrastiveSearchDecoderOnlyOutput", "contrastive_search"]

_NEVER = -float("inf")


@dataclass
class ContrastiveSearchDecoderOnlyOutput(ModelOutput):
    """What contrastive search returns with `return_dict_in_generate=True`.

    Attributes:
        sequences: Prompt and text, [B, T + new tokens].
        scores: For each new token the scores that the candidates were taken from, [B, V] each.
        attentions: For each new token and each layer, what the token before it saw: [B, H, T, T] of the
            prompt, then [B, H, 1, S].
        hidden_states: Likewise, embeddings and each layer: [B, T, D], then [B, 1, D].
        cross_attentions: Likewise, [B, H, T, E], then [B, H, 1, E]; where there is an encoder.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None


@dataclass
class _Read:
    """What the model gave for the last position of a text, in the names that `Record` keeps."""

    logits: Tensor
    hidden_states: Any
    attentions: Any
    cross_attentions: Any


class _Context:
    """The directions of all positions so far, in memory that is allocated once.

    Args:
        states: Last hidden states of the prompt, [B, S, D].
        mask: 0 for the positions that are padding, [B, S]; None where there are none.
        new: Positions that may follow.
    """

    def __init__(self, states: Tensor, mask: Tensor | None, new: int) -> None:
        B, S, D = states.shape
        self.directions = states.new_empty(B, S + new, D)  # [B, S + new, D]
        self.directions[:, :S] = _direction(states)
        self.padding = None if mask is None else (mask == 0)[..., None]  # [B, S, 1]
        self.length = S

    def resemblance(self, directions: Tensor) -> Tensor:
        """Return the largest cosine of each candidate [B, k, D] with any position so far, [B, k]."""
        cosines = self.directions[:, : self.length] @ directions.transpose(1, 2)  # [B, S, k]
        if self.padding is not None:
            prompt = cosines[:, : self.padding.shape[1]]  # [B, T, k], a view
            prompt.masked_fill_(self.padding, _NEVER)
        return cosines.amax(dim=1)  # [B, k]

    def choose(self, confidence: Tensor, barred: Tensor, states: Tensor, alpha: float) -> Tensor:
        """Return the number of each row's best candidate, [B], and go on with it.

        Args:
            confidence: Probability of each candidate, [B, k].
            barred: Which of them a rule bars, [B, k].
            states: Last hidden state of each, [B, k, D].
            alpha: What resemblance costs.
        """
        directions = _direction(states)  # [B, k, D]
        worth = (1.0 - alpha) * confidence - alpha * self.resemblance(directions)  # [B, k]
        chosen = worth.masked_fill(barred, _NEVER).argmax(dim=-1)  # [B]
        self.directions[:, self.length] = directions[_rows(chosen), chosen]
        self.length += 1
        return chosen


def contrastive_search(model: Any, prompt: Prompt, how: Search, contrast: Contrast) -> Any:
    """Write on from a prompt; at each step the best of the k likeliest tokens by confidence and novelty.

    Args:
        model: A language model with `prepare_inputs_for_generation` that returns a cache.
        prompt: What the text begins with.
        how: The rules, the ends and what to keep.
        contrast: How many candidates, and what resemblance costs.

    Returns:
        The tokens [B, T + new], or an output with them and what was kept.

    Raises:
        InputError: a past without its hidden states, or a model that keeps no cache.
    """
    draft = Draft(prompt, how.max_length)
    past, context, read = _begin(model, prompt, draft, how, contrast.top_k)
    record = how.record or Record()
    written = Written(draft, how, record)
    while True:
        text = draft.text(how.own_code)  # [B, length]
        scores = how.processors(text, read.logits)  # [B, V]
        if how.own_code:
            check_shape(scores, read.logits)
        record.add(scores, read)
        best, candidates = scores.topk(contrast.top_k, dim=-1)  # [B, k] each
        confidence = scores.softmax(dim=-1).gather(1, candidates)  # [B, k]
        found, past = _read_candidates(model, prompt, draft, past, candidates, how, contrast.one_by_one)
        states = found.hidden_states[-1]  # [B, k, D]
        chosen = context.choose(confidence, best == _NEVER, states, contrast.penalty_alpha)  # [B]
        read = _chosen(found, chosen, record)
        past = past.keep_branch(past.get_seq_length() - contrast.top_k, chosen)
        rows = _rows(chosen)  # [B]
        if written.is_over_after(best[rows, chosen], candidates[rows, chosen]):  # [B] each
            break
    sequences = written.close()  # [B, T + new]
    if how.record is None:
        return sequences
    return ContrastiveSearchDecoderOnlyOutput(sequences=sequences, **record.fields())


def _begin(
    model: Any, prompt: Prompt, draft: Draft, how: Search, top_k: int
) -> tuple[GPT2Cache, _Context, _Read]:
    """Read the prompt: return its keys and values, its directions, and what the model gave."""
    if prompt.past is not None:
        raise InputError(
            "Contrastive search compares each candidate with the hidden states of the whole text, and "
            "past_key_values do not hold them. Leave past_key_values out."
        )
    new = how.max_length - draft.length
    room = min(draft.positions + new + top_k - 1, model.config.n_positions)
    kept = Record(attentions=None if how.record is None else how.record.attentions, hidden_states=[])
    first = replace(how, use_cache=True, record=kept)
    outputs = step(model, prompt, draft, GPT2Cache.empty(model.config, room), prompt.embeds, first)
    states = outputs.hidden_states
    read = _Read(
        outputs.logits[:, -1, :], states, outputs.attentions, getattr(outputs, "cross_attentions", None)
    )
    return cache_of(outputs, "Contrastive search"), _Context(states[-1], prompt.mask, new), read


# ---------------------------------------------------------------------- reading the candidates


def _read_candidates(
    model: Any,
    prompt: Prompt,
    draft: Draft,
    past: GPT2Cache,
    candidates: Tensor,
    how: Search,
    one_by_one: bool,
) -> tuple[_Read, GPT2Cache]:
    """Read candidates [B, k] that all go on from the same past, and leave the keys of each behind it.

    Returns:
        Logits [B, k, V], hidden states [B, k, D] and attentions [B, H, k, S + 1] of the candidates, and the
        cache of S + k positions.
    """
    start, k = past.get_seq_length(), candidates.shape[1]
    width = 1 if one_by_one else k
    read = []
    for first in range(0, k, width):
        part = candidates[:, first : first + width]  # [B, width]
        inputs = _inputs(model, prompt, draft, past, part)
        if inputs["input_ids"].shape != part.shape:  # a model that prepares one token at a time
            return _read_candidates(model, prompt, draft, past, candidates, how, True)
        inputs["attention_mask"] = _branches(draft, start, first, width)  # [B, width, S + first + width]
        if draft.places is not None:
            inputs["position_ids"] = draft.places[:, start : start + 1].expand_as(part)  # [B, width]
        outputs = model(
            **inputs,
            return_dict=True,
            output_attentions=how.record is not None and how.record.attentions is not None,
            output_hidden_states=True,
            logits_to_keep=width,
        )
        past = cache_of(outputs, "Contrastive search")
        weights = _own_places(outputs.attentions, start)  # [B, H, width, S + 1] each
        read.append(
            _Read(outputs.logits, outputs.hidden_states, weights, getattr(outputs, "cross_attentions", None))
        )
    return read[0] if len(read) == 1 else _together(read), past


def _together(read: Sequence[_Read]) -> _Read:
    """Return what was read one by one as if it had been read in one call."""

    def joined(name: str, dim: int) -> Any:
        layers = [getattr(each, name) for each in read]
        return layers[0] and tuple(torch.cat(layer, dim=dim) for layer in zip(*layers, strict=True))

    return _Read(
        torch.cat([each.logits for each in read], dim=1),  # [B, k, V]
        joined("hidden_states", 1),  # [B, k, D] each
        joined("attentions", 2),  # [B, H, k, S + 1] each
        joined("cross_attentions", 2),  # [B, H, k, E] each
    )


def _inputs(model: Any, prompt: Prompt, draft: Draft, past: GPT2Cache, part: Tensor) -> dict[str, Any]:
    """Return the arguments of `forward` for some candidates, [B, width], as the model prepares them."""
    types = {}
    if draft.types is not None:
        so_far = draft.types[:, : draft.length]  # [B, length]
        types["token_type_ids"] = torch.cat((so_far, so_far[:, -1:].expand_as(part)), dim=1)
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(
        torch.cat((draft.text(), part), dim=1),  # [B, length + width]
        past_key_values=past,
        use_cache=True,
        **types,
        **prompt.passed_on,
    )
    return inputs


def _branches(draft: Draft, start: int, first: int, width: int) -> Tensor:
    """Return which positions each candidate sees: the text, and of the candidates itself alone.

    Args:
        draft: The text.
        start: S, its positions.
        first: Candidates that were read before these.
        width: Candidates now.

    Returns:
        [B, width, S + first + width], with 1 for what is seen.
    """
    B = draft.ids.shape[0]
    mask = torch.zeros(B, width, start + first + width, device=draft.ids.device)  # [B, width, S + ...]
    mask[:, :, :start] = 1 if draft.mask is None else draft.mask[:, None, :start]
    mask[:, :, start + first :] = torch.eye(width, device=mask.device)  # [width, width]
    return mask


def _own_places(attentions: Any, start: int) -> Any:
    """Return the weights [B, H, width, S + 1] of candidates without those, all 0, on other candidates."""
    if attentions is None:
        return None
    own = []
    for weights in attentions:  # [B, H, width, S + first + width]
        width = weights.shape[2]
        itself = weights[..., -width:].diagonal(dim1=-2, dim2=-1)[..., None]  # [B, H, width, 1]
        own.append(torch.cat((weights[..., :start], itself), dim=-1))  # [B, H, width, S + 1]
    return tuple(own)


def _chosen(found: _Read, chosen: Tensor, record: Record) -> _Read:
    """Return what the model gave for the candidate that was chosen in each row, [B]."""
    rows = _rows(chosen)  # [B]

    def of_row(layers: Any) -> Any:
        return layers and tuple(layer[rows, :, chosen][:, :, None] for layer in layers)  # [B, H, 1, .] each

    states = None
    if record.hidden_states is not None:
        states = tuple(layer[rows, chosen][:, None] for layer in found.hidden_states)  # [B, 1, D] each
    logits = found.logits[rows, chosen]  # [B, V]
    return _Read(logits, states, of_row(found.attentions), of_row(found.cross_attentions))


def _direction(states: Tensor) -> Tensor:
    """Return states [..., D] with length 1."""
    return states / states.norm(dim=-1, keepdim=True)  # [..., D]


def _rows(chosen: Tensor) -> Tensor:
    """Return the number of each row, [B], to index with beside what was chosen in it."""
    return torch.arange(len(chosen), device=chosen.device)  # [B]
