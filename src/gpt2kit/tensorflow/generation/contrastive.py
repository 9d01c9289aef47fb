"""Contrastive search in TensorFlow: of the k likeliest tokens, the one that says something new.

A candidate v is worth (1 - alpha) p(v) - alpha max_j cos(h_v, h_j): the model's confidence, less how much its
hidden state resembles that of any position so far. The k candidates of a step are read in one call: they go
on from the same keys and values, each hidden from the others, so that nothing of the past is copied. All
shapes are fixed, so that the loop runs step by step as well as in a compiled program.

Dimensions: B rows of text, k candidates, T tokens of a text that have room, S positions so far, C places of
the cache, D n_embd, H heads, K width of a head, E encoder positions, V vocabulary.

Source:
    Su et al. 2022, "A Contrastive Framework for Neural Text Generation", section 4.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gpt2kit.generation import GenerationPlan
from gpt2kit.generation.way import Contrast
from gpt2kit.tensorflow.cache import pair, write
from gpt2kit.tensorflow.generation.compiled import Given, cut, run
from gpt2kit.tensorflow.generation.prompt import Prompt
from gpt2kit.tensorflow.generation.reader import Layers, Reader
from gpt2kit.tensorflow.generation.record import Record, TFContrastiveSearchDecoderOnlyOutput
from gpt2kit.tensorflow.generation.search import Search, begun, ended_by
from gpt2kit.tensorflow.mask import score_dtype

__all__ = ["contrastive_search"]

_NEVER = -float("inf")


def contrastive_search(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan, compiled: bool) -> Any:
    """Write on from a prompt; at each step the best of the k likeliest tokens by confidence and novelty.

    Args:
        model: Keeps the compiled programs.
        prompt: What the texts begin with.
        how: The rules and the ends.
        plan: How many candidates, and what resemblance costs.
        compiled: Whether this is a program or a part of a graph.

    Returns:
        The texts [B, up to max_length], or an output with them and what was kept; in a graph they are as
        long as they may be.
    """
    contrast = plan.contrast
    assert contrast is not None

    def search(reader: Reader, given: Given, places: int) -> Any:
        return _search(reader, given, places, contrast)

    def alpha(places: int) -> Any:  # data, so that another one compiles nothing
        return np.float64(contrast.penalty_alpha)  # []

    own = compiled and tf.executing_eagerly()
    text = cut(*run(model, Given(prompt, how), plan, search, ("contrast", contrast.top_k), own, alpha))
    if how.record is None:
        return text
    return TFContrastiveSearchDecoderOnlyOutput(sequences=text, **how.record.fields())


class _Read(NamedTuple):
    """What the model gave for the last position of each row, in the names that `Record` keeps.

    Attributes:
        logits: [B, V]
        hidden_states: Of each layer, if they are kept.
        attentions: Likewise.
        cross_attentions: Likewise.
    """

    logits: Any
    hidden_states: Any
    attentions: Any
    cross_attentions: Any


class _State(NamedTuple):
    """A contrastive search between two steps.

    Attributes:
        text: Prompt and text, padding behind, [B, T].
        length: Tokens so far, [].
        ended: Which rows have ended, [B].
        worst: The lowest score that a token of each row was chosen for, [B]; NaN where one was no number.
        past: Keys and values of all positions so far, [B, H, C, K] each.
        context: Their directions, last hidden states of length 1, [B, C, D].
        read: What the model gave for the last of them.
    """

    text: Any
    length: Any
    ended: Any
    worst: Any
    past: Layers
    context: Any
    read: _Read


def _search(reader: Reader, given: Given, places: int, contrast: Contrast) -> tuple[Any, Any, Any]:
    """Return the texts [B, T], their length, and the lowest score of a chosen token of each, [B]."""
    prompt, how, alpha = given
    record, k = how.record or Record(), contrast.top_k
    columns = tf.range(places)  # [T]

    def goes_on(*state: Any) -> Any:
        now = _State(*state)
        return (now.length < how.max_length) & ~tf.reduce_all(now.ended)

    def step(*state: Any) -> _State:
        now = _State(*state)
        scores = how.processors(now.text, now.read.logits, now.length)  # [B, V]
        record.add(scores, now.read)
        best, candidates = tf.math.top_k(scores, k)  # [B, k] each
        confidence = tf.gather(tf.nn.softmax(scores), candidates, axis=1, batch_dims=1)  # [B, k]
        start = prompt.positions + now.length - prompt.length  # []; S
        seen = (prompt.mask != 0) & (tf.range(reader.places) < start)  # [B, C]
        found = _read_candidates(reader, prompt, now, candidates, seen, record, contrast.one_by_one)
        directions = _direction(found.states)  # [B, k, D]
        likeness = _resemblance(directions, now.context, seen)  # [B, k]
        cost = tf.cast(alpha, scores.dtype)  # []
        worth = (1 - cost) * confidence - cost * likeness  # [B, k]
        chosen = tf.argmax(tf.where(best == _NEVER, best, worth), axis=1, output_type=tf.int32)  # [B]
        broken = tf.reduce_any(tf.math.is_nan(scores), axis=1) | tf.reduce_any(
            tf.math.is_nan(worth) & (best > _NEVER), axis=1
        )  # [B]
        value = tf.where(broken, tf.constant(float("nan"), scores.dtype), _of(best, chosen, 1)[:, 0])  # [B]
        token = tf.where(now.ended, how.pad_token_id, _of(candidates, chosen, 1)[:, 0])  # [B]
        return _State(
            text=tf.where(columns == now.length, token[:, None], now.text),  # [B, T]
            length=now.length + 1,
            ended=now.ended | ended_by(token, how.eos_token_ids),  # [B]
            worst=tf.where(now.ended, now.worst, tf.minimum(now.worst, value)),  # [B]
            past=_with(now.past, found.layers, chosen, start),
            context=_put(now.context, _of(directions, chosen, 1), start),  # [B, C, D]
            read=_chosen(found, chosen, start, reader.places, scores.dtype),
        )

    state = _State(*tf.while_loop(goes_on, step, _begin(reader, prompt, how, places, record)))
    unwritable = ~(state.worst > _NEVER)[:, None] & (columns >= prompt.length)  # [B, T]
    return tf.where(unwritable, -1, state.text), state.length, state.worst  # [B, T], [], [B]


def _begin(reader: Reader, prompt: Prompt, how: Search, places: int, record: Record) -> _State:
    """Read the prompt, and return the state before the first step."""
    output, past = reader.whole_prompt(prompt, **_asked(record))
    scores = reader.scores(output, prompt.positions - 1)  # [B, V]
    states = output.last_hidden_state  # [B, S, D]
    context = tf.pad(_direction(states), [[0, 0], [0, reader.places - states.shape[1]], [0, 0]])  # [B, C, D]
    shown = tf.gather(prompt.mask, prompt.positions - 1, axis=1)  # [B]
    infinity = tf.constant(float("inf"), scores.dtype)
    kept = (output.hidden_states, output.attentions, output.cross_attentions)
    return _State(
        text=begun(prompt, places, how.pad_token_id),  # [B, T]
        length=tf.convert_to_tensor(prompt.length, tf.int32),
        ended=tf.zeros(scores.shape[0], tf.bool),  # [B]
        worst=tf.where(shown == 0, infinity - infinity, infinity),  # [B]; after padding, nothing
        past=past,
        context=context,
        read=_Read(scores, *(layers or () for layers in kept)),
    )


# ---------------------------------------------------------------------- reading the candidates


class _Found(NamedTuple):
    """What the model gave for the candidates.

    Attributes:
        states: Last hidden states, [B, k, D].
        logits: [B, k, V]
        layers: Keys and values of the candidates alone, [B, H, k, K] each.
        hidden_states: [B, k, D] each, if they are kept.
        attentions: [B, H, k, C + 1] each, likewise.
        cross_attentions: [B, H, k, E] each, likewise.
    """

    states: Any
    logits: Any
    layers: Layers
    hidden_states: Any
    attentions: Any
    cross_attentions: Any


# Which axis of each field of `_Found` counts candidates.
_AXES = (1, 1, 2, 1, 2, 2)


def _read_candidates(
    reader: Reader, prompt: Prompt, now: _State, candidates: Any, seen: Any, record: Record, one_by_one: bool
) -> _Found:
    """Read candidates [B, k] that all go on from the same past, of which they see the places seen [B, C]."""
    k = candidates.shape[1]
    width = 1 if one_by_one else k
    parts = []
    for first in range(0, k, width):
        part = candidates[:, first : first + width]  # [B, width]
        parts.append(_read_at_once(reader, prompt, now, part, seen, record))
    if len(parts) == 1:
        return parts[0]
    together = []
    for axis, fields in zip(_AXES, zip(*parts, strict=True), strict=True):
        together.append(tf.nest.map_structure(lambda *each, axis=axis: tf.concat(each, axis), *fields))
    return _Found(*together)


def _read_at_once(
    reader: Reader, prompt: Prompt, now: _State, part: Any, seen: Any, record: Record
) -> _Found:
    """Read some candidates, [B, k], each hidden from the others."""
    B, k = part.shape
    C = reader.places
    before = tf.repeat(tf.cast(seen, tf.int32)[:, None], k, axis=1)  # [B, k, C]
    itself = tf.broadcast_to(tf.eye(k, dtype=tf.int32), (B, k, k))  # [B, k, k]
    place = prompt.next_place + now.length - prompt.length  # [B]
    types = reader.last_types(prompt)  # [B, 1]
    read = {
        "input_ids": part,
        "past_key_values": now.past,
        "attention_mask": tf.concat([before, itself], axis=2),  # [B, k, C + k]
        "position_ids": tf.repeat(place[:, None], k, axis=1),  # [B, k]
        "token_type_ids": None if types is None else tf.repeat(types, k, axis=1),  # [B, k]
    }
    output = reader.run(prompt, read, **_asked(record))
    layers = (pair(states) for states in output.past_key_values)
    return _Found(
        states=output.last_hidden_state,  # [B, k, D]
        logits=reader.model.scored(output.last_hidden_state),  # [B, k, V]
        layers=tuple((keys[:, :, C:], values[:, :, C:]) for keys, values in layers),  # [B, H, k, K] each
        hidden_states=output.hidden_states or (),
        attentions=tuple(_own_places(weights, C) for weights in output.attentions or ()),
        cross_attentions=output.cross_attentions or (),
    )


def _asked(record: Record) -> dict[str, bool]:
    """Return what the model shall give besides, because it is kept."""
    return {
        "output_attentions": record.attentions is not None,
        "output_hidden_states": record.hidden_states is not None,
    }


def _own_places(weights: Any, C: int) -> Any:
    """Return weights [B, H, k, C + k] without those, all 0, on other candidates: [B, H, k, C + 1]."""
    itself = tf.linalg.diag_part(weights[..., C:])  # [B, H, k]
    return tf.concat([weights[..., :C], itself[..., None]], axis=-1)  # [B, H, k, C + 1]


# ---------------------------------------------------------------------- choosing one of them


def _direction(states: Any) -> Any:
    """Return states [..., D] with length 1, in float32 at least."""
    states = tf.cast(states, score_dtype(states.dtype))  # [..., D]
    return states / tf.norm(states, axis=-1, keepdims=True)  # [..., D]


def _resemblance(directions: Any, context: Any, seen: Any) -> Any:
    """Return the largest cosine of each candidate [B, k, D] with any position that is seen, [B, k]."""
    cosines = tf.matmul(directions, context, transpose_b=True)  # [B, k, C]
    never = tf.constant(_NEVER, cosines.dtype)
    return tf.reduce_max(tf.where(seen[:, None], cosines, never), axis=-1)  # [B, k]


def _of(values: Any, chosen: Any, axis: int) -> Any:
    """Return what the chosen candidate of each row has; the axis of the candidates becomes 1."""
    return tf.gather(values, chosen[:, None], axis=axis, batch_dims=1)  # [B, ..., 1, ...]


def _put(context: Any, direction: Any, start: Any) -> Any:
    """Return the context [B, C, D] with a direction [B, 1, D] at one place; behind the last, it is left."""
    here = (tf.range(context.shape[1]) == start)[:, None]  # [C, 1]
    return tf.where(here, direction, context)  # [B, C, D]


def _with(past: Layers, layers: Layers, chosen: Any, start: Any) -> Layers:
    """Return the past with keys and values of the chosen candidates at the next place."""
    return tuple(
        (write(keys, _of(k, chosen, 2), start), write(values, _of(v, chosen, 2), start))  # [B, H, C, K] each
        for (keys, values), (k, v) in zip(past, layers, strict=True)
    )


def _chosen(found: _Found, chosen: Any, start: Any, C: int, dtype: Any) -> _Read:
    """Return what the model gave for the candidate that was chosen in each row, [B]."""

    def of_row(layers: Any, axis: int) -> Any:
        return tuple(_of(layer, chosen, axis) for layer in layers)  # [B, 1, D] or [B, H, 1, .] each

    weights = of_row(found.attentions, 2)  # [B, H, 1, C + 1] each
    return _Read(
        logits=tf.cast(_of(found.logits, chosen, 1)[:, 0], dtype),  # [B, V]
        hidden_states=of_row(found.hidden_states, 1),
        attentions=tuple(
            tf.concat([each[..., :start], each[..., C:]], axis=-1)  # [B, H, 1, S + 1]
            for each in weights
        ),
        cross_attentions=of_row(found.cross_attentions, 2),
    )
