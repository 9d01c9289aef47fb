"""What JAX computes for `gpt2kit doctor` (cli/selfcheck.py)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax import Array
from numpy.typing import NDArray

from gpt2kit.checkpoint.flax_names import flax_path, is_reversed
from gpt2kit.checkpoint.layout import tensor_specs
from gpt2kit.cli.flax import device as known
from gpt2kit.cli.selfcheck import CONFIG, SPLIT, Case
from gpt2kit.flax import FlaxGPT2LMHeadModel

__all__ = ["KERNELS", "devices", "logits"]

KERNELS = ("eager",)  # the room has one: the formula as it stands, compiled here as in a generation


def devices() -> list[dict[str, str]]:
    """List the devices that JAX can compute on."""
    jax.config.update("jax_enable_compilation_cache", False)  # what is checked is what is compiled now
    found = []
    for name, device in known.devices().items():
        size = (device.memory_stats() or {}).get("bytes_limit")
        memory = "" if size is None else f", {size / 1e9:.0f} GB"
        kind = "through XLA" if name == "cpu" else device.device_kind
        found.append({"name": name, "description": f"{kind}{memory}"})
    return found


def logits(device: str, kernel: str, case: Case) -> tuple[NDArray[Any], ...]:
    """Compute the logits [B, T, V] by one call, and by two with a cache, as one compiled program."""
    model = FlaxGPT2LMHeadModel(CONFIG, _do_init=False)
    B, T = case.ids.shape

    def compute(params: Any, ids: Array, mask: Array) -> tuple[Array, Array]:
        whole = model(ids, attention_mask=mask, params=params).logits  # [B, T, V]
        cache = model.init_cache(B, T)
        first = model(
            ids[:, :SPLIT], attention_mask=mask[:, :SPLIT], params=params, past_key_values=cache
        )  # logits [B, SPLIT, V]
        rest = model(
            ids[:, SPLIT:], attention_mask=mask, params=params, past_key_values=first.past_key_values
        )  # logits [B, T - SPLIT, V]
        return whole, jnp.concatenate([first.logits, rest.logits], axis=1)  # [B, T, V], [B, T, V]

    params = jax.device_put(parameters(case.weights), known.devices()[device])
    # Accelerators multiply float32 in fewer bits unless told otherwise; that is no fault of theirs.
    with jax.default_matmul_precision("highest"):
        return tuple(np.asarray(found) for found in jax.jit(compute)(params, case.ids, case.mask))


def parameters(weights: dict[str, NDArray[Any]]) -> Any:
    """Bring weights with their official names into Flax's tree."""
    found = {}
    for spec in tensor_specs(CONFIG, head="lm"):
        if spec.tied_to is None:
            path = flax_path(spec)
            values = weights[spec.name]
            found[path] = values.T if is_reversed(path, values.shape) else values
    return unflatten_dict(found)
