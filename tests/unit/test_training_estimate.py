"""About how much memory a run takes: the loss counts for no more than a chunk of it."""

from __future__ import annotations

from typing import Any

from gpt2kit.config import GPT2Config
from gpt2kit.training import TrainingConfig
from gpt2kit.training.estimate import memory


def activations(**settings: Any) -> int:
    return memory(TrainingConfig(**settings), GPT2Config(), 124_439_808, 1024).activations


def test_the_logits_of_one_chunk_are_counted() -> None:
    whole = activations(batch_size=8, loss_chunk_size=0)
    chunked = activations(batch_size=8)
    assert whole - chunked == 7 * 1024 * 3 * 50257 * 4


def test_a_chunk_is_never_more_than_the_batch() -> None:
    assert activations(batch_size=1, loss_chunk_size=5000) == activations(batch_size=1, loss_chunk_size=0)


def test_jax_and_tensorflow_hold_the_attention_weights_without_their_dropout_too() -> None:
    weights = 8 * 1024 * 1024 * 12 * 12 * 4
    for framework, with_dropout, without in (("torch", 2, 0), ("flax", 4, 3), ("tensorflow", 3, 2)):
        rest = activations(framework="torch", attention_dropout=0.0)
        assert activations(framework=framework, attention_dropout=0.1) - rest == with_dropout * weights
        assert activations(framework=framework, attention_dropout=0.0) - rest == without * weights
