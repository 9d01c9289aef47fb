"""The loss of a language model: mean cross-entropy of each next token.

Dimensions: B batch, T positions, V vocabulary, N labels (docs/shapes.md).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gpt2kit.errors import InputError

__all__ = ["IGNORED_LABEL", "class_loss", "next_token_loss"]

# Labels of this value count for nothing, as in PyTorch.
IGNORED_LABEL = -100


def class_loss(logits: Array, labels: Array, ignored: int = IGNORED_LABEL) -> Array:
    """Return the mean cross-entropy of labels that name a class each, a scalar in float32 at least.

    Where no label counts it is NaN, and its gradient 0. A label that names no class gives NaN.

    Args:
        logits: Scores of the classes on the last axis, [*, N].
        labels: A class for each row of scores, [*].
        ignored: The label that counts for nothing.

    Raises:
        InputError: Labels of another shape than the rows of scores, or no whole numbers.
    """
    labels = jnp.asarray(labels)  # [*]
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            f"labels should be whole numbers of the shape {list(logits.shape[:-1])}, but they are "
            f"{labels.dtype} of the shape {list(labels.shape)}."
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))  # [*, N]
    counted = labels != ignored  # [*]
    named = jnp.where(counted, jnp.where(labels < 0, logits.shape[-1], labels), 0)  # [*]; N names none
    picked = jnp.take_along_axis(logits, named[..., None], axis=-1, mode="fill", fill_value=jnp.nan)  # [*, 1]
    losses = jax.nn.logsumexp(logits, axis=-1) - picked[..., 0]  # [*]
    count = counted.sum()  # []
    total = jnp.where(counted, losses, 0.0).sum()  # []
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)  # []


def next_token_loss(logits: Array, labels: Array) -> Array:
    """Return the mean cross-entropy of each next token, a scalar in float32 at least.

    Position t predicts the label at t + 1, and the last position predicts nothing. The labels are shifted
    rather than the logits, because moving [B, T, V] numbers would cost a copy of the largest array of all.

    Args:
        logits: [B, T, V]
        labels: Usually the input_ids again, [B, T]; -100 counts for nothing.

    Raises:
        InputError: As `class_loss`.

    Example:
        >>> logits, labels = jnp.zeros((2, 5, 101)), jnp.ones((2, 5), jnp.int32)
        >>> float(next_token_loss(logits, labels)).__round__(4)
        4.6151
    """
    labels = jnp.asarray(labels)  # [B, T]
    following = jnp.full_like(labels[..., :1], IGNORED_LABEL)  # [B, 1]
    return class_loss(logits, jnp.concatenate([labels[..., 1:], following], axis=-1))  # []
