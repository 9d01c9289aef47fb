"""The file that a run goes on from, beside the weights: arrays of the optimizer, and how far the run is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gpt2kit.checkpoint.write import save_safetensors
from gpt2kit.errors import TrainingError

__all__ = ["read_state", "write_state"]


def write_state(path: Path, arrays: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    """Write NumPy arrays by name, and what JSON can hold of the run, whole or not at all."""
    size = 1 + sum(array.nbytes for array in arrays.values())  # one file
    about = {"progress": json.dumps(progress)}
    save_safetensors(path.parent, dict(arrays), max_shard_size=size, metadata=about, name=path.name)


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays by name, and what is told of the run.

    Raises:
        TrainingError: The file is something else, or cut off.
    """
    try:
        with safe_open(path, "numpy") as file:
            progress = json.loads((file.metadata() or {})["progress"])
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read: {error}") from None
    return arrays, progress
