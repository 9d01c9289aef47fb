"""Trees of parameters: dictionaries in dictionaries, with arrays at their ends.

A path is the keys that lead to a leaf, ("transformer", "h", "0", "attn", "c_attn", "kernel"), and is written
transformer/h/0/attn/c_attn/kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt2kit.errors import InputError

__all__ = ["Path", "Tree", "cast", "checked", "flatten", "shown", "unflatten"]

Tree = dict[str, Any]
Path = tuple[str, ...]

_SHOWN = 2  # leaves of each kind that a message names


def flatten(tree: Any) -> dict[Path, Any]:
    """Return path -> leaf, in the order of the tree.

    Raises:
        InputError: It is no tree of dictionaries.
    """
    if not isinstance(tree, Mapping):
        raise InputError(f"params should be a tree of dictionaries, but it is a {type(tree).__name__}.")
    return dict(_leaves(tree, ()))


def _leaves(tree: Mapping[Any, Any], above: Path) -> Iterator[tuple[Path, Any]]:
    """Yield the leaves of a dictionary with their paths."""
    for key, value in tree.items():
        path = (*above, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value


def unflatten(leaves: Mapping[Path, Any]) -> Tree:
    """Return the tree of plain dictionaries that has these leaves; no path may lead on below another."""
    tree: Tree = {}
    for (*above, last), leaf in leaves.items():
        branch = tree
        for key in above:
            branch = branch.setdefault(key, {})
        branch[last] = leaf
    return tree


def shown(path: Path) -> str:
    """Write a path as people read it."""
    return "/".join(path)


def checked(params: Any, expected: Tree, partial: bool = False) -> Tree:
    """Return parameters as plain dictionaries, in the order in which the model has them.

    Args:
        params: A tree of dictionaries or of Flax's FrozenDict.
        expected: The tree that is wanted, with shapes at its ends.
        partial: Whether leaves may be missing.

    Raises:
        InputError: Leaves are missing, unknown, of another shape, or hold no floating-point numbers; with
            their paths and both shapes.
    """
    given, wanted = flatten(params), flatten(expected)
    missing = [] if partial else [f"{shown(path)} is missing" for path in wanted if path not in given]
    unknown = [f"{shown(path)} is unknown" for path in given if path not in wanted]
    wrong = [_fault(path, given[path], wanted[path].shape) for path in given if path in wanted]
    kinds = [missing, unknown, [fault for fault in wrong if fault]]
    if any(kinds):
        told = [fault for kind in kinds for fault in kind[:_SHOWN]]
        more = sum(map(len, kinds)) - len(told)
        raise InputError(
            f"params do not fit the model: {'; '.join(told)}{f'; and {more} more' if more else ''}. "
            "model.params_shape_tree has the tree that is wanted."
        )
    return unflatten({path: given[path] for path in wanted if path in given})


def _fault(path: Path, leaf: Any, wanted: tuple[int, ...]) -> str | None:
    """Say what is wrong with a leaf that should be an array of floating-point numbers; None if nothing is."""
    if not isinstance(leaf, jax.Array | np.ndarray):
        return f"{shown(path)} is a {type(leaf).__name__} and no array"
    if leaf.shape != wanted:
        return f"{shown(path)} is {list(leaf.shape)} and should be {list(wanted)}"
    if not _is_floating(leaf):
        return f"{shown(path)} is of dtype {leaf.dtype} and should hold floating-point numbers"
    return None


def cast(params: Any, dtype: Any, mask: Any = None) -> Tree:
    """Return parameters with their floating-point leaves in another dtype; the given ones stay as they are.

    Args:
        params: A tree of parameters, any part of one included.
        dtype: The dtype.
        mask: The same tree with truth values at its ends: False keeps a leaf as it is. None casts all.

    Raises:
        InputError: The mask is another tree, or does not hold truth values.
    """
    leaves = flatten(params)
    chosen = dict.fromkeys(leaves, True) if mask is None else flatten(mask)
    if strangers := sorted(leaves.keys() ^ chosen.keys()):
        side = "params" if strangers[0] in leaves else "mask"
        raise InputError(
            f"mask should be the tree of params with True or False at its ends, but "
            f"{shown(strangers[0])} is in {side} only."
        )
    for path, value in chosen.items():
        if not isinstance(value, bool | np.bool_):
            raise InputError(f"mask should hold True or False, but {shown(path)} is {value!r}.")
    return unflatten(
        {
            path: jnp.asarray(leaf, dtype) if chosen[path] and _is_floating(leaf) else leaf
            for path, leaf in leaves.items()
        }
    )


def _is_floating(leaf: Any) -> bool:
    """Tell whether a leaf is an array of floating-point numbers."""
    return isinstance(leaf, jax.Array | np.ndarray) and bool(jnp.issubdtype(leaf.dtype, jnp.floating))
