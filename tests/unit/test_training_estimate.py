"""About how much memory a run takes: the loss counts for no more than a chunk of it."""

from __future__ import annotations

from gpt2kit.config import GPT2Config
from gpt2kit.training import TrainingConfig
from gpt2kit.training.estimate import memory


def activations(**settings: int) -> int:
    return memory(TrainingConfig(**settings), GPT2Config(), 124_439_808, 1024).activations


def test_the_logits_of_one_chunk_are_counted() -> None:
    whole = activations(batch_size=8, loss_chunk_size=0)
    chunked = activations(batch_size=8)
    assert whole - chunked == 7 * 1024 * 3 * 50257 * 4


def test_a_chunk_is_never_more_than_the_batch() -> None:
    assert activations(batch_size=1, loss_chunk_size=5000) == activations(batch_size=1, loss_chunk_size=0)
