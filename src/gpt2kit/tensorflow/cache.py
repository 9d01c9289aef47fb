"""Keys and values of the positions that a model has already seen.

4.34's TensorFlow models return a tuple of L tensors [2, B, H, S, K], keys and then values, which grow by
concatenation. A loop that is compiled once wants tensors that do not grow: `FixedCache`.

Dimensions: B batch, T query positions, S key positions, H heads, K width of a head, L layers
(docs/shapes.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

# XLA's own operation for writing a part of an array; TensorFlow has no public name for it.
from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

from gpt2kit.config import GPT2Config
from gpt2kit.tensorflow.xla import inside_xla

__all__ = ["FixedCache", "heads_of", "merged", "pair", "parted", "write"]

Layers = tuple[tuple[tf.Tensor, tf.Tensor], ...]


class FixedCache(NamedTuple):
    """A cache of a fixed size, which a call writes into and returns.

    Attributes:
        layers: Keys and values of each layer, [B, H, max_length, K] both.
        filled: How many places are filled, a scalar tensor; Keras lets no numbers stand beside tensors.
    """

    layers: Layers
    filled: Any


def heads_of(config: GPT2Config, layer: int) -> int:
    """Return H of one layer: what pruning has left."""
    return config.n_head - len(set(config.pruned_heads.get(layer, ())))


def pair(past: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Return keys and values, [B, H, S, K] both, of one layer: of a tensor [2, B, H, S, K] or of a pair."""
    if not tf.is_tensor(past):
        return past[0], past[1]
    keys, values = tf.unstack(past, num=2)  # [B, H, S, K] both, in one operation
    return keys, values


def write(cached: tf.Tensor, new: tf.Tensor, start: Any) -> tf.Tensor:
    """Put new keys or values [B, H, T, K] at place `start` of the cached ones [B, H, max_length, K]."""
    T, new = new.shape[2], tf.cast(new, cached.dtype)
    if inside_xla():
        written = _in_place(_merged(cached), _merged(new), tf.convert_to_tensor(start))
        return tf.reshape(written, cached.shape)  # [B, H, max_length, K]
    places = tf.range(cached.shape[2])  # [max_length]
    if T == 1:
        return tf.where((places == start)[:, None], new, cached)  # [B, H, max_length, K]
    behind = start + tf.shape(new)[2]  # []
    return tf.concat([cached[:, :, :start], new, cached[:, :, behind:]], axis=2)  # [B, H, max_length, K]


@tf.custom_gradient  # the operation has none of its own
def _in_place(cached: tf.Tensor, new: tf.Tensor, start: tf.Tensor) -> Any:
    """Put new keys or values [B*H, T, K] at place `start` of [B*H, max_length, K]; XLA copies nothing."""
    zero, T = tf.zeros_like(start), new.shape[1]  # [] both

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
        places = tf.range(cached.shape[1])  # [max_length]
        kept = (places < start) | (places >= start + T)  # [max_length]
        of_cached = tf.where(kept[:, None], upstream, tf.zeros_like(upstream))  # [B*H, max_length, K]
        return of_cached, tf.gather(upstream, start + tf.range(T), axis=1), None  # ..., [B*H, T, K]

    return dynamic_update_slice(cached, new, [zero, start, zero]), gradient


def merged(layers: Layers) -> Layers:
    """Return keys and values with one axis for rows and heads, [B*H, max_length, K] both.

    That is the form of XLA's products. A loop that keeps them so copies none of them at a step: the new ones
    are written in place.
    """
    return tuple((_merged(keys), _merged(values)) for keys, values in layers)


def parted(layers: Layers, B: int) -> Layers:
    """Return merged keys and values of B rows as they were, [B, H, max_length, K] both."""
    return tuple((_parted(keys, B), _parted(values, B)) for keys, values in layers)


def _merged(states: tf.Tensor) -> tf.Tensor:
    return tf.reshape(states, [-1, *states.shape[2:]])  # [B*H, max_length, K]


def _parted(states: tf.Tensor, B: int) -> tf.Tensor:
    return tf.reshape(states, [B, states.shape[0] // B, *states.shape[1:]])  # [B, H, max_length, K]
