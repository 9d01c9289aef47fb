"""Which part of each parameter lies on which device: one table, and what puts arrays where it says.

The devices stand in a mesh of two axes. Along "data" each has other texts, along "model" each has another
part of the weights (tensor parallelism):

    mesh = make_mesh(data=2, model=4)
    state = place(state, mesh)  # parameters, and what an optimizer keeps of each
    there = shardings(state, mesh)
    step = jax.jit(make_train_step(model, optimizer), donate_argnums=0, out_shardings=(there, None))
    state, measures = step(state, *place_batch((inputs, targets), mesh))

XLA puts the exchanges between devices into the compiled program; the model knows nothing of them.

Dimensions: A portions of a step, B batch, T positions, D n_embd, M width of the MLP, P positions that the
model has, V vocabulary (docs/shapes.md).

Source:
    Shoeybi et al., "Megatron-LM", 2020, section 3: the first product of a block is split by its outputs, the
    second by its inputs, so that one sum over the devices follows both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gpt2kit.errors import InputError

__all__ = ["PARTITION", "make_mesh", "partition_specs", "place", "place_batch", "shardings"]

Table = Mapping[str, P]

#: End of a parameter's path -> how its axes lie on the mesh; P() is whole on each device. Kernels: [out, in].
PARTITION: Table = {
    "wte/embedding": P("model", None),  # [V, D]: some of the vocabulary
    "wpe/embedding": P(),  # [P, D]
    "ln_*/scale": P(),  # [D]
    "ln_*/bias": P(),  # [D]
    "attn/c_attn/kernel": P("model", None),  # [3D, D]: some of the heads
    "attn/c_attn/bias": P("model"),  # [3D]
    "attn/c_proj/kernel": P(None, "model"),  # [D, D]
    "attn/c_proj/bias": P(),  # [D]
    "crossattention/q_attn/kernel": P("model", None),  # [D, D]
    "crossattention/q_attn/bias": P("model"),  # [D]
    "crossattention/c_attn/kernel": P("model", None),  # [2D, D]
    "crossattention/c_attn/bias": P("model"),  # [2D]
    "crossattention/c_proj/kernel": P(None, "model"),  # [D, D]
    "crossattention/c_proj/bias": P(),  # [D]
    "mlp/c_fc/kernel": P("model", None),  # [M, D]: some of the width
    "mlp/c_fc/bias": P("model"),  # [M]
    "mlp/c_proj/kernel": P(None, "model"),  # [D, M]
    "mlp/c_proj/bias": P(),  # [D]
    "lm_head/kernel": P(None, "model"),  # [D, V], where it is not tied to wte
}


def make_mesh(data: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices in a mesh with the axes "data" and "model".

    Args:
        data: How many groups of devices read other texts.
        model: How many devices share the weights of one model.
        devices: Which; the first data * model of all there are, unless told.

    Raises:
        InputError: There are not so many devices.
    """
    there = list(jax.devices() if devices is None else devices)
    if data < 1 or model < 1 or data * model > len(there):
        raise InputError(
            f"A mesh of data={data} x model={model} needs {data * model} devices, each number at least 1, "
            f"and there are {len(there)}. (XLA_FLAGS=--xla_force_host_platform_device_count=8, set before "
            "JAX is imported, makes eight of one CPU.)"
        )
    axis_types = (AxisType.Auto, AxisType.Auto)  # XLA finds out how what lies between is split
    return jax.make_mesh((data, model), ("data", "model"), axis_types, devices=there[: data * model])


def partition_specs(tree: Any, table: Table = PARTITION) -> Any:
    """Look every leaf of a tree up in the table: the same tree with a PartitionSpec for each.

    The tree may be the parameters, or anything that holds trees of the same names, such as the state of an
    optimizer. Whole on every device is what is no part of such a tree (a count, a rate, a key of random
    numbers), and what has fewer axes than the row says or one number (averages of rows or columns).

    Raises:
        InputError: A parameter of which the table says nothing.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _spec(_names(path), leaf, table), tree)


def shardings(tree: Any, mesh: Mesh, table: Table = PARTITION) -> Any:
    """Return where each leaf of a tree goes: the same tree with a NamedSharding for each.

    Args:
        tree: As for `partition_specs`; shapes alone (`jax.eval_shape`) suffice.
        mesh: The devices, with the axes that the table names.
        table: For own parameters or another layout: `{**PARTITION, "wte/embedding": P()}`.

    Raises:
        InputError: A parameter that the table does not have, or that does not divide among the devices.
    """

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        names = _names(path)
        spec = _spec(names, leaf, table)
        _check_divides("/".join(names), leaf.shape, spec, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, tree)


def place(tree: Any, mesh: Mesh, table: Table = PARTITION) -> Any:
    """Put parameters, or a whole `TrainState`, on the devices of a mesh. Errors are those of `shardings`."""
    return jax.device_put(tree, shardings(tree, mesh, table))


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Put ids of [B, T] or [A, B, T], or a tree of such arrays, on a mesh: each "data" has its own of the B.

    Raises:
        InputError: B does not divide among them.
    """

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        if leaf.ndim < 2:
            raise InputError(f"A batch is [B, T] or [A, B, T], and one of shape {leaf.shape} came.")
        spec = P(*[None] * (leaf.ndim - 2), "data", None)
        _check_divides(f"batch{jax.tree_util.keystr(path)}", leaf.shape, spec, mesh)
        return NamedSharding(mesh, spec)

    return jax.device_put(batch, jax.tree_util.tree_map_with_path(sharding, batch))


def _names(path: Sequence[Any]) -> list[str]:
    """Keep the names at the end of a path that come from dictionaries: those of a parameter."""
    dictionaries = takewhile(lambda key: isinstance(key, jax.tree_util.DictKey), reversed(path))
    return [str(key.key) for key in dictionaries][::-1]


def _spec(names: Sequence[str], leaf: Any, table: Table) -> P:
    """Find the row of a parameter by the end of its path."""
    if not names or not leaf.shape:
        return P()
    for pattern, spec in table.items():
        wanted = pattern.split("/")
        if len(names) >= len(wanted) and all(map(fnmatchcase, names[-len(wanted) :], wanted)):
            return spec if len(leaf.shape) >= len(spec) and math.prod(leaf.shape) != 1 else P()
    raise InputError(
        f"The table of partitions has no row for the parameter {'/'.join(names)}: add one, "
        f'{{**PARTITION, "{"/".join(names[-2:])}": PartitionSpec()}}, which keeps it whole on every device.'
    )


def _check_divides(name: str, shape: Sequence[int], spec: P, mesh: Mesh) -> None:
    """Refuse an array whose axes do not divide among the devices that share them."""
    for axis, entry in enumerate(spec):
        if entry is None:
            continue
        along = entry if isinstance(entry, tuple) else (entry,)
        missing = [repr(part) for part in along if part not in mesh.shape]
        if missing:
            raise InputError(
                f"{name} lies along {', '.join(missing)}, and the mesh has {', '.join(mesh.shape)}: "
                "use make_mesh, or another table."
            )
        ways = math.prod(mesh.shape[part] for part in along)
        if shape[axis] % ways:
            raise InputError(
                f"{name} of shape {tuple(shape)} cannot be split {ways} ways along {', '.join(along)!r}: "
                f"axis {axis} has {shape[axis]}. Take fewer devices, sizes that divide (a vocabulary grows "
                "by resizing the embeddings), or a table that keeps it whole: PartitionSpec()."
            )
