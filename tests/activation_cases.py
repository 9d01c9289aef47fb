"""What the tests of activations by name share: a model in float64, and the arguments of its calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cases import make_inputs, random_checkpoint, tiny_config
from drivers import TorchDriver
from gpt2kit import GPT2Config

__all__ = ["IDS", "arguments", "make"]

IDS = torch.from_numpy(make_inputs(tiny_config()).input_ids)


def make(config: GPT2Config | None = None, kernel: str = "auto") -> Any:
    """Make a float64 model in evaluation mode, of the weights that goldens are made of."""
    config = tiny_config() if config is None else config
    return TorchDriver().build(config, random_checkpoint(config), kernel=kernel)


def arguments(config: GPT2Config, padding: str | None = None) -> dict[str, Tensor]:
    """Return the arguments of a call, an encoder among them where there is cross-attention."""
    arrays = make_inputs(config, padding=padding).as_dict()
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
