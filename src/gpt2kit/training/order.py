"""Which tokens each step learns from: a pure function of (seed, step, rank, world).

Nothing is drawn while training, so there is no position to save: a run that is resumed at step 1,000 asks for
step 1,000. Devices that share a run ask for their own slice of the same order.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpt2kit.errors import TrainingError

__all__ = ["BlockOrder"]


class BlockOrder:
    """The order in which blocks of a text are learnt.

    The text of N tokens is cut into blocks of T inputs, each with its T next tokens as targets. Every pass
    through the text (epoch) cuts it at another offset and takes the blocks in another order, both drawn from
    the seed.

    Args:
        tokens: N, tokens in the text.
        block_size: T, tokens of a block.
        batch_size: B, blocks of one forward pass on one device.
        accumulation: forward passes of one step.
        seed: decides the order.
        rank: which of the devices this is.
        world: how many devices share the run.

    Raises:
        TrainingError: the text is shorter than one block and its next token.

    Example:
        >>> order = BlockOrder(tokens=100, block_size=7, batch_size=2, accumulation=1, seed=0)
        >>> order.blocks_per_epoch, order.starts(step=3, micro=0).shape
        (13, (2,))
    """

    def __init__(
        self,
        tokens: int,
        block_size: int,
        batch_size: int,
        accumulation: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if tokens < block_size + 1:
            raise TrainingError(
                f"A block of {block_size} tokens and its next one need {block_size + 1} tokens, "
                f"and the text for training has {tokens}: give more text, or a smaller --block-size."
            )
        if not 0 <= rank < world:
            raise TrainingError(f"rank must be from 0 to world - 1 = {world - 1}, got {rank}.")
        self.tokens, self.block_size, self.batch_size = tokens, block_size, batch_size
        self.accumulation, self.seed, self.rank, self.world = accumulation, seed, rank, world
        # One block fewer than fit leaves room to shift the cuts by up to a block from epoch to epoch.
        self.blocks_per_epoch = max(1, (tokens - 1) // block_size - 1)

    def starts(self, step: int, micro: int) -> NDArray[np.int64]:
        """Return where the B blocks of one forward pass begin in the text."""
        portion = (step * self.accumulation + micro) * self.world + self.rank
        first = portion * self.batch_size
        positions = [divmod(first + row, self.blocks_per_epoch) for row in range(self.batch_size)]
        return np.array([self._epoch(epoch)[slot] for epoch, slot in positions], np.int64)  # [B]

    def epoch_of(self, step: int) -> float:
        """Return how often the text has been gone through before a step."""
        return step * self.accumulation * self.world * self.batch_size / self.blocks_per_epoch

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        return _epoch_starts(self.tokens, self.block_size, self.blocks_per_epoch, self.seed, epoch)


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def _epoch_starts(tokens: int, block_size: int, blocks: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle the starts of one epoch's blocks: [blocks_per_epoch].

    Only the raw bits of Philox are used, and sorting them is the shuffle: NumPy keeps a bit generator's
    stream the same in all versions and on all machines, and does not promise that of what is drawn from it.
    """
    stream = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    spare = tokens - 1 - blocks * block_size
    offset = int(stream.random_raw()) % (spare + 1)
    shuffled = np.argsort(stream.random_raw(blocks), kind="stable")  # [blocks]
    return (offset + block_size * shuffled).astype(np.int64)  # [blocks]
