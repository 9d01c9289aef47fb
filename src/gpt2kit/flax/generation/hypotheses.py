"""The finished texts of a beam search in arrays of fixed shapes: the best few of each prompt.

What `gpt2kit.generation.hypotheses` does with lists, text by text, is done here for all prompts at once.
Dimensions: B prompts, W beams and so many texts of each, Q texts that are offered, T tokens of a text that
have room.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2kit.errors import InputError
from gpt2kit.generation.beams import Beams

__all__ = ["Hypotheses", "Measure", "add", "best_first", "empty", "measure_of", "settle"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hypotheses:
    """The best finished texts of each prompt, in the order in which they came, free places first.

    Attributes:
        texts: Their tokens, prompt and end token included, padding behind them, [B, W, T].
        scores: Log-probability of each, divided by its length to the power of the length penalty, [B, W].
        count: How many there are, [B].
        done: Whether no better one can come, [B].
    """

    texts: Array
    scores: Array
    count: Array
    done: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Measure:
    """How texts are compared. All of it is data, so that other numbers need no other program.

    Attributes:
        divisors: What a text of each length is divided by, [T + 1].
        at_once: Whether a list is closed as soon as it is full, [].
        at_full_length: Whether a beam could get in at any length, and not at the length that it has, [].
        max_length: The most tokens of a text, [].
    """

    divisors: Array
    at_once: Array
    at_full_length: Array
    max_length: Array


def measure_of(beams: Beams, max_length: int, room: int, dtype: jnp.dtype) -> Measure:
    """Return how the texts of a plan are compared.

    Args:
        beams: What the plan says about beams.
        max_length: The most tokens of a text.
        room: Tokens that the arrays have room for, T.
        dtype: Of the scores.

    Raises:
        InputError: numbers that the scores have no place for.
    """
    lengths = np.arange(room + 1, dtype=np.float64)  # [T + 1]
    lengths[0] = 1.0  # no text is so short
    with np.errstate(over="ignore", under="ignore"):
        divisors = (lengths**beams.length_penalty).astype(dtype)  # [T + 1]
    used = divisors[1 : max_length + 1]  # [max_length]
    if not (np.isfinite(used) & (used > 0)).all():
        raise InputError(
            f"Scores are divided by length ** length_penalty, and {max_length} ** {beams.length_penalty:g} "
            f"is beyond {np.dtype(dtype).name}. Bring length_penalty closer to 0."
        )
    return Measure(
        divisors=jnp.asarray(divisors),  # [T + 1]
        at_once=jnp.asarray(beams.early_stopping is True),  # []
        at_full_length=jnp.asarray(beams.early_stopping == "never" and beams.length_penalty > 0),  # []
        max_length=jnp.asarray(max_length, jnp.int32),  # []
    )


def empty(texts: Array, dtype: jnp.dtype) -> Hypotheses:
    """Return lists of no texts; what stands in the free places, [B, W, T], is as long as they will be."""
    B, W, _ = texts.shape
    return Hypotheses(
        texts=texts,  # [B, W, T]
        scores=jnp.zeros((B, W), dtype),  # [B, W]
        count=jnp.zeros(B, jnp.int32),  # [B]
        done=jnp.zeros(B, bool),  # [B]
    )


@jax.jit  # a caller that is compiled takes it in; one that is not does not compile its loop at every step
def add(found: Hypotheses, totals: Array, texts: Array, wanted: Array, divisor: Array) -> Hypotheses:
    """Offer texts to the lists, one after the other; each takes the place of the worst, if that is worse.

    Args:
        found: The lists.
        totals: Log-probabilities of the texts, [B, Q].
        texts: Their tokens, [B, Q, T].
        wanted: Which of them are offered, [B, Q].
        divisor: What their log-probabilities are divided by, [].
    """
    B, W = found.scores.shape
    offered = totals / divisor  # [B, Q]

    def offer(n: Array, lists: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        scores, sources, count = lists  # [B, W], [B, W], [B]
        score = jax.lax.dynamic_index_in_dim(offered, n, axis=1)  # [B, 1]
        full = count == W  # [B]
        better = score[:, 0] > scores.min(axis=1)  # [B]
        taken = wanted[:, n] & (~full | better)  # [B]
        leaving = jnp.where(full, scores.argmin(axis=1), 0)  # [B]; the first is free while any is
        behind = jnp.arange(W) >= leaving[:, None]  # [B, W]
        order = jnp.arange(W) + (taken[:, None] & behind)  # [B, W]; W is the text that is offered
        with_it = jnp.concatenate((scores, score), axis=1)  # [B, W + 1]
        named = jnp.concatenate((sources, jnp.full((B, 1), W + n)), axis=1)  # [B, W + 1]
        return (
            jnp.take_along_axis(with_it, order, axis=1),  # [B, W]
            jnp.take_along_axis(named, order, axis=1),  # [B, W]
            count + (taken & ~full),  # [B]
        )

    own = jnp.broadcast_to(jnp.arange(W), (B, W))  # [B, W]
    lists = (found.scores, own, found.count)
    scores, sources, count = jax.lax.fori_loop(0, totals.shape[1], offer, lists)
    every = jnp.concatenate((found.texts, texts), axis=1)  # [B, W + Q, T]
    kept = jnp.take_along_axis(every, sources[:, :, None], axis=1)  # [B, W, T]
    return replace(found, texts=kept, scores=scores, count=count)


def settle(found: Hypotheses, best: Array, length: Array, measure: Measure) -> Hypotheses:
    """Close the lists that the best beam, of this log-probability [B] and length [], cannot get into."""
    length = jnp.where(measure.at_full_length, measure.max_length, length)  # []
    attainable = best / measure.divisors[length]  # [B]
    out_of_reach = found.scores.min(axis=1) >= attainable  # [B]
    full = found.count == found.scores.shape[1]  # [B]
    return replace(found, done=found.done | (full & (measure.at_once | out_of_reach)))


def best_first(found: Hypotheses) -> tuple[Array, Array]:
    """Return all texts [B, W, T] and their scores [B, W], the best first, of equal ones the later.

    What there are no texts for comes last, with NaN for a score.
    """
    W = found.scores.shape[1]
    places = jnp.arange(W)  # [W]
    free = places < W - found.count[:, None]  # [B, W]
    later = jnp.broadcast_to(-places, free.shape)  # [B, W]
    order = jnp.lexsort((later, -found.scores, free))  # [B, W]
    scores = jnp.where(free, jnp.nan, found.scores)  # [B, W]
    texts = jnp.take_along_axis(found.texts, order[:, :, None], axis=1)  # [B, W, T]
    return texts, jnp.take_along_axis(scores, order, axis=1)  # [B, W]
