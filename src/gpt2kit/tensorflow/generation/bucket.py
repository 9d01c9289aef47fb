"""Few sizes for many lengths: arrays are made as long as the next of them, so that few programs are compiled.

There are two sizes to a doubling: 16, 24, 32, 48, 64, 96 and so on, up to what the model has.
"""

from __future__ import annotations

__all__ = ["bucket"]

_LEAST = 16  # below, a shorter array would save nothing that can be measured


def bucket(length: int, most: int) -> int:
    """Return the size of an array that holds `length` places.

    Args:
        length: Places that are needed.
        most: Places that the model has; no size is larger, unless the length itself is.

    Example:
        >>> [bucket(length, 1024) for length in (1, 17, 128, 129, 800)]
        [16, 24, 128, 192, 1024]
    """
    size = _LEAST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return min(size, max(most, length))
