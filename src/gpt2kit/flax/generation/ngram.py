"""The rule that a run of tokens is not repeated.

Dimensions: R rows of text, T tokens that have room, n of a run, V vocabulary.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from gpt2kit.flax.generation.processor import FlaxLogitsProcessor, tree
from gpt2kit.generation import rules

__all__ = ["FlaxNoRepeatNGramLogitsProcessor"]


@tree(fixed=("ngram_size",))
class FlaxNoRepeatNGramLogitsProcessor(FlaxLogitsProcessor):
    """Bar the token that would repeat a run of n tokens of the same row."""

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = rules.NoRepeatNGram(ngram_size).ngram_size

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        """Return the changed scores, [R, V]."""
        n = self.ngram_size
        R, T = input_ids.shape
        V = scores.shape[-1]
        if n > T:
            return scores
        count = T - n + 1  # runs that have room
        runs = jnp.stack([input_ids[:, i : i + count] for i in range(n)], axis=-1)  # [R, count, n]
        start = jnp.maximum(cur_len - n + 1, 0)
        end = lax.dynamic_slice_in_dim(input_ids, start, n - 1, axis=1)  # [R, n - 1]
        written = jnp.arange(count) + n <= cur_len  # [count]
        repeated = (runs[..., :-1] == end[:, None]).all(axis=-1) & written  # [R, count]
        last = jnp.where(repeated, runs[..., -1], V)  # [R, count]; V is no token, and is dropped
        return scores.at[jnp.arange(R)[:, None], last].set(-jnp.inf, mode="drop")  # [R, V]
