"""What `gpt2kit train` trains with in TensorFlow."""

from __future__ import annotations

from gpt2kit.tensorflow.training import Trainer
from gpt2kit.training import Observer, Run

__all__ = ["trainer"]


def trainer(run: Run, observer: Observer) -> Trainer:
    """Make the loop of a run."""
    return Trainer(run, observer)
