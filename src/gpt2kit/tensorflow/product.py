"""Products with a weight, in the form in which XLA computes them on all cores.

Dimensions: B batch, T positions; nx width of an input, nf width of an output.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from gpt2kit.tensorflow.xla import inside_xla

__all__ = ["affine"]


def affine(rows: tf.Tensor, weight: Any, bias: Any) -> tf.Tensor:
    """Return rows @ weight + bias.

    On a CPU, XLA makes one loop of the product of a single row and what is added to it, and runs that on one
    core. A batch of two products, each with half of the weight, goes to the threads; the weight lies as it
    was.

    Args:
        rows: [B*T, nx]
        weight: [nx, nf]
        bias: [nf]

    Returns:
        [B*T, nf]
    """
    bias = tf.convert_to_tensor(bias)  # [nf]
    nx, nf = weight.shape
    if rows.shape[0] != 1 or rows.dtype != tf.float32 or nx % 2 or not inside_xla():
        return tf.matmul(rows, weight) + bias  # [B*T, nf]
    halves = tf.reshape(tf.convert_to_tensor(weight), [2, nx // 2, nf])  # [2, nx / 2, nf]
    parts = tf.matmul(tf.reshape(rows, [2, 1, nx // 2]), halves)  # [2, 1, nf]
    return parts[0] + parts[1] + bias  # [1, nf]
