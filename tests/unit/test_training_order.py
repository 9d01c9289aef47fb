"""The order of the blocks: a pure function that ranks can slice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2kit.errors import TrainingError
from gpt2kit.training.order import BlockOrder

SIZES = {"tokens": 211, "block_size": 7, "batch_size": 3, "accumulation": 2}


def test_equal_seeds_make_equal_orders_and_other_seeds_others():
    orders = [BlockOrder(**SIZES, seed=seed) for seed in (5, 5, 6)]
    first, again, other = (np.concatenate([order.starts(step, 0) for step in range(5)]) for order in orders)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_step_does_not_depend_on_the_steps_before():
    walked, jumped = BlockOrder(**SIZES, seed=1), BlockOrder(**SIZES, seed=1)
    for step in range(23):
        last = walked.starts(step, 1)
    assert np.array_equal(last, jumped.starts(22, 1))


def test_the_order_is_the_same_on_every_machine_and_version():
    # Recorded once. If this fails, runs of an older version can no longer be resumed exactly.
    order = BlockOrder(tokens=101, block_size=7, batch_size=5, accumulation=1, seed=17)
    assert order.starts(0, 0).tolist() == [45, 87, 24, 17, 10]
    assert order.starts(2, 0).tolist() == [80, 59, 66, 63, 49]


@given(
    tokens=st.integers(2, 300),
    block_size=st.integers(1, 31),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_an_epoch_takes_each_of_its_blocks_once_and_inside_the_text(tokens, block_size, batch_size, seed):
    if tokens < block_size + 1:
        return
    order = BlockOrder(tokens, block_size, batch_size, 1, seed)
    blocks = order.blocks_per_epoch
    steps = -(-2 * blocks // batch_size)
    starts = np.concatenate([order.starts(step, 0) for step in range(steps)])
    for epoch in (starts[:blocks], starts[blocks : 2 * blocks]):
        assert len(set(epoch.tolist())) == blocks
        assert len({start % block_size for start in epoch.tolist()}) == 1  # no two overlap
        assert epoch.min() >= 0
        assert epoch.max() + block_size + 1 <= tokens
    assert blocks * block_size > tokens - 1 - 2 * block_size  # at most two blocks are left out


def test_epochs_cut_the_text_at_other_places():
    order = BlockOrder(tokens=10_007, block_size=101, batch_size=1, accumulation=1, seed=3)
    offsets = {int(order.starts(epoch * order.blocks_per_epoch, 0)[0]) % 101 for epoch in range(7)}
    assert len(offsets) > 1


def test_devices_share_what_one_device_would_learn():
    whole = BlockOrder(tokens=997, block_size=7, batch_size=6, accumulation=2, seed=2)
    ranks = [BlockOrder(997, 7, 2, 2, 2, rank=rank, world=3) for rank in range(3)]
    for step in range(5):
        for micro in range(2):
            together = np.concatenate([rank.starts(step, micro) for rank in ranks])
            assert np.array_equal(together, whole.starts(step, micro))


def test_accumulation_goes_on_where_the_portion_before_ended():
    once = BlockOrder(tokens=997, block_size=7, batch_size=6, accumulation=1, seed=2)
    twice = BlockOrder(tokens=997, block_size=7, batch_size=3, accumulation=2, seed=2)
    together = np.concatenate([twice.starts(4, 0), twice.starts(4, 1)])
    assert np.array_equal(together, once.starts(4, 0))


def test_a_text_shorter_than_a_block_is_refused():
    with pytest.raises(TrainingError, match="need 8 tokens, and the text for training has 7"):
        BlockOrder(tokens=7, block_size=7, batch_size=1, accumulation=1, seed=0)
    assert BlockOrder(tokens=8, block_size=7, batch_size=1, accumulation=1, seed=0).starts(5, 0).tolist() == [
        0
    ]


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(rank, world):
    with pytest.raises(TrainingError, match="rank must be"):
        BlockOrder(**SIZES, seed=0, rank=rank, world=world)
