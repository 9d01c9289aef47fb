"""The only code that treats the rooms alike: build, call, gradients, generate. NumPy goes in and comes out.

A room that is not installed is left out of `DRIVERS`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit.checkpoint.flax_names import flax_path, is_reversed
from gpt2kit.checkpoint.layout import HEADS, tensor_specs
from gpt2kit.config import GPT2Config

__all__ = ["DRIVERS", "FlaxDriver", "TFDriver", "TorchDriver", "drivers"]

Arrays = dict[str, Any]


class TorchDriver:
    """The PyTorch room."""

    name = "torch"
    kernels = ("eager", "sdpa", "auto")
    classes = tuple(HEADS)
    examples = 40  # of random models

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


class _FlaxModel:
    """A model of the Flax room with its parameters, in a dtype that JAX may have to be switched on for."""

    def __init__(self, model: Any, params: Any, dtype: str) -> None:
        self.model, self.params, self.dtype = model, params, dtype


class FlaxDriver:
    """The Flax room. Nothing is jitted: JAX then compiles each product once for all models of one size."""

    name = "flax"
    kernels = ("eager",)
    classes = ("GPT2Model", "GPT2LMHeadModel")
    examples = 7  # each size of a random model is compiled anew

    def build(
        self,
        config: GPT2Config,
        weights: Mapping[str, NDArray[Any]],
        dtype: str = "float64",
        kernel: str = "eager",
        cls: str = "GPT2LMHeadModel",
    ) -> _FlaxModel:
        """Make a model of the given weights; `cls` is the name of its class in PyTorch."""
        import gpt2kit.flax as room
        from gpt2kit.flax import tree

        assert kernel in self.kernels
        with self._precision(dtype):
            model = getattr(room, f"Flax{cls}")(config, dtype=dtype, _do_init=False)
            flat = {
                path: self._turned(path, weights[name]).astype(dtype)
                for name, path in self._paths(config, cls).items()
            }
            params = tree.checked(tree.unflatten(flat), model.params_shape_tree)
        return _FlaxModel(model, params, dtype)

    def call(self, model: _FlaxModel, **inputs: Any) -> Arrays:
        """Call the model; the fields of its output come as arrays, nested tuples stacked.

        It is called a second time with an empty cache, for what that holds then.
        """
        with self._precision(model.dtype):
            given = self._given(model, inputs)
            if "past_key_values" in given:
                return self._arrays(self._call(model, given))
            plain = self._arrays(self._call(model, given))
            with_cache = self._arrays(
                self._call(model, {**given, "past_key_values": self._empty(model, given)})
            )
            return plain | {"past_key_values": with_cache["past_key_values"]}

    def step(self, model: _FlaxModel, **inputs: Any) -> Arrays:
        """Call the model with a cache, and return the room's own cache too, under "past"."""
        with self._precision(model.dtype):
            given = self._given(model, inputs)
            given.setdefault("past_key_values", self._empty(model, given))
            output = self._call(model, given)
            return {**self._arrays(output), "past": output.past_key_values}

    def gradients(self, model: _FlaxModel, **inputs: Any) -> tuple[Arrays, Arrays]:
        """Return the output of a call and the gradients of its loss, of a head mask too."""
        import jax

        from gpt2kit.flax import tree

        with self._precision(model.dtype):
            given = self._given(model, inputs)
            wanted = {"params": model.params}
            if "head_mask" in given:
                wanted["head_mask"] = given.pop("head_mask")

            def loss_of(wanted: Any) -> tuple[Any, Any]:
                output = self._call(model, {**given, **wanted})
                return output.pop("loss"), output

            gradient_of = jax.value_and_grad(loss_of, has_aux=True)
            (loss, output), found = gradient_of(wanted)
            flat = tree.flatten(found.pop("params"))
            paths = self._paths(model.model.config, type(model.model).__name__.removeprefix("Flax"))
            gradients = {name: self._turned(path, np.asarray(flat[path])) for name, path in paths.items()} | {
                name: np.asarray(gradient) for name, gradient in found.items()
            }
            return self._arrays({"loss": loss, **output}), gradients

    def generate(self, model: _FlaxModel, input_ids: NDArray[Any], **options: Any) -> NDArray[Any]:
        """Return the generated ids."""
        with self._precision(model.dtype):
            made = model.model.generate(input_ids, params=model.params, **options)
        return np.asarray(made.sequences)

    def _precision(self, dtype: str) -> Any:
        """Switch float64 on or off."""
        import jax

        return jax.enable_x64(dtype == "float64")

    def _paths(self, config: GPT2Config, cls: str) -> dict[str, tuple[str, ...]]:
        """Return official name -> path of all parameters."""
        specs = tensor_specs(config, head=HEADS[cls])
        return {spec.name: flax_path(spec) for spec in specs if spec.tied_to is None}

    def _turned(self, path: tuple[str, ...], values: NDArray[Any]) -> NDArray[Any]:
        """Return a tensor as the other side keeps it."""
        return values.T if is_reversed(path, values.shape) else values

    def _given(self, model: _FlaxModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments as the room takes them: no use_cache, a past as its own tree."""
        given = {
            name: value.astype(model.dtype)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            else value
            for name, value in inputs.items()
            if value is not None
        }
        given.setdefault("input_ids", None)
        if isinstance(past := given.get("past_key_values"), tuple):
            given["past_key_values"] = self._filled(self._empty(model, given), past)
        return given

    def _call(self, model: _FlaxModel, given: Mapping[str, Any]) -> Any:
        """Call the model; the loss of labels is under "loss", as the other room has it."""
        from gpt2kit.flax.loss import next_token_loss

        labels = given.get("labels")
        rest = {name: value for name, value in given.items() if name != "labels"}
        output = model.model(**{"params": model.params} | rest)
        if labels is None:
            return output
        return {"loss": next_token_loss(output["logits"], labels), **output}

    def _empty(self, model: _FlaxModel, given: Mapping[str, Any]) -> Any:
        """Make a cache with room for all positions that the model has."""
        ids = given["inputs_embeds"] if given["input_ids"] is None else given["input_ids"]
        return model.model.init_cache(len(ids), model.model.config.n_positions)

    def _filled(self, cache: Any, past: tuple[tuple[NDArray[Any], NDArray[Any]], ...]) -> Any:
        """Put pairs of [B, H, S, K] into an empty cache."""
        body = cache.get("transformer", cache)
        for layer, pair in enumerate(past):
            leaves = body["h"][str(layer)]["attn"]
            S = pair[0].shape[2]
            for name, values in zip(("cached_key", "cached_value"), pair, strict=True):
                leaves[name] = leaves[name].at[:, :S].set(values.swapaxes(1, 2))  # [B, P, H, K]
            leaves["cache_index"] = leaves["cache_index"] + S
        return cache

    def _arrays(self, output: Mapping[str, Any]) -> Arrays:
        def pair(leaves: Mapping[str, Any]) -> NDArray[Any]:
            S = int(leaves["cache_index"])
            states = [np.asarray(leaves[name])[:, :S] for name in ("cached_key", "cached_value")]
            return np.stack(states).swapaxes(2, 3)  # [2, B, H, S, K]

        def array(name: str, value: Any) -> NDArray[Any]:
            if name != "past_key_values":
                return np.stack(value) if isinstance(value, tuple) else np.asarray(value)
            blocks = value.get("transformer", value)["h"]
            return np.stack([pair(blocks[str(layer)]["attn"]) for layer in range(len(blocks))])

        return {name: array(name, value) for name, value in output.items()}


class TFDriver:
    """The TensorFlow room, called eagerly."""

    name = "tensorflow"
    kernels = ("eager",)
    classes = ("GPT2Model", "GPT2LMHeadModel", "GPT2DoubleHeadsModel", "GPT2ForSequenceClassification")
    examples = 10  # building a model costs more than calling it

    def build(
        self,
        config: GPT2Config,
        weights: Mapping[str, NDArray[Any]],
        dtype: str = "float64",
        kernel: str = "eager",
        cls: str = "GPT2LMHeadModel",
    ) -> Any:
        """Make a model of the given weights; `cls` is the name of its class in PyTorch."""
        import gpt2kit.tensorflow as room

        assert kernel in self.kernels
        model = getattr(room, f"TF{cls}")(config, dtype=dtype)
        for name, variable in self._variables(model).items():
            variable.assign(weights[name])
        return model

    def call(self, model: Any, **inputs: Any) -> Arrays:
        """Call the model; the fields of its output come as arrays, nested tuples stacked."""
        return self._arrays(model(**self._given(model, inputs)))

    def step(self, model: Any, **inputs: Any) -> Arrays:
        """Call the model as `call` does, and return the room's own cache too, under "past"."""
        output = model(**self._given(model, inputs), use_cache=True)
        return {**self._arrays(output), "past": output.past_key_values}

    def gradients(self, model: Any, **inputs: Any) -> tuple[Arrays, Arrays]:
        """Return the output of a call and the gradients of the means of its losses, of a head mask too."""
        import tensorflow as tf

        given, wanted = self._given(model, inputs), self._variables(model)
        sources = {name: variable.value for name, variable in wanted.items()}
        if "head_mask" in given:
            sources["head_mask"] = given["head_mask"] = tf.constant(given["head_mask"])
        with tf.GradientTape() as tape:
            if "head_mask" in given:
                tape.watch(given["head_mask"])
            output = model(**given)
            loss = sum(tf.reduce_mean(output[name]) for name in ("loss", "mc_loss") if name in output)
        found = tape.gradient(loss, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = {name: tf.convert_to_tensor(gradient).numpy() for name, gradient in found.items()}
        return self._arrays(output), gradients

    def generate(self, model: Any, input_ids: NDArray[Any], **options: Any) -> NDArray[Any]:
        """Return the generated ids."""
        return np.asarray(model.generate(input_ids, **options))

    def _variables(self, model: Any) -> dict[str, Any]:
        """Return official name -> variable of all parameters: the name is the way to it."""
        cls = type(model).__name__.removeprefix("TF")
        specs = tensor_specs(model.config, head=HEADS[cls])
        root = model.transformer if cls == "GPT2Model" else model

        def find(name: str) -> Any:
            found = root
            for part in name.split("."):
                found = found[int(part)] if part.isdigit() else getattr(found, part)
            return found

        return {spec.name: find(spec.name) for spec in specs if spec.tied_to is None}

    def _given(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments without those that are None, floating-point ones in the dtype of the model."""
        return {
            name: value.astype(model.compute_dtype)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            else value
            for name, value in inputs.items()
            if value is not None
        }

    def _arrays(self, output: Mapping[str, Any]) -> Arrays:
        """Return a loss as the mean of what the room returns, which is the loss of the others."""

        def array(name: str, value: Any) -> NDArray[Any]:
            if isinstance(value, tuple):  # of choices, the last hidden states alone have their own axis
                return np.stack([item.numpy().reshape(value[0].shape) for item in value])
            return value.numpy().mean() if name in ("loss", "mc_loss") else value.numpy()

        return {name: array(name, value) for name, value in output.items()}


DRIVERS = [
    driver
    for driver in (TorchDriver(), FlaxDriver(), TFDriver())
    if importlib.util.find_spec(driver.name) is not None
]


def drivers(kernel: str | None = None, cls: str | None = None) -> list[Any]:
    """Return the drivers of the rooms that have a kernel, and a class."""
    return [
        driver for driver in DRIVERS if kernel in (None, *driver.kernels) and cls in (None, *driver.classes)
    ]
