"""Contrastive search: of the k likeliest tokens, the one that says something new.

A candidate v is worth (1 - alpha) p(v) - alpha max_j cos(h_v, h_j): the model's confidence, less how much its
hidden state resembles that of any position so far. The k candidates of a step are read in one call: they go
on from the same keys and values, each hidden from the others, so that nothing of the past is copied.
Dimensions: B rows of text, k candidates, S positions so far, D n_embd, H heads, V vocabulary.

Source:
    Su et al. 2022, "A Contrastive Framework for Neural Text Generation", section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation.way import Contrast
from gpt2kit.outputs import ModelOutput
from gpt2kit.torch.cache import GPT2Cache, cache_of
from gpt2kit.torch.prompt import Prompt
from gpt2kit.torch.record import Record
from gpt2kit.torch.search import (
    Draft,
    Search,
    check_choice,
    check_shape,
    ended_by_now,
    padding,
    step,
)

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
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None


@dataclass
class _Read:
    """What the model gave for the last position of a text, in the names that `Record` keeps."""

    logits: Tensor
    hidden_states: Any
    attentions: Any


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

    def append(self, directions: Tensor) -> None:
        """Add the direction of the position that was chosen, [B, D]."""
        self.directions[:, self.length] = directions
        self.length += 1


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
    _check_prompt(prompt)
    draft = Draft(prompt, how.max_length)
    room = how.max_length - draft.length + draft.positions + contrast.top_k - 1
    past = GPT2Cache.empty(model.config, capacity=min(room, model.config.n_positions))
    first = replace(how, use_cache=True, record=_with_states(how.record))
    outputs = step(model, prompt, draft, past, prompt.embeds, first)
    past = cache_of(outputs, "Contrastive search")
    context = _Context(outputs.hidden_states[-1], prompt.mask, how.max_length - draft.length)
    read = _Read(outputs.logits[:, -1, :], outputs.hidden_states, outputs.attentions)
    record = how.record or Record()
    ended: Tensor | None = None  # [B], once a row may end before the others
    worst: Tensor | None = None  # the lowest score that a token was chosen for
    while True:
        text = draft.text(how.own_code)  # [B, length]
        scores = how.processors(text, read.logits)  # [B, V]
        if how.own_code:
            check_shape(scores, read.logits)
        record.add(scores, read)
        best, candidates = scores.topk(contrast.top_k, dim=-1)  # [B, k] each
        confidence = scores.softmax(dim=-1).gather(1, candidates)  # [B, k]
        found, past = _read_candidates(model, prompt, draft, past, candidates, how, contrast.one_by_one)
        directions = _direction(found.hidden_states[-1])  # [B, k, D]
        alpha = contrast.penalty_alpha
        worth = (1.0 - alpha) * confidence - alpha * context.resemblance(directions)  # [B, k]
        chosen = worth.masked_fill(best == _NEVER, _NEVER).argmax(dim=-1)  # [B]; none that a rule bars
        rows = torch.arange(len(chosen), device=chosen.device)  # [B]
        start = past.get_seq_length() - contrast.top_k
        read = _chosen(found, chosen, start, record)
        past = past.keep_branch(start, chosen)
        context.append(directions[rows, chosen])
        tokens, reached = candidates[rows, chosen], best[rows, chosen]  # [B] each
        if ended is not None:
            tokens = torch.where(ended, padding(how.pad_token_id), tokens)  # [B]
            reached = torch.where(ended, 0, reached)  # [B]
        worst = reached.min() if worst is None else torch.minimum(worst, reached.min())
        draft.append(tokens)
        if how.streamer is not None:
            how.streamer.put(tokens.cpu())
        if how.criteria:
            ended = ended_by_now(how, draft.text(how.own_code), record.scores, ended)  # [B]
        if draft.length >= how.max_length or (ended is not None and bool(ended.all())):
            break
    check_choice(worst)
    if how.streamer is not None:
        how.streamer.end()
    sequences = draft.ids if draft.length == how.max_length else draft.text().clone()  # [B, length]
    if how.record is None:
        return sequences
    return ContrastiveSearchDecoderOnlyOutput(sequences=sequences, **record.fields())


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
        read.append(_Read(outputs.logits, outputs.hidden_states, _own_places(outputs.attentions, start)))
    if len(read) == 1:
        return read[0], past
    together = _Read(
        torch.cat([each.logits for each in read], dim=1),  # [B, k, V]
        tuple(torch.cat(layer, dim=1) for layer in zip(*(e.hidden_states for e in read), strict=True)),
        read[0].attentions
        and tuple(torch.cat(layer, dim=2) for layer in zip(*(e.attentions for e in read), strict=True)),
    )
    return together, past


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


def _chosen(found: _Read, chosen: Tensor, start: int, record: Record) -> _Read:
    """Return what the model gave for the candidate that was chosen in each row, [B]."""
    rows = torch.arange(len(chosen), device=chosen.device)  # [B]
    states = attentions = None
    if record.hidden_states is not None:
        states = tuple(layer[rows, chosen][:, None] for layer in found.hidden_states)  # [B, 1, D] each
    if record.attentions is not None:
        attentions = tuple(
            layer[rows, :, chosen][:, :, None] for layer in found.attentions
        )  # [B, H, 1, S + 1]
    return _Read(found.logits[rows, chosen], states, attentions)  # [B, V]


def _direction(states: Tensor) -> Tensor:
    """Return states [..., D] with length 1."""
    return states / states.norm(dim=-1, keepdim=True)  # [..., D]


def _with_states(record: Record | None) -> Record:
    """Return what the prompt's step has to keep: the hidden states, and the attentions where asked for."""
    return Record(attentions=None if record is None else record.attentions, hidden_states=[])


def _check_prompt(prompt: Prompt) -> None:
    if prompt.past is not None:
        raise InputError(
            "Contrastive search compares each candidate with the hidden states of the whole text, and "
            "past_key_values do not hold them. Leave past_key_values out."
        )
