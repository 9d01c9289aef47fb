"""Training, the part that every room shares: settings, text, token shards, order, schedule, record.

Read in this order: config.py, text.py, data.py, order.py, schedule.py, evaluate.py, record.py, run.py,
loop.py. No framework is imported here; a room's own `training.py` fills the loop with tensors
(`gpt2kit.torch.training`, `gpt2kit.flax.training`).

Names are looked up when they are first used (PEP 562): the command line reads its options from
`gpt2kit.training.config`, and its help should not wait for NumPy and the tokenizers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2kit.training.config import TrainingConfig as TrainingConfig
    from gpt2kit.training.data import Recipe as Recipe
    from gpt2kit.training.data import TokenData as TokenData
    from gpt2kit.training.data import TokenShards as TokenShards
    from gpt2kit.training.data import fingerprint as fingerprint
    from gpt2kit.training.data import prepare as prepare
    from gpt2kit.training.evaluate import Evaluation as Evaluation
    from gpt2kit.training.loop import TrainingLoop as TrainingLoop
    from gpt2kit.training.order import BlockOrder as BlockOrder
    from gpt2kit.training.record import Metrics as Metrics
    from gpt2kit.training.record import Observer as Observer
    from gpt2kit.training.record import RunFolder as RunFolder
    from gpt2kit.training.run import Run as Run
    from gpt2kit.training.run import resume as resume
    from gpt2kit.training.run import start as start
    from gpt2kit.training.schedule import learning_rate as learning_rate

_PUBLIC: dict[str, tuple[str, ...]] = {
    "gpt2kit.training.config": ("TrainingConfig",),
    "gpt2kit.training.data": ("Recipe", "TokenData", "TokenShards", "fingerprint", "prepare"),
    "gpt2kit.training.evaluate": ("Evaluation",),
    "gpt2kit.training.loop": ("TrainingLoop",),
    "gpt2kit.training.order": ("BlockOrder",),
    "gpt2kit.training.record": ("Metrics", "Observer", "RunFolder"),
    "gpt2kit.training.run": ("Run", "resume", "start"),
    "gpt2kit.training.schedule": ("learning_rate",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*sorted(_MODULE_OF)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name and return that name from it."""
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module 'gpt2kit.training' has no attribute {name!r}") from None
    return getattr(importlib.import_module(module), name)
