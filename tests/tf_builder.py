"""Build a language model of TensorFlow from the official weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit.config import GPT2Config

__all__ = ["build_tf"]


def build_tf(config: GPT2Config, weights: Mapping[str, NDArray[Any]], dtype: str = "float32") -> Any:
    """Make a language model of these weights; nothing ends its texts but their length."""
    from gpt2kit.tensorflow import TFGPT2LMHeadModel

    model = TFGPT2LMHeadModel(config, dtype=dtype)
    for variable in model.variables:
        _, _, path = variable.path.rpartition("transformer/")
        name = path.replace("h_._", "h.").replace("/", ".")
        found = weights.get(f"transformer.{name}", weights.get(name))
        assert found is not None, name
        variable.assign(np.asarray(found, variable.dtype))
    model.generation_config.eos_token_id = None
    return model
