"""Flax models of given weights, for tests that need no folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from numpy.typing import NDArray

from gpt2kit.checkpoint import tensor_specs
from gpt2kit.checkpoint.flax_names import flax_path, is_reversed
from gpt2kit.config import GPT2Config
from gpt2kit.flax import FlaxGPT2LMHeadModel
from gpt2kit.flax.tree import unflatten

__all__ = ["build_flax", "params_of"]


def params_of(config: GPT2Config, weights: Mapping[str, NDArray[Any]], dtype: Any = None) -> dict[str, Any]:
    """Return the tree of weights with official names; a tied one is left out."""
    leaves = {}
    for spec in tensor_specs(config):
        if spec.tied_to is None:
            path, values = flax_path(spec), weights[spec.name]
            leaves[path] = jnp.asarray(values.T if is_reversed(path, values.shape) else values, dtype)
    return unflatten(leaves)


def build_flax(
    config: GPT2Config, weights: Mapping[str, NDArray[Any]], **options: Any
) -> FlaxGPT2LMHeadModel:
    """Return a model of these weights; none are drawn before, which would take seconds."""
    model = FlaxGPT2LMHeadModel(config, _do_init=False, **options)
    model._is_initialized = True
    model.params = params_of(config, weights)
    return model
