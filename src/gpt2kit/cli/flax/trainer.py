"""What `gpt2kit train` trains with in JAX; a run that goes on finds its compiled step again."""

from __future__ import annotations

from gpt2kit.cli.flax.programs import open_cache
from gpt2kit.flax.training import Trainer
from gpt2kit.training import Observer, Run

__all__ = ["trainer"]


def trainer(run: Run, observer: Observer) -> Trainer:
    """Make the loop of a run."""
    open_cache()
    return Trainer(run, observer)
