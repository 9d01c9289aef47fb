"""Loss and perplexity of a held-out text: every token predicted exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt2kit.errors import TrainingError
from gpt2kit.training.data import TokenShards

__all__ = ["IGNORED", "Evaluation", "evaluate", "evaluation_batches"]

IGNORED = -100  # a target that counts for nothing; the number that the losses of all frameworks know

SumOfLosses = Callable[[NDArray[np.int64], NDArray[np.int64]], float]  # inputs, targets [B, T] -> nats


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text.

    Attributes:
        loss: mean over the tokens, in nats.
        tokens: how many were predicted: all but the first.
        bits_per_byte: the same per byte of text, which compares models with different tokenizers.
    """

    loss: float
    tokens: int
    bits_per_byte: float

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many tokens the model is as unsure as a fair die. Infinite beyond floats."""
        return math.exp(self.loss) if self.loss < math.log(1.7e308) else math.inf


def evaluation_batches(
    text: TokenShards, block_size: int, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cut a text of N tokens into windows of at most T inputs: tokens 1 to N - 1 are each a target once.

    Window i has the inputs from iT on and the targets from iT + 1 on. The last one is filled up: its inputs
    with token 0, its targets with `IGNORED`; attention is causal, so what is filled in at the end
    changes nothing.

    Yields:
        Inputs and targets, both [B, T], where the last B may be smaller.
    """
    targets_in_all = len(text) - 1
    starts = range(0, targets_in_all, block_size)
    for first in range(0, len(starts), batch_size):
        rows = starts[first : first + batch_size]
        inputs = np.zeros((len(rows), block_size), np.int64)  # [B, T]
        targets = np.full((len(rows), block_size), IGNORED, np.int64)  # [B, T]
        for row, start in enumerate(rows):
            length = min(block_size, targets_in_all - start)
            tokens = text.read(start, length + 1)  # [length + 1]
            inputs[row, :length], targets[row, :length] = tokens[:-1], tokens[1:]
        yield inputs, targets


def evaluate(text: TokenShards, block_size: int, batch_size: int, sum_of_losses: SumOfLosses) -> Evaluation:
    """Average a model's loss over a whole text.

    Args:
        text: the tokens.
        block_size: T, the context of the model.
        batch_size: windows predicted at once.
        sum_of_losses: the room's part: inputs and targets [B, T] -> sum of -log p(target), without `IGNORED`.

    Raises:
        TrainingError: fewer than two tokens, so that there is nothing to predict.
    """
    if len(text) < 2:
        raise TrainingError(
            f"The text for evaluation has {len(text)} token(s), and at least 2 are needed: give more text, "
            "another --eval-file, or --eval-fraction 0 to go without."
        )
    tokens = len(text) - 1
    total = math.fsum(
        sum_of_losses(inputs, targets) for inputs, targets in evaluation_batches(text, block_size, batch_size)
    )
    return Evaluation(total / tokens, tokens, total / math.log(2) / max(1, text.bytes))
