"""Which tokens of the vocabulary are named: tables of the kind that the rules of the scores read.

Dimensions: R rows of text, n tokens that are named, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

__all__ = ["named", "seen"]


def named(ids: Any, V: int) -> Any:
    """Return which tokens are among these ids [n], [V]; V itself is no token."""
    ids = tf.convert_to_tensor(ids, tf.int32)  # [n]
    return tf.scatter_nd(ids[:, None], tf.ones_like(ids), [V + 1])[:V] > 0  # [V]


def seen(ids: Any, V: int) -> Any:
    """Return which tokens are among the ids of each row [R, n], [R, V]; V itself is no token."""
    ids = tf.convert_to_tensor(ids, tf.int32)  # [R, n]
    R, n = ids.shape
    rows = tf.repeat(tf.range(R)[:, None], n, axis=1)  # [R, n]
    places = tf.stack([rows, ids], axis=-1)  # [R, n, 2]
    return tf.scatter_nd(places, tf.ones_like(ids), [R, V + 1])[:, :V] > 0  # [R, V]
