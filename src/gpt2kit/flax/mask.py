"""What hides positions from attention, and the dtype that scores are computed in.

Dimensions: B batch, T query positions, S key positions (docs/shapes.md).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

__all__ = ["hide_later", "hiding", "padding_bias", "score_dtype"]


def score_dtype(dtype: Any) -> Any:
    """Return the dtype in which attention scores are computed: float32 at least, so that none overflows."""
    return jnp.promote_types(dtype, jnp.float32)


def hiding(dtype: Any) -> float:
    """Return what is added to a score to hide it: half of the dtype's minimum.

    A score is lost beside this number, so a hidden position has weight 0, and where every position of a row
    is hidden the weights are those of 4.34's PyTorch classes, without NaN. Half, because a position hidden
    both as later and as padding gets it twice.
    """
    return float(jnp.finfo(dtype).min) / 2


def padding_bias(mask: Array, dtype: Any) -> Array:
    """Turn a mask of ones (to see) and zeros (not to see) into what is added to the scores.

    Args:
        mask: [B, S], or [B, T, S] where each query has its own.
        dtype: Of the scores.

    Returns:
        [B, 1, 1 or T, S]
    """
    bias = (1.0 - jnp.asarray(mask, dtype)) * hiding(dtype)  # [B, S] or [B, T, S]
    return bias[:, None, None, :] if mask.ndim == 2 else bias[:, None]  # [B, 1, 1 or T, S]


def hide_later(scores: Array, mask: Array | None, start: Array | int) -> Array:
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

    Returns:
        The scores of what is not hidden, [B, H, T, S].
    """
    T, S = scores.shape[-2:]
    hidden = hiding(scores.dtype)
    keys = jnp.arange(S)  # [S]
    queries = start + jnp.arange(T)[:, None]  # [T, 1]
    scores = jnp.where(keys > queries, hidden, scores)  # [B, H, T, S]
    if mask is not None:
        bias = padding_bias(mask, scores.dtype)  # [B, 1, 1 or T, S']
        scores = scores + jnp.pad(bias, ((0, 0),) * 3 + ((0, S - mask.shape[-1]),))  # [B, H, T, S]
    if isinstance(start, int) and start + T == S:
        return scores
    return jnp.where(keys < start + T, scores, 2 * hidden)  # [B, H, T, S]
