"""The folders that 4.34's TensorFlow models saved (tools/record_tf_files.py), and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpt2kit.checkpoint import head_of, tensor_specs
from gpt2kit.checkpoint.tf_names import is_reversed, tf_name, tf_shape
from gpt2kit.config import GPT2Config

__all__ = ["COMPUTED", "SAVED", "official_weights"]

SAVED = Path(__file__).parent / "golden" / "tf_files"
COMPUTED = dict(np.load(SAVED / "computed.npz"))
_SEEDS = {"whole": 5, "shards": 7, "body": 11, "double": 13, "labels": 17}


def official_weights(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Draw the weights of a folder again, as the recorder did, by official names and with official axes."""
    config = GPT2Config.from_pretrained(SAVED / name)
    specs = [spec for spec in tensor_specs(config, head=head_of(config)) if spec.tied_to is None]
    generator = np.random.default_rng(_SEEDS[name])
    weights = {}
    for spec in sorted(specs, key=lambda spec: tf_name(spec.name)):
        path = tf_name(spec.name)
        drawn = 0.3 * generator.normal(size=tf_shape(path, spec.shape)) + path.endswith("gamma:0")
        values = drawn.astype(np.float32)
        weights[spec.name] = values.T if is_reversed(path, spec.shape) else values.reshape(spec.shape)
    return weights
