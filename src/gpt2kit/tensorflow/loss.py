"""The losses: cross-entropy of next tokens, of classes, and of numbers.

Dimensions: B batch, T positions, V vocabulary, N labels (docs/shapes.md).
"""

from __future__ import annotations

import tensorflow as tf

from gpt2kit.tensorflow.mask import score_dtype

__all__ = ["IGNORED_LABEL", "class_losses", "next_token_loss", "token_loss"]

# Labels of this value count for nothing, as in PyTorch.
IGNORED_LABEL = -100


def class_losses(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy of each label that names a class, in float32 at least; 0 where it is -100.

    Args:
        logits: Scores of the classes on the last axis, [*, N].
        labels: A class for each row of scores, [*].

    Returns:
        [*]
    """
    logits = tf.cast(logits, score_dtype(logits.dtype))  # [*, N]
    counted = tf.not_equal(labels, IGNORED_LABEL)  # [*]
    named = tf.where(counted, labels, tf.zeros_like(labels))  # [*]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(named, logits)  # [*]
    return tf.where(counted, losses, tf.zeros_like(losses))  # [*]


def next_token_loss(logits: tf.Tensor, labels: tf.Tensor, each: bool = False) -> tf.Tensor:
    """Return the cross-entropy of the next tokens: position t predicts the label at t + 1.

    Args:
        logits: [..., T, V]
        labels: Usually the input_ids again, [..., T]; -100 counts for nothing.
        each: Return that of each label that counts, [n], and not their mean, [1]. How many count is not known
            when a program is compiled, so XLA compiles only the mean.

    Returns:
        [1] or [n]

    Source:
        transformers v4.34.0, modeling_tf_utils.py, TFCausalLanguageModelingLoss; `each` is what
        config.tf_legacy_loss asks for.
    """
    return token_loss(logits[..., :-1, :], labels[..., 1:], each)  # [1] or [n]


def token_loss(logits: tf.Tensor, labels: tf.Tensor, each: bool = False) -> tf.Tensor:
    """Return the cross-entropy of labels with the scores at their own places; otherwise `next_token_loss`."""
    losses = class_losses(logits, labels)  # [..., T]
    counted = tf.not_equal(labels, IGNORED_LABEL)  # [..., T]
    if each:
        return tf.boolean_mask(losses, counted)  # [n]
    count = tf.reduce_sum(tf.cast(counted, losses.dtype))  # []
    return tf.reshape(tf.reduce_sum(losses) / count, [1])  # [1]
