"""The finished texts of a beam search in arrays of fixed shapes: the best few of each prompt.

What `gpt2kit.generation.hypotheses` does with lists, text by text, is done here for all prompts at once.
Dimensions: B prompts, W beams and so many texts of each, Q texts that are offered, T tokens of a text that
have room.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gpt2kit.errors import InputError
from gpt2kit.generation.beams import Beams

__all__ = ["Hypotheses", "Measure", "add", "best_first", "empty", "measure_of", "settle"]


class Hypotheses(NamedTuple):
    """The best finished texts of each prompt, in the order in which they came, free places first.

    Attributes:
        texts: Their tokens, prompt and end token included, padding behind them, [B, W, T].
        scores: Log-probability of each, divided by its length to the power of the length penalty, [B, W].
        count: How many there are, [B].
        done: Whether no better one can come, [B].
    """

    texts: Any
    scores: Any
    count: Any
    done: Any


class Measure(NamedTuple):
    """How texts are compared. All of it is data, so that other numbers need no other program.

    Attributes:
        divisors: What a text of each length is divided by, [T + 1].
        at_once: Whether a list is closed as soon as it is full, [].
        at_full_length: Whether a beam could get in at any length, and not at the length that it has, [].
        max_length: The most tokens of a text, [].
    """

    divisors: Any
    at_once: Any
    at_full_length: Any
    max_length: Any


def measure_of(beams: Beams, max_length: int, room: int, dtype: Any) -> Measure:
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
        divisors = (lengths**beams.length_penalty).astype(dtype.as_numpy_dtype)  # [T + 1]
    used = divisors[1 : max_length + 1]  # [max_length]
    if not (np.isfinite(used) & (used > 0)).all():
        raise InputError(
            f"Scores are divided by length ** length_penalty, and {max_length} ** {beams.length_penalty:g} "
            f"is beyond {dtype.name}. Bring length_penalty closer to 0."
        )
    return Measure(
        divisors=divisors,
        at_once=np.bool_(beams.early_stopping is True),
        at_full_length=np.bool_(beams.early_stopping == "never" and beams.length_penalty > 0),
        max_length=np.int32(max_length),
    )


def empty(texts: Any, dtype: Any) -> Hypotheses:
    """Return lists of no texts; what stands in the free places, [B, W, T], is as long as they will be."""
    B, W, _ = texts.shape
    return Hypotheses(
        texts=texts,  # [B, W, T]
        scores=tf.zeros((B, W), dtype),  # [B, W]
        count=tf.zeros(B, tf.int32),  # [B]
        done=tf.zeros(B, tf.bool),  # [B]
    )


def add(found: Hypotheses, totals: Any, texts: Any, wanted: Any, divisor: Any) -> Hypotheses:
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
    scores, count = found.scores, found.count  # [B, W], [B]
    sources = tf.broadcast_to(tf.range(W), (B, W))  # [B, W]
    for n in range(totals.shape[1]):
        score = offered[:, n : n + 1]  # [B, 1]
        full = count == W  # [B]
        better = score[:, 0] > tf.reduce_min(scores, axis=1)  # [B]
        taken = wanted[:, n] & (~full | better)  # [B]
        leaving = tf.where(full, tf.argmin(scores, axis=1, output_type=tf.int32), 0)  # [B]
        behind = tf.range(W) >= leaving[:, None]  # [B, W]
        order = tf.range(W) + tf.cast(taken[:, None] & behind, tf.int32)  # [B, W]; W is what is offered
        with_it = tf.concat([scores, score], axis=1)  # [B, W + 1]
        named = tf.concat([sources, tf.fill((B, 1), W + n)], axis=1)  # [B, W + 1]
        scores = tf.gather(with_it, order, axis=1, batch_dims=1)  # [B, W]
        sources = tf.gather(named, order, axis=1, batch_dims=1)  # [B, W]
        count += tf.cast(taken & ~full, tf.int32)  # [B]
    every = tf.concat([found.texts, texts], axis=1)  # [B, W + Q, T]
    kept = tf.gather(every, sources, axis=1, batch_dims=1)  # [B, W, T]
    return found._replace(texts=kept, scores=scores, count=count)


def settle(found: Hypotheses, best: Any, length: Any, measure: Measure) -> Hypotheses:
    """Close the lists that the best beam, of this log-probability [B] and length [], cannot get into."""
    length = tf.where(measure.at_full_length, measure.max_length, length)  # []
    attainable = best / tf.gather(measure.divisors, length)  # [B]
    out_of_reach = tf.reduce_min(found.scores, axis=1) >= attainable  # [B]
    full = found.count == found.scores.shape[1]  # [B]
    return found._replace(done=found.done | (full & (measure.at_once | out_of_reach)))


def best_first(found: Hypotheses) -> tuple[Any, Any]:
    """Return all texts [B, W, T] and their scores [B, W], the best first, of equal ones the later.

    What there are no texts for comes last, with NaN for a score.
    """
    W = found.scores.shape[1]
    infinity = tf.constant(float("inf"), found.scores.dtype)
    free = tf.range(W) < W - found.count[:, None]  # [B, W]
    worth = tf.where(free, infinity, -found.scores)[:, ::-1]  # [B, W]; the latest first
    order = W - 1 - tf.argsort(worth, axis=1, stable=True)  # [B, W]
    scores = tf.where(free, infinity - infinity, found.scores)  # [B, W]
    texts = tf.gather(found.texts, order, axis=1, batch_dims=1)  # [B, W, T]
    return texts, tf.gather(scores, order, axis=1, batch_dims=1)  # [B, W]
