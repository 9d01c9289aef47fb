"""Greedy search and sampling: the loop that writes token after token, inside one program.

Dimensions: B prompts, R rows of text, T tokens that have room in a bucket, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gpt2kit.errors import InputError
from gpt2kit.flax.generation.processor import FlaxLogitsProcessorList
from gpt2kit.flax.generation.program import loop, run
from gpt2kit.flax.generation.prompt import Prompt, is_traced
from gpt2kit.flax.generation.reader import Past, Reader, repeated
from gpt2kit.flax.generation.record import FlaxGreedySearchOutput, FlaxSampleOutput

__all__ = ["Ends", "Search", "begun", "check_choice", "cut", "ended_by", "search"]


class Ends(NamedTuple):
    """What ends a text, as numbers that a program reads when it runs.

    Attributes:
        max_length: Tokens of prompt and text together, at most.
        pad_token_id: What fills a row behind its end.
        eos_token_ids: End tokens, [n].
    """

    max_length: Any
    pad_token_id: Any
    eos_token_ids: Any


@dataclass
class Search:
    """How tokens are chosen, and what a program is run with.

    Attributes:
        places: Tokens of a text that have room: `max_length` or the next bucket.
        reader: What reads the model.
        ends: What ends a text.
        processors: Rules for the scores.
        warpers: Rules of sampling, which come after the processors; empty where nothing is drawn.
        sampled: Whether tokens are drawn, or the likeliest is taken.
        params: The parameters.
        prng_key: What is drawn from.
        trace: Whether the search is compiled.
    """

    places: int
    reader: Reader
    ends: Ends
    processors: FlaxLogitsProcessorList
    sampled: bool
    params: Any
    prng_key: Any
    warpers: FlaxLogitsProcessorList = field(default_factory=FlaxLogitsProcessorList)
    trace: bool = True


class _State(NamedTuple):
    """What goes from step to step.

    Attributes:
        text: The tokens, [R, T].
        cur_len: How many there are.
        ended: Whether a row has ended, [R].
        worst: The lowest score that a token of the row was chosen for, [R]; NaN where one was no number.
        key: What the next token is drawn from.
        past: Keys and values of all tokens but the last.
    """

    text: Array
    cur_len: Array
    ended: Array
    worst: Array
    key: Array
    past: Past


def search(model: Any, prompt: Prompt, how: Search, returns: int) -> Any:
    """Write on from a prompt, one token for every row at each step.

    Args:
        model: Keeps the compiled programs.
        prompt: What the texts begin with, laid out.
        how: The rules, the ends and the parameters.
        returns: Texts of each prompt.

    Returns:
        An output with the sequences [B * returns, max_length].
    """
    compiled_in = (how.reader, how.places, how.sampled, returns, how.trace)
    arguments = (how.params, prompt, how.ends, how.processors, how.warpers, how.prng_key)
    text, worst = run(model, _write, compiled_in, arguments, how.trace)
    if not is_traced(worst):
        check_choice(float(np.asarray(worst).min()))
    kind = FlaxSampleOutput if how.sampled else FlaxGreedySearchOutput
    return kind(sequences=cut(text, how.ends.max_length))


def _write(
    reader: Reader,
    places: int,
    sampled: bool,
    returns: int,
    trace: bool,
    params: Any,
    prompt: Prompt,
    ends: Ends,
    processors: FlaxLogitsProcessorList,
    warpers: FlaxLogitsProcessorList,
    key: Array,
) -> tuple[Array, Array]:
    """Return the texts [R, T] and the lowest score that a token of each was chosen for, [R]."""
    scores, past = reader.first(params, prompt)  # [B, V]
    prompt, past = prompt.repeat(returns), repeated(past, returns, len(scores))
    scores = jnp.repeat(scores, returns, axis=0)  # [R, V]
    text = begun(prompt, places, ends.pad_token_id)  # [R, T]
    last_seen = lax.dynamic_slice_in_dim(prompt.mask, prompt.positions - 1, 1, axis=1)[:, 0]  # [R]
    worst = jnp.where(last_seen == 0, jnp.nan, jnp.inf).astype(scores.dtype)  # [R]; after padding, nothing
    ended = jnp.zeros(len(text), bool)  # [R]
    state = _State(text, jnp.asarray(prompt.length, jnp.int32), ended, worst, key, past)

    def written(state: _State, scores: Array, past: Past) -> _State:
        text, cur_len, ended, worst, key, _ = state
        scores = warpers(text, processors(text, scores, cur_len), cur_len)  # [R, V]
        if sampled:
            now, key = jax.random.split(key)
            tokens = jax.random.categorical(now, scores)  # [R]
        else:
            tokens = scores.argmax(axis=-1)  # [R]
        chosen = jnp.take_along_axis(scores, tokens[:, None], axis=-1)[:, 0]  # [R]
        worst = jnp.minimum(worst, jnp.where(ended, jnp.inf, chosen))  # [R]
        tokens = jnp.where(ended, ends.pad_token_id, tokens).astype(text.dtype)  # [R]
        text = lax.dynamic_update_slice_in_dim(text, tokens[:, None], cur_len, axis=1)  # [R, T]
        return _State(text, cur_len + 1, ended | ended_by(tokens, ends), worst, key, past)

    def goes_on(state: _State) -> Array:
        return (state.cur_len < ends.max_length) & ~state.ended.all()

    def step(state: _State) -> _State:
        return written(state, *reader.next(params, prompt, state.past, state.text, state.cur_len))

    state = loop(goes_on, step, written(state, scores, past), trace)
    new = jnp.arange(places) >= prompt.length  # [T]
    unwritable = ~(state.worst > -jnp.inf)[:, None] & new  # [R, T]
    return jnp.where(unwritable, -1, state.text), state.worst  # [R, T], [R]


def begun(prompt: Prompt, places: int, pad_token_id: Any) -> Array:
    """Return the texts that begin with the prompts and have so many places, padding behind, [R, T]."""
    room = max(places - prompt.ids.shape[1], 0)
    ids = jnp.pad(jnp.asarray(prompt.ids), ((0, 0), (0, room)))[:, :places]  # [R, T]
    return jnp.where(jnp.arange(places) < prompt.length, ids, pad_token_id).astype(jnp.int32)  # [R, T]


def ended_by(tokens: Array, ends: Ends) -> Array:
    """Return which of these tokens are end tokens, in their shape."""
    return (tokens[..., None] == ends.eos_token_ids).any(axis=-1)  # [R]


def cut(text: Array, max_length: int) -> Array:
    """Return the first `max_length` tokens of each row, without compiling anything, [R, max_length]."""
    if is_traced(text) or len(text.devices()) > 1:
        return text[:, :max_length]  # [R, max_length]
    (device,) = text.devices()
    return jax.device_put(jax.device_get(text)[:, :max_length], device)  # [R, max_length]


def check_choice(score: float) -> None:
    """Refuse a text for which no token was left to choose, or whose scores were no numbers.

    This is looked at once, after the loop. Within a program of the caller's nothing can be refused: there
    the new tokens of such a row are -1.

    Raises:
        InputError: what the lowest chosen score was, and what may be done.
    """
    if score != score:
        raise InputError(
            "The model gave NaN for scores. Look for NaN in its weights, use a wider dtype, or pass "
            "remove_invalid_values=True to go on regardless."
        )
    if score == -float("inf"):
        raise InputError(
            "The rules barred every token of the vocabulary at some step, so none could be chosen. Loosen "
            "the rules, which gpt2kit.generation.make_plan(...) lists in their order."
        )
