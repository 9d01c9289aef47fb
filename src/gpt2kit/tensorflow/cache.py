"""Keys and values of the positions that a model has already seen.

4.34's TensorFlow models return a tuple of L tensors [2, B, H, S, K], keys and then values, which grow by
concatenation. A loop that is compiled once wants tensors that do not grow: `FixedCache`.

Dimensions: B batch, T query positions, S key positions, H heads, K width of a head, L layers
(docs/shapes.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from gpt2kit.config import GPT2Config

__all__ = ["FixedCache", "heads_of", "pair", "write"]


class FixedCache(NamedTuple):
    """A cache of a fixed size, which a call writes into and returns.

    Attributes:
        layers: Keys and values of each layer, [B, H, max_length, K] both.
        filled: How many places are filled, a scalar tensor; Keras lets no numbers stand beside tensors.
    """

    layers: tuple[tuple[tf.Tensor, tf.Tensor], ...]
    filled: Any


def heads_of(config: GPT2Config, layer: int) -> int:
    """Return H of one layer: what pruning has left."""
    return config.n_head - len(set(config.pruned_heads.get(layer, ())))


def pair(past: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Return keys and values, [B, H, S, K] both, of one layer: of a tensor [2, B, H, S, K] or of a pair."""
    return past[0], past[1]


def write(cached: tf.Tensor, new: tf.Tensor, start: Any) -> tf.Tensor:
    """Put new keys or values [B, H, T, K] at place `start` of the cached ones [B, H, max_length, K]."""
    T, new = new.shape[2], tf.cast(new, cached.dtype)
    places = tf.range(cached.shape[2])  # [max_length]
    if T == 1:
        return tf.where((places == start)[:, None], new, cached)  # [B, H, max_length, K]
    behind = start + tf.shape(new)[2]  # []
    return tf.concat([cached[:, :, :start], new, cached[:, :, behind:]], axis=2)  # [B, H, max_length, K]
