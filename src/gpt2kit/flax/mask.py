"""What is added to attention scores to hide positions, and the dtype that scores are computed in.

Dimensions: B batch, T query positions, S key positions (docs/shapes.md).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

__all__ = ["causal_bias", "hiding", "padding_bias", "score_dtype"]


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


def causal_bias(mask: Array | None, start: Array | int, T: int, S: int, dtype: Any) -> Array:
    """Return what is added to the scores of T queries that stand at `start` in a sequence of S places.

    A query sees what stands before it and itself, as far as the mask lets it. Places behind the last query
    are those of a cache that nothing was written to: they are hidden twice, so that they have no weight even
    where everything else is hidden.

    Args:
        mask: 1 to see and 0 for padding, [B, S'] or [B, T, S']; None hides nothing. Where it is shorter than
            S, what it does not say lies behind the last query.
        start: Place of the first query.
        T: Queries.
        S: Keys.
        dtype: Of the scores.

    Returns:
        [B or 1, 1, T, S]
    """
    keys = jnp.arange(S)  # [S]
    queries = start + jnp.arange(T)[:, None]  # [T, 1]
    bias = jnp.where(keys > queries, hiding(dtype), 0.0).astype(dtype)[None, None]  # [1, 1, T, S]
    if mask is not None:
        padding = padding_bias(mask, dtype)  # [B, 1, 1 or T, S']
        bias += jnp.pad(padding, ((0, 0),) * 3 + ((0, S - mask.shape[-1]),))  # [B, 1, T, S]
    if isinstance(start, int) and start + T == S:
        return bias
    return jnp.where(keys < start + T, bias, 2 * hiding(dtype))  # [B or 1, 1, T, S]
