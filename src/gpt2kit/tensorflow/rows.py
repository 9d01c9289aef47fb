"""Rows of different lengths, laid end to end in one array."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["places"]


def places(lengths: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return for each element the number of its row, and its place in that row.

    TensorFlow's own `value_rowids` makes a table of all rows at the length of the longest, which a batch
    with one long text has no room for.

    Args:
        lengths: Of the rows, which may be empty. Shape [rows].
        size: Their sum.

    Returns:
        Two arrays of the type of the lengths and of shape [size].
    """
    starts = tf.cumsum(lengths, exclusive=True)  # [rows]
    begun = tf.scatter_nd(starts[:, None], tf.ones_like(starts), [size + 1])[:-1]  # [size] rows that begin
    row = tf.cumsum(begun) - 1  # [size]
    return row, tf.range(size) - tf.gather(starts, row)
