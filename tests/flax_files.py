"""The folders that 4.34's Flax models saved (tools/record_flax_files.py), and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpt2kit.checkpoint import tensor_specs
from gpt2kit.checkpoint.flax_names import flax_path, flax_shape, is_reversed
from gpt2kit.config import GPT2Config

__all__ = ["COMPUTED", "SAVED", "official_weights", "tree_order"]

SAVED = Path(__file__).parent / "golden" / "flax_files"
COMPUTED = dict(np.load(SAVED / "computed.npz"))
_SEEDS = {"whole": 5, "shards": 7, "body": 11}


def official_weights(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Draw the weights of a folder again, as the recorder did, by official names and with official axes."""
    config = GPT2Config.from_pretrained(SAVED / name)
    specs = tensor_specs(config, head="none" if name == "body" else "lm")
    generator = np.random.default_rng(_SEEDS[name])
    weights = {}
    for spec in sorted((spec for spec in specs if spec.tied_to is None), key=flax_path):
        path = flax_path(spec)
        shape = flax_shape(path, spec.shape)
        drawn = (0.3 * generator.normal(size=shape) + (path[-1] == "scale")).astype(np.float32)
        weights[spec.name] = drawn.T if is_reversed(path, shape) else drawn
    return weights


def tree_order(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the weights of a folder by Flax's paths and with its axes, in the order of its file."""
    config = GPT2Config.from_pretrained(SAVED / name)
    path_of = {
        spec.name: flax_path(spec) for spec in tensor_specs(config, head="none" if name == "body" else "lm")
    }
    return {
        "/".join(path_of[official]): np.ascontiguousarray(
            values.T if is_reversed(path_of[official], values.shape) else values
        )
        for official, values in official_weights(name).items()
    }
