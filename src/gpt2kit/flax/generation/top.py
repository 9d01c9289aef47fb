"""The best scores of many, without sorting the rest.

Dimensions: R rows of scores, V scores of each.
"""

from __future__ import annotations

from jax import Array, lax

__all__ = ["top_k"]


def top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Return the k best scores of each row, the best first, and their places, [R, k] each.

    XLA has a routine for this on CPUs, and knows it by a sort whose first k are all that is used. Where only
    some of them are, `lax.top_k` alone becomes a sort of the whole row, which for a vocabulary takes a
    hundred times as long; hence the barrier, which keeps the k together.

    Args:
        scores: [R, V]
        k: How many; at most V.
    """
    values, places = lax.optimization_barrier(lax.top_k(scores, k))
    return values, places  # [R, k] each
