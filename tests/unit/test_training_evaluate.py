"""Evaluation: every token but the first is a target, once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpt2kit.errors import TrainingError
from gpt2kit.training.evaluate import IGNORED, Evaluation, evaluate, evaluation_batches


class Text:
    """Tokens 0, 1, 2, ... as shards."""

    def __init__(self, length, size=101):
        self.length, self.bytes = length, size

    def __len__(self):
        return self.length

    def read(self, start, length):
        assert start + length <= self.length
        return np.arange(start, start + length)


@pytest.mark.parametrize("length", [2, 3, 7, 8, 9, 15, 16, 53, 211])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_token_but_the_first_is_a_target_once_with_its_predecessor_as_input(length, batch_size):
    seen = []
    for inputs, targets in evaluation_batches(Text(length), 7, batch_size):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] == 7
        assert len(inputs) <= batch_size
        counted = targets != IGNORED
        assert (targets[counted] == inputs[counted] + 1).all()
        seen += targets[counted].tolist()
    assert seen == list(range(1, length))


def test_the_loss_is_the_mean_over_tokens_whatever_the_batches():
    def sum_of_losses(inputs, targets):
        return float(np.sqrt(targets[targets != IGNORED]).sum())

    expected = np.sqrt(np.arange(1, 53)).mean()
    for block_size, batch_size in ((7, 3), (52, 1), (101, 2), (1, 5)):
        found = evaluate(Text(53), block_size, batch_size, sum_of_losses)
        assert found.tokens == 52
        assert found.loss == pytest.approx(expected, rel=1e-12)
        assert found.perplexity == pytest.approx(math.exp(expected), rel=1e-12)
        assert found.bits_per_byte == pytest.approx(expected * 52 / math.log(2) / 101, rel=1e-12)


def test_a_hopeless_loss_has_an_infinite_perplexity():
    assert Evaluation(1e4, 1, 1.0).perplexity == math.inf


@pytest.mark.parametrize("length", [0, 1])
def test_fewer_than_two_tokens_are_refused(length):
    with pytest.raises(TrainingError, match="at least 2 are needed"):
        evaluate(Text(length), 7, 1, lambda inputs, targets: 0.0)
