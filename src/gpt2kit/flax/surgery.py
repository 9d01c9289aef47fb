"""Changes to a finished model: another number of tokens."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gpt2kit.errors import InputError
from gpt2kit.flax import tree
from gpt2kit.flax.tree import Tree

__all__ = ["resize_token_embeddings"]


def resize_token_embeddings(
    model: Any,
    new_num_tokens: int | None = None,
    pad_to_multiple_of: int | None = None,
    params: Tree | None = None,
    rng: Array | None = None,
) -> Tree:
    """Change the number of tokens of a model: in its parameters, its module and its configuration.

    Added rows are drawn as fresh weights are; where tokens are taken away, the last rows go. The arrays of
    the old parameters stay as they are, and so does the configuration that the model had: it gets a copy.

    Args:
        model: A Flax model.
        new_num_tokens: The new vocabulary size, usually len(tokenizer); None keeps it.
        pad_to_multiple_of: Round it up to a multiple of this.
        params: The parameters of a model that was made with _do_init=False, and only of such a one.
        rng: What the added rows are drawn from; the model's own key unless told.

    Returns:
        The new parameters, which the model also holds, unless it was made with _do_init=False.

    Raises:
        InputError: A size that is no positive number, or parameters that are not the model's.
    """
    if params is not None and model._is_initialized:
        raise InputError(
            "This model holds parameters of its own; params are for one made with _do_init=False."
        )
    params = model.params if params is None else tree.checked(params, model.params_shape_tree)
    size = _size(model.config.vocab_size, new_num_tokens, pad_to_multiple_of)
    if size == model.config.vocab_size:
        return params
    keys = iter(jax.random.split(model.key if rng is None else rng))
    leaves = tree.flatten(params)
    for path, leaf in leaves.items():
        if path[-2:] == ("wte", "embedding"):  # [V, D]
            leaves[path] = _resized(leaf, 0, size, next(keys), model.config.initializer_range)
        elif path == ("lm_head", "kernel"):  # [D, V]
            leaves[path] = _resized(leaf, 1, size, next(keys), model.config.initializer_range)
    model.config = copy.deepcopy(model.config)
    model.config.vocab_size = size
    model.module = model.module.clone(config=model.config)
    model._params_shape_tree = jax.eval_shape(
        lambda key: model.init_weights(key, model.input_shape), model.key
    )
    params = tree.unflatten(leaves)
    if model._is_initialized:
        model.params = params
    return params


def _size(size: int, new_num_tokens: int | None, pad_to_multiple_of: int | None) -> int:
    """Return the size that is asked for."""
    for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name} should be a positive whole number, but it is {value!r}.")
    size = size if new_num_tokens is None else new_num_tokens
    return size if pad_to_multiple_of is None else -(-size // pad_to_multiple_of) * pad_to_multiple_of


def _resized(table: Any, axis: int, size: int, key: Array, deviation: float) -> Array:
    """Return a table with another number of tokens along one axis; new ones are normal."""
    kept = jax.lax.slice_in_dim(table, 0, min(size, table.shape[axis]), axis=axis)  # [V, D] or [D, V]
    shape = list(table.shape)
    shape[axis] = max(0, size - table.shape[axis])
    added = deviation * jax.random.normal(key, shape)  # [V, D] or [D, V], of what is new
    return jnp.concatenate([kept, added.astype(table.dtype)], axis)  # [V, D] or [D, V]
