"""The loss of a language model, whole or in chunks: mean cross-entropy of each next token.

Logits are the largest array of a GPT-2 by far. The loss in chunks makes those of so many positions at a time,
forgets them, and makes them again in the backward pass.

Dimensions: B batch, T positions, D n_embd, V vocabulary, N labels, R positions of a chunk (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from gpt2kit.errors import InputError

__all__ = ["IGNORED_LABEL", "chunked_sum", "class_loss", "next_token_loss"]

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
    total = _sum(logits, labels, ignored)  # []
    count = (labels != ignored).sum()  # []
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
        >>> round(float(next_token_loss(logits, labels)), 4)
        4.6151
    """
    labels = jnp.asarray(labels)  # [B, T]
    nothing = jnp.full_like(labels[..., :1], IGNORED_LABEL)  # [B, 1]
    return class_loss(logits, jnp.concatenate([labels[..., 1:], nothing], axis=-1))  # []


def chunked_sum(
    hidden_states: Array,
    head: Callable[[Array], Array],
    targets: Array,
    size: int,
    ignored: int = IGNORED_LABEL,
) -> Array:
    """Add up the cross-entropies of head(hidden_states), holding the logits of `size` positions at a time.

    A chunk has the same positions of every text, so that texts which lie on several devices stay there; only
    where it is smaller than the batch does it have single positions, one text after another.

    Args:
        hidden_states: [B, T, D]
        head: Maps [B, R, D] to [B, R, V].
        targets: The token that each position predicts, [B, T].
        size: Positions of a chunk, B*R at most; 0 takes all at once.
        ignored: The target that counts for nothing.
    """
    targets = jnp.asarray(targets)  # [B, T]
    if not 0 < size < targets.size:
        return _sum(head(hidden_states), targets, ignored)  # []
    if size < len(targets):
        hidden_states = hidden_states.reshape(1, -1, hidden_states.shape[-1])  # [1, B*T, D]
        targets = targets.reshape(1, -1)  # [1, B*T]
    B, T, D = hidden_states.shape
    R = size // B
    missing = -T % R
    states = jnp.pad(hidden_states, ((0, 0), (0, missing), (0, 0)))  # [B, chunks*R, D]
    targets = jnp.pad(targets, ((0, 0), (0, missing)), constant_values=ignored)  # [B, chunks*R]

    def part(chunk: tuple[Array, Array]) -> Array:
        return _sum(head(chunk[0]), chunk[1], ignored)  # []

    chunks = (
        states.reshape(B, -1, R, D).swapaxes(0, 1),
        targets.reshape(B, -1, R).swapaxes(0, 1),
    )  # [chunks, B, R, D], [chunks, B, R]
    return lax.map(
        jax.checkpoint(part, prevent_cse=False), chunks
    ).sum()  # []; a loop prevents that by itself


def _sum(logits: Array, labels: Array, ignored: int) -> Array:
    """Add up -log p of the labels that count, in float32 at least."""
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
    return jnp.where(counted, losses, 0.0).sum()  # []
