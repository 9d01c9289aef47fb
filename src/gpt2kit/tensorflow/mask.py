"""What hides positions from attention, and the dtype that scores are computed in.

Dimensions: B batch, T query positions, S key positions (docs/shapes.md).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

__all__ = ["hide_later", "hiding", "padding_bias", "score_dtype"]


def score_dtype(dtype: Any) -> tf.DType:
    """Return the dtype in which attention scores are computed: float32 at least, so that none overflows."""
    return tf.float64 if tf.as_dtype(dtype) == tf.float64 else tf.float32


def hiding(dtype: Any) -> float:
    """Return what is added to a score to hide it: half of the dtype's minimum.

    A score is lost beside this number, so a hidden position has weight 0, and where every position of a row
    is hidden the weights are those of 4.34's PyTorch classes, without NaN. Half, because a position hidden
    both as later and as padding gets it twice.
    """
    return float(tf.as_dtype(dtype).min) / 2


def padding_bias(mask: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Turn a mask of ones (to see) and zeros (not to see) into what is added to the scores.

    Args:
        mask: [B, S], or [B, T, S] where each query has its own.
        dtype: Of the scores.

    Returns:
        [B, 1, 1 or T, S]
    """
    bias = (1.0 - tf.cast(mask, dtype)) * hiding(dtype)  # [B, S] or [B, T, S]
    return bias[:, None, None, :] if mask.shape.rank == 2 else bias[:, None]  # [B, 1, 1 or T, S]


def hide_later(scores: tf.Tensor, mask: tf.Tensor | None, start: Any, T: Any, S: Any) -> tf.Tensor:
    """Hide from T queries, which stand at `start` in a sequence of S places, what they may not see.

    A query sees what stands before it and itself, as far as the mask lets it. A later place has the same
    score whatever stands there, so that nothing is learnt from it, as in 4.34's PyTorch classes. Places
    behind the last query are those of a cache that nothing was written to: they are hidden twice, so that
    they have no weight even where everything else is hidden.

    Args:
        scores: [B, H, T, S]
        mask: 1 to see and 0 for padding, [B, S'] or [B, T, S']; None hides nothing. Where it is shorter than
            S, what it does not say lies behind the last query.
        start: Place of the first query.
        T: Queries.
        S: Keys.

    Returns:
        The scores of what is not hidden, [B, H, T, S].
    """
    dtype = scores.dtype
    hidden = tf.constant(hiding(dtype), dtype)  # []
    keys = tf.range(S)  # [S]
    full = all(isinstance(number, int) for number in (start, T, S)) and start + T == S
    if not (full and T == 1):  # nothing is later than the one at the end
        queries = start + tf.range(T)[:, None]  # [T, 1]
        scores = tf.where(keys > queries, hidden, scores)  # [B, H, T, S]
    if mask is not None:
        bias = padding_bias(mask, dtype)  # [B, 1, 1 or T, S']
        missing = S - (mask.shape[-1] or tf.shape(mask)[-1])
        if not isinstance(missing, int) or missing:
            bias = tf.pad(bias, [[0, 0], [0, 0], [0, 0], [0, missing]])  # [B, 1, 1 or T, S]
        scores = scores + bias  # [B, H, T, S]
    if full:
        return scores
    return tf.where(keys < start + T, scores, 2 * hidden)  # [B, H, T, S]
