"""The length of a run and its learning rate."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from gpt2kit.errors import TrainingError
from gpt2kit.training.config import TrainingConfig
from gpt2kit.training.schedule import learning_rate, total_steps, warmup_steps


def test_the_warm_up_is_a_line_and_ends_at_the_peak():
    config = TrainingConfig(learning_rate=0.7, warmup_steps=7)
    rates = [learning_rate(config, step, 53) for step in range(8)]
    assert rates[:7] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert rates[7] == pytest.approx(0.7)


def test_the_cosine_ends_at_its_final_part_with_the_last_step():
    config = TrainingConfig(learning_rate=0.5, warmup_steps=3, final_learning_rate=0.2)
    assert learning_rate(config, 52, 53) == pytest.approx(0.1)
    middle = 3 + (53 - 1 - 3) / 2
    assert middle == 27.5
    around = (learning_rate(config, 27, 53) + learning_rate(config, 28, 53)) / 2
    assert around == pytest.approx((0.5 + 0.1) / 2)


def test_the_learning_rate_never_rises_after_the_warm_up():
    config = TrainingConfig(learning_rate=1.0, warmup_steps=5)
    rates = [learning_rate(config, step, 101) for step in range(101)]
    assert all(later <= earlier for earlier, later in pairwise(rates[5:]))
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_a_learning_rate(steps):
    for warmup in range(steps + 1):
        config = TrainingConfig(learning_rate=1.0, warmup_steps=warmup)
        assert all(0 < learning_rate(config, step, steps) <= 1 for step in range(steps))


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(TrainingError, match="warm-up of 11 steps does not fit into 7"):
        warmup_steps(TrainingConfig(warmup_steps=11), 7)


def test_epochs_become_steps_rounded_up():
    config = TrainingConfig(epochs=2.0, batch_size=3, accumulation=2)
    assert total_steps(config, 31) == math.ceil(62 / 6)
    assert total_steps(config, 31, world=2) == math.ceil(62 / 12)
    assert total_steps(TrainingConfig(batch_size=3), 31) == 11  # one epoch
    assert total_steps(TrainingConfig(steps=5), 31) == 5
