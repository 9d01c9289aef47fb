"""The rule that a run of tokens is not repeated.

Dimensions: R rows of text, T tokens that have room, n of a run, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from gpt2kit.generation import rules
from gpt2kit.tensorflow.generation.processor import TFLogitsProcessor, leaves
from gpt2kit.tensorflow.generation.vocabulary import seen

__all__ = ["TFNoRepeatNGramLogitsProcessor"]


@leaves(fixed=("ngram_size",))
class TFNoRepeatNGramLogitsProcessor(TFLogitsProcessor):
    """Bar the token that would repeat a run of n tokens of the same row."""

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = rules.NoRepeatNGram(ngram_size).ngram_size

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        n = self.ngram_size
        T, V = input_ids.shape[1], scores.shape[-1]
        if n > T:
            return scores
        count = T - n + 1  # runs that have room
        runs = tf.stack([input_ids[:, i : i + count] for i in range(n)], axis=-1)  # [R, count, n]
        start = tf.maximum(cur_len - n + 1, 0)
        end = tf.gather(input_ids, start + tf.range(n - 1), axis=1)  # [R, n - 1]
        written = tf.range(count) + n <= cur_len  # [count]
        repeated = tf.reduce_all(runs[..., :-1] == end[:, None], axis=-1) & written  # [R, count]
        last = tf.where(repeated, runs[..., -1], V)  # [R, count]; V is no token
        return tf.where(seen(last, V), tf.constant(-float("inf"), scores.dtype), scores)  # [R, V]
