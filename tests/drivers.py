"""The only code that treats the rooms alike: build, call, gradients, generate. NumPy goes in and comes out.

A room that is not installed is left out of `DRIVERS`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit.config import GPT2Config

__all__ = ["DRIVERS", "TorchDriver"]

Arrays = dict[str, Any]


class TorchDriver:
    """The PyTorch room."""

    name = "torch"
    kernels = ("eager", "sdpa", "auto")

    def build(
        self,
        config: GPT2Config,
        weights: Mapping[str, NDArray[Any]],
        dtype: str = "float64",
        kernel: str = "auto",
        cls: str = "GPT2LMHeadModel",
    ) -> Any:
        """Make a model of the given weights; `cls` is the name of its class."""
        import torch

        import gpt2kit.torch as room

        state = {name: torch.from_numpy(values) for name, values in weights.items()}
        return getattr(room, cls).from_pretrained(
            None, config=config, state_dict=state, torch_dtype=dtype, attn_implementation=kernel
        )

    def call(self, model: Any, **inputs: Any) -> Arrays:
        """Call the model; the fields of its output come as arrays, nested tuples stacked."""
        import torch

        with torch.no_grad():
            return self._arrays(model(**self._tensors(model, inputs)))

    def step(self, model: Any, **inputs: Any) -> Arrays:
        """Call the model as `call` does, and return the room's own cache too, under "past"."""
        import torch

        with torch.no_grad():
            output = model(**self._tensors(model, inputs), use_cache=True)
        return {**self._arrays(output), "past": output.past_key_values}

    def gradients(self, model: Any, **inputs: Any) -> tuple[Arrays, Arrays]:
        """Return the output of a call and the gradients of its losses, of a head mask too.

        What the losses do not depend on has gradients of zero.
        """
        import torch

        tensors = self._tensors(model, inputs)
        wanted = dict(model.named_parameters())
        if "head_mask" in tensors:
            wanted["head_mask"] = tensors["head_mask"].requires_grad_()
        model.zero_grad()
        output = model(**tensors)
        sum(output[name] for name in ("loss", "mc_loss") if name in output).backward()
        gradients = {
            name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            for name, tensor in wanted.items()
        }
        return self._arrays(output), {name: gradient.numpy() for name, gradient in gradients.items()}

    def generate(self, model: Any, input_ids: NDArray[Any], **options: Any) -> NDArray[Any]:
        """Return the generated ids."""
        return model.generate(**self._tensors(model, {"input_ids": input_ids, **options})).numpy()

    def _tensors(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        def tensor(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(tensor(item) for item in value)
            if not isinstance(value, np.ndarray):
                return value
            result = torch.from_numpy(value)
            return result.to(model.dtype) if result.is_floating_point() else result

        return {name: tensor(value) for name, value in inputs.items()}

    def _arrays(self, output: Any) -> Arrays:
        def array(value: Any) -> NDArray[Any]:
            if isinstance(value, tuple):  # of choices, the last hidden states alone have their own axis
                items = [array(item) for item in value]
                return np.stack([item.reshape(items[0].shape) for item in items])
            return value.detach().numpy()

        return {name: array(value) for name, value in output.items()}


DRIVERS = [driver for driver in (TorchDriver(),) if importlib.util.find_spec(driver.name) is not None]
