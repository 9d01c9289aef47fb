"""The loss of a language model in chunks: the logits of so many positions at a time.

Logits are the largest tensor of a GPT-2 by far. Here those of a chunk are made, its gradients taken while
they are there, and they are forgotten:

    for each chunk h:    p = softmax(h rows.T)    loss += -log p[target]    dlogits = p - onehot(target)

Dimensions: B batch, T positions, D n_embd, V vocabulary, R positions of a chunk (docs/shapes.md).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from gpt2kit.tensorflow.loss import IGNORED_LABEL, class_losses
from gpt2kit.tensorflow.mask import score_dtype
from gpt2kit.tensorflow.table import sizes

__all__ = ["chunked_sum"]


def chunked_sum(
    hidden_states: tf.Tensor, rows: Any, targets: tf.Tensor, size: int, *, learning: bool = True
) -> tf.Tensor:
    """Add up the cross-entropies of hidden_states @ rows.T, holding the logits of `size` positions at a time.

    Args:
        hidden_states: [B, T, D]
        rows: What scores each token, [V, D]; a variable, or a tensor.
        targets: The token that each position predicts, [B, T]; -100 counts for nothing.
        size: Positions of a chunk; 0 takes all at once.
        learning: Whether gradients will be asked for; without them a third of the work is left.

    Returns:
        [], in float32 at least.
    """
    states = tf.reshape(hidden_states, [-1, hidden_states.shape[-1]])  # [B*T, D]
    wanted = tf.reshape(targets, [-1])  # [B*T]
    table = tf.convert_to_tensor(rows)  # [V, D]
    count, D = sizes(states)
    if not size or (isinstance(count, int) and size >= count):
        return _sum(_scores(states, table), wanted)  # []
    missing = -count % size
    states = tf.reshape(tf.pad(states, [[0, missing], [0, 0]]), [-1, size, D])  # [chunks, R, D]
    wanted = tf.pad(wanted, [[0, missing]], constant_values=IGNORED_LABEL)  # [chunks*R]
    wanted = tf.reshape(wanted, [-1, size])  # [chunks, R]
    if not learning:
        return _losses(states, table, wanted)  # []

    @tf.custom_gradient
    def total(states: tf.Tensor, table: tf.Tensor) -> Any:
        found, dstates, dtable = _losses_and_gradients(states, table, wanted)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return (
                dstates * tf.cast(upstream, dstates.dtype),
                tf.cast(dtable * tf.cast(upstream, dtable.dtype), table.dtype),
            )  # [chunks, R, D], [V, D]

        return found, gradient

    return total(states, table)  # []


def _losses(states: tf.Tensor, table: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Add up the losses of the chunks, one after another: []."""

    def add(chunk: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return chunk + 1, total + _sum(_scores(states[chunk], table), wanted[chunk])  # [] both

    start = (tf.constant(0), tf.zeros([], score_dtype(states.dtype)))  # [] both
    return _one_by_one(add, start, sizes(states)[0])[1]  # []


def _losses_and_gradients(
    states: tf.Tensor, table: tf.Tensor, wanted: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Add up the losses of the chunks; return the sum [], its gradients [chunks, R, D] and [V, D]."""
    exact = score_dtype(states.dtype)

    def add(chunk: Any, total: Any, dstates: Any, dtable: Any) -> tuple[Any, ...]:
        part, labels = states[chunk], wanted[chunk]  # [R, D], [R]
        counts = tf.not_equal(labels, IGNORED_LABEL)  # [R]
        losses, dlogits = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(
            features=tf.cast(_scores(part, table), exact),
            labels=tf.where(counts, labels, tf.zeros_like(labels)),
        )  # [R], [R, V]
        counted = tf.cast(counts, exact)  # [R]
        dlogits = tf.cast(dlogits * counted[:, None], states.dtype)  # [R, V]
        dpart = tf.matmul(dlogits, tf.cast(table, states.dtype))  # [R, D]
        drows = tf.cast(tf.matmul(dlogits, part, transpose_a=True), exact)  # [V, D]
        total = total + tf.reduce_sum(losses * counted)  # []
        return chunk + 1, total, dstates.write(chunk, dpart), dtable + drows

    chunks = sizes(states)[0]
    start = (
        tf.constant(0),
        tf.zeros([], exact),
        tf.TensorArray(states.dtype, chunks, element_shape=states.shape[1:]),
        tf.zeros(table.shape, exact),
    )  # [], [], chunks of [R, D], [V, D]
    _, total, dstates, dtable = _one_by_one(add, start, chunks)
    return total, dstates.stack(), dtable  # [], [chunks, R, D], [V, D]


def _one_by_one(add: Any, start: tuple[Any, ...], chunks: Any) -> Any:
    """Run through the chunks; never two at once, which would hold the logits of both."""
    return tf.while_loop(lambda chunk, *_: chunk < chunks, add, start, parallel_iterations=1)


def _scores(states: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Score every token: [R, D] to [R, V], in the dtype of the states."""
    return tf.matmul(states, tf.cast(table, states.dtype), transpose_b=True)  # [R, V]


def _sum(logits: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Add up -log p of the targets that count, in float32 at least: []."""
    return tf.reduce_sum(class_losses(logits, wanted))  # []
