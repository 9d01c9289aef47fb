"""The sliding window: which part of a long text a model sees when it scores each token.

A window of W inputs predicts W tokens, one further each. The first window scores all it predicts; each later
one begins `stride` tokens further on and scores only the last `stride`, so that every token is scored once
and, but for those of the first window, with at least W - stride + 1 tokens of context:

    tokens    0 1 2 3 4 5 6 7 8 9        W = 5, stride = 2
    window 0  i i i i i .                inputs 0 to 4 score  1 2 3 4 5
    window 1      . . . i i .            inputs 2 to 6 score            6 7
    window 2          . . . i i .        inputs 4 to 8 score                8 9

stride = W is the cheapest (disjoint windows, one token of context at their borders), stride = 1 the dearest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpt2kit.errors import InputError, LengthError

__all__ = ["Window", "batches", "check_count", "check_window", "plan_windows"]


@dataclass(frozen=True)
class Window:
    """The tokens from `start` up to `stop` of a text: all but the last go in, those from `first` are scored.

    Attributes:
        start: First token that goes in.
        first: First token that is scored; more than `start`.
        stop: One beyond the last token that is scored.
    """

    start: int
    first: int
    stop: int

    @property
    def inputs(self) -> int:
        """How many tokens go in: the last one is only predicted."""
        return self.stop - self.start - 1

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return self.stop - self.first


def check_count(name: str, value: int | None) -> None:
    """Refuse what is no whole number of at least 1; None is for the default.

    Raises:
        InputError: It names the argument and what came.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}.")


def check_window(window: int | None, stride: int | None, n_positions: int) -> tuple[int, int]:
    """Settle the sizes of a sliding window: all positions by default, and half a window of stride.

    Args:
        window: How many tokens go in at once.
        stride: How many tokens are scored by each window after the first.
        n_positions: How many the model can take.

    Returns:
        Window and stride.

    Raises:
        LengthError: The window is larger than the model.
        InputError: One of the two is less than 1, or the stride is larger than the window.
    """
    check_count("window", window)
    check_count("stride", stride)
    window = n_positions if window is None else window
    if window > n_positions:
        raise LengthError(
            f"window={window} was asked for, and the model has n_positions={n_positions}. "
            "Give a smaller window."
        )
    stride = max(1, window // 2) if stride is None else stride
    if stride > window:
        raise InputError(
            f"stride={stride} is more than the window of {window} tokens: the tokens between would be scored "
            "by no window. Give a stride of at most the window."
        )
    return window, stride


def plan_windows(length: int, *, first: int = 1, window: int, stride: int) -> list[Window]:
    """Lay windows over a text so that each token from `first` on is scored by exactly one.

    Args:
        length: N, the tokens of the text.
        first: The first token to score; those before it are context only. Token 0 has no context and cannot
            be scored.
        window: W, how many tokens go in at once.
        stride: How many tokens each window after the first scores.

    Returns:
        The windows from left to right; none where there is nothing to score.

    Source:
        transformers v4.34.0, docs/source/en/perplexity.md, counts the token that is only predicted into the
        window: its max_length is W + 1 here.

    Example:
        >>> [(w.start, w.first, w.stop) for w in plan_windows(10, window=5, stride=2)]
        [(0, 1, 6), (2, 6, 8), (4, 8, 10)]
    """
    first = max(first, 1)
    windows: list[Window] = []
    if first >= length:
        return windows
    # The first window reaches back as far as the model does, also where a long context stands before it.
    stop = min(length, max(window + 1, first + stride))
    start = max(0, stop - window - 1)
    while True:
        windows.append(Window(start, first, stop))
        if stop == length:
            return windows
        start, first = start + stride, stop
        stop = min(length, start + window + 1)


def batches(
    lengths: Sequence[int], *, rows: int | None = None, positions: int | None = None
) -> Iterator[list[int]]:
    """Group rows of like length, the longest first, so that padding them to one length costs little.

    Args:
        lengths: The length of each row.
        rows: At most so many rows to a batch; None for no such limit.
        positions: At most so many positions to a batch, padding included; a row alone may have more. None
            for no such limit.

    Yields:
        The numbers of the rows of each batch.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])  # equal ones keep their order
    batch: list[int] = []
    for row in order:
        full = batch and (
            (rows is not None and len(batch) == rows)
            or (positions is not None and (len(batch) + 1) * lengths[batch[0]] > positions)
        )
        if full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
