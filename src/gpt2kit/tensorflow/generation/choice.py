"""How the next token is chosen from its scores, and what is said where none can be.

Dimensions: R rows of text, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.errors import InputError
from gpt2kit.tensorflow.generation.program import is_symbolic

__all__ = ["check_choice", "chosen", "gumbel", "padding", "seed_of"]


def seed_of(seed: Any) -> Any:
    """Return the two numbers that sampling draws from; without any, they come from TensorFlow's own, [2].

    Raises:
        InputError: something else than two integers.
    """
    if seed is None:
        return tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)  # [2]
    if is_symbolic(seed):
        return tf.cast(seed, tf.int32)  # [2]
    numbers = np.asarray(seed)  # [2]
    if numbers.shape != (2,) or numbers.dtype.kind not in "iu":
        raise InputError(f"seed has to be two integers, such as [7, 0], but is {seed!r}.")
    return tf.constant(numbers, tf.int32)  # [2]


def gumbel(shape: Any, seed: Any, step: Any, dtype: Any) -> Any:
    """Return noise of a Gumbel distribution for one step.

    Its bits are turned into numbers here, because XLA does that otherwise than TensorFlow.
    """
    now = tf.random.experimental.stateless_fold_in(seed, step, alg="philox")  # [2]
    bits = tf.random.stateless_uniform(shape, now, None, None, tf.uint32, alg="philox")
    bits = tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32))  # 23 are left, as many as float32 holds
    uniform = (tf.cast(bits, dtype) + 0.5) * 2.0**-23  # between 0 and 1, and neither
    return -tf.math.log(-tf.math.log(uniform))


def chosen(scores: Any, sampled: bool, seed: Any, step: Any) -> tuple[Any, Any]:
    """Return the token that is chosen for each row, and its score, [R] each.

    The token with the largest sum of a log-probability and Gumbel noise is a draw by the probabilities.

    Args:
        scores: [R, V]
        sampled: Whether tokens are drawn, or the likeliest is taken.
        seed: What is drawn from, [2].
        step: Number of the step; each has noise of its own.
    """
    noisy = scores + gumbel(scores.shape, seed, step, scores.dtype) if sampled else scores  # [R, V]
    V = scores.shape[-1]
    # The first place of the largest, by two reductions: XLA's own argmax takes as long as the product before.
    best = tf.reduce_max(noisy, axis=-1, keepdims=True)  # [R, 1]
    places = tf.where(noisy == best, tf.range(V), V - 1)  # [R, V]; where one is NaN, the last
    tokens = tf.reduce_min(places, axis=-1)  # [R]
    values = tf.gather(scores, tokens, axis=1, batch_dims=1)  # [R]
    broken = tf.reduce_any(tf.math.is_nan(scores), axis=-1)  # [R]
    return tokens, tf.where(broken, tf.constant(float("nan"), scores.dtype), values)  # [R] each


def check_choice(score: float) -> None:
    """Refuse a text for which no token was left to choose, or whose scores were no numbers.

    Args:
        score: The lowest that a token was chosen for. It is looked at once, after the loop.

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


def padding(pad_token_id: int | None) -> int:
    """Return the token that fills a row, or refuse to go on without one."""
    if pad_token_id is None:
        raise InputError(
            "A row has ended before the others, and there is no `pad_token_id` to fill it with. Pass one, "
            "such as the tokenizer's end token."
        )
    return pad_token_id
