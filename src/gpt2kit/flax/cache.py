"""Keys and values of the positions that a model has already seen, in arrays of a fixed size.

4.34's Flax models keep them in a tree that has the shape of the model:

    {"transformer": {"h": {"0": {"attn": {"cached_key", "cached_value", "cache_index"}}, "1": ...}}}

without the first level for the body alone. Keys and values are [B, max_length, H, K]; `cache_index`, a
scalar, is the number of places that are filled. An array never grows, so that one compiled program serves
every step; XLA writes the new positions in place where the old cache is not used again (in a loop, or with
donated buffers).

Dimensions: B batch, T query positions, H heads, K width of a head (docs/shapes.md).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from gpt2kit.config import GPT2Config

__all__ = ["empty_cache", "heads_of", "turned", "turned_back", "turned_cache", "write"]

Cache = dict[str, Any]


def heads_of(config: GPT2Config, layer: int) -> int:
    """Return H of one layer: what pruning has left."""
    return config.n_head - len(set(config.pruned_heads.get(layer, ())))


def empty_cache(config: GPT2Config, batch_size: int, max_length: int, dtype: Any) -> Cache:
    """Make the tree of a body's cache, with nothing in it.

    Args:
        config: Of the model that will fill it.
        batch_size: B.
        max_length: Places of every sequence, padding included.
        dtype: That of the computation.
    """
    K = config.n_embd // config.n_head

    def empty(layer: int) -> Array:
        return jnp.zeros((batch_size, max_length, heads_of(config, layer), K), dtype)  # [B, max_length, H, K]

    return {
        "h": {
            str(layer): {
                "attn": {
                    "cached_key": empty(layer),
                    "cached_value": empty(layer),
                    "cache_index": jnp.zeros((), jnp.int32),  # []
                }
            }
            for layer in range(config.n_layer)
        }
    }


def turned(states: Array) -> Array:
    """Return keys or values with heads before places: [B, max_length, H, K] to [B*H, max_length, K].

    The loop of a generation keeps them so, under names of their own. That is the order of the products, in
    which nothing has to be turned round or copied at a step.
    """
    B, places, H, K = states.shape
    return states.swapaxes(1, 2).reshape(B * H, places, K)  # [B*H, max_length, K]


def turned_back(states: Array, B: int) -> Array:
    """Return keys or values of B sequences as they were: [B*H, max_length, K] to [B, max_length, H, K]."""
    return states.reshape(B, -1, *states.shape[1:]).swapaxes(1, 2)  # [B, max_length, H, K]


def turned_cache(cache: Cache) -> Cache:
    """Return the cache of a body with keys and values turned."""
    names = {"cached_key": "turned_key", "cached_value": "turned_value", "cache_index": "cache_index"}
    return {
        "h": {
            layer: {
                "attn": {
                    names[name]: turned(leaf) if leaf.ndim else leaf  # [B*H, max_length, K]
                    for name, leaf in leaves["attn"].items()
                }
            }
            for layer, leaves in cache["h"].items()
        }
    }


def write(cached: Array, new: Array, start: Array) -> Array:
    """Put new keys or values [B, T, H, K] at place `start` of the cached ones [B, max_length, H, K]."""
    return lax.dynamic_update_slice_in_dim(cached, new.astype(cached.dtype), start, axis=1)
