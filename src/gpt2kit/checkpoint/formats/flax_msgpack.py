"""Read and write flax_model.msgpack: a tree of arrays in MessagePack, as flax.serialization has it.

The file is one map of maps; a leaf is an extension that holds shape, name of the dtype and the values in one
piece. An array above 1 GiB is cut into a map of flat pieces. Reading walks over the codes and remembers where
the values lie; they are read when they are asked for, under official names and with official axes.

Source:
    flax v0.7.2, flax/serialization.py, msgpack_serialize and msgpack_restore.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt2kit.checkpoint.flax_names import flax_shape, is_reversed, official_name
from gpt2kit.checkpoint.formats.msgpack_code import (
    CodeError,
    CodeReader,
    binary_code,
    extension_code,
    list_code,
    map_code,
    number_code,
    text_code,
)
from gpt2kit.checkpoint.formats.tensor_file import DTYPES, RawTensor, StoredTensor, copy_transposed, fill
from gpt2kit.errors import CheckpointError, InputError

__all__ = ["FlaxMsgpackFile", "write_tree"]

# Names of dtypes in safetensors' words and in NumPy's, which Flax writes.
_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_ARRAY, _SCALAR = 1, 3  # Flax's extensions that hold an array
_CUT, _SHAPE, _PIECES = "__msgpack_chunked_array__", "shape", "chunks"  # keys of an array that is cut
_PIECE_BYTES = 2**30  # Flax cuts what is larger, because MessagePack counts bytes with 32 bits
_DEPTH = 32  # levels of a tree; GPT-2 has six
_AXES = 8  # of an array; weights have two
_ENTRIES = 2**20  # of a tree; XL has 580
_ADVICE = "It is truncated, damaged or no file of Flax: download or save it again."


@dataclass(frozen=True)
class _Leaf:
    """Where the values of an array lie: (first byte, bytes) of each piece, in order."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]


class FlaxMsgpackFile:
    """An open flax_model.msgpack.

    Args:
        path: The file.

    Raises:
        CheckpointError: The file is no tree of arrays, or ends too early.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        leaves = _Walk(path).leaves()
        self._leaves: dict[str, _Leaf] = {}
        self._reversed: set[str] = set()
        for place, leaf in leaves.items():
            name = official_name(place)
            if name in self._leaves:
                raise CheckpointError(f"{path} has the tensor {name} under two names. Remove one of them.")
            self._leaves[name] = leaf
            if is_reversed(place, leaf.shape):
                self._reversed.add(name)
        self.tensors = {
            official_name(place): StoredTensor(
                official_name(place), leaf.dtype, flax_shape(place, leaf.shape)
            )
            for place, leaf in leaves.items()
        }
        self._held: tuple[str, np.ndarray[Any, Any]] | None = None
        self._file = path.open("rb", buffering=0)

    def read_into(self, name: str, buffer: memoryview, offset: int = 0) -> None:
        """Read the bytes of a tensor, with the axes of its official name, from byte `offset` on."""
        if name not in self._reversed:
            self._read(name, buffer, offset)
            return
        whole = buffer.nbytes == self.tensors[name].nbytes
        turned = self._turned(name, keep=not whole)  # a view, rows as the official shape has them
        width = turned.shape[1] * turned.itemsize
        first, last = offset // width, -(-(offset + buffer.nbytes) // width)
        if whole:
            copy_transposed(np.frombuffer(buffer, turned.dtype).reshape(turned.shape), turned.T)
            return
        rows = np.ascontiguousarray(turned[first:last]).reshape(-1).view(np.uint8)
        skipped = offset - first * width
        buffer[:] = rows[skipped : skipped + buffer.nbytes].data

    def read_reversed_into(self, name: str, buffer: memoryview) -> bool:
        """Read the bytes of a whole tensor with its axes reversed, if that is how they lie in the file.

        Returns:
            Whether they do; otherwise nothing is read.
        """
        if name in self._reversed:
            self._read(name, buffer, 0)
        return name in self._reversed

    def close(self) -> None:
        """Close the file."""
        self._held = None
        self._file.close()

    def _turned(self, name: str, keep: bool) -> np.ndarray[Any, Any]:
        """Return a tensor whose axes the file has reversed as a view with official axes.

        One tensor at a time is kept for whoever reads in pieces.
        """
        if self._held is not None and self._held[0] == name:
            return self._held[1]
        self._held = None
        leaf = self._leaves[name]
        values = np.empty(leaf.shape, DTYPES[leaf.dtype].numpy)
        self._read(name, values.reshape(-1).view(np.uint8).data, 0)
        if keep:
            self._held = (name, values.T)
        return values.T

    def _read(self, name: str, buffer: memoryview, offset: int) -> None:
        """Read bytes of a tensor in the order in which they lie in the file."""
        for begin, size in self._leaves[name].pieces:
            taken = min(max(0, size - offset), buffer.nbytes)
            if taken and not fill(self._file, begin + offset, buffer[:taken]):
                raise CheckpointError(f"{self.path} ended inside the tensor {name}. {_ADVICE}")
            buffer = buffer[taken:]
            offset = max(0, offset - size)


class _Walk:
    """One walk over the codes of a file, from its first byte to its last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = 0

    def leaves(self) -> dict[tuple[str, ...], _Leaf]:
        """Return where each array of the tree lies, by its path.

        Raises:
            CheckpointError: The file is something else, damaged, or ends too early.
        """
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            self._codes = CodeReader(file, size)
            try:
                tree = self._map(())
                if self._codes.position != size:
                    raise CodeError(f"{size - self._codes.position:,} bytes behind the tree")
            except CodeError as error:
                raise CheckpointError(
                    f"{self._path} is no tree of arrays: at byte {self._codes.position:,} came {error}. "
                    f"{_ADVICE}"
                ) from None
        leaves: dict[tuple[str, ...], _Leaf] = {}
        self._flatten(tree, (), leaves)
        return leaves

    def _map(self, place: tuple[str, ...]) -> dict[str, Any]:
        """Read a map, and the maps in it."""
        entries: dict[str, Any] = {}
        if len(place) > _DEPTH:
            raise CodeError(f"a tree of more than {_DEPTH} levels")
        for _ in range(self._codes.read("map").count):
            key = self._codes.text()
            self._entries += 1
            if key in entries or self._entries > _ENTRIES:
                raise CodeError(
                    f"the name {'/'.join((*place, key))!r} twice" if key in entries else "too many names"
                )
            entries[key] = self._value((*place, key))
        return entries

    def _value(self, place: tuple[str, ...]) -> Any:
        """Read what belongs to a name: a map, an array, or a value that only a cut array may have."""
        start = self._codes.position
        code = self._codes.read()
        if code.kind == "map":
            self._codes.skip(start - self._codes.position)
            return self._map(place)
        if code.kind == "extension":
            if code.extension not in (_ARRAY, _SCALAR):
                raise CodeError(f"an extension {code.extension} at {'/'.join(place)}, which is no array")
            return self._array(self._codes.position + code.count)
        if code.kind in ("number", "other"):
            return code
        raise CodeError(f"a {code.kind} at {'/'.join(place)}, which is no array")

    def _array(self, end: int) -> _Leaf:
        """Read shape and dtype of an array, and step over its values."""
        codes = self._codes
        if codes.read("list").count != 3:
            raise CodeError("an array that is not a shape, a dtype and values")
        shape = tuple(codes.read("number").count for _ in range(codes.read("list").count))
        name = codes.text()
        size = codes.read("binary").count
        leaf = _Leaf(_DTYPES.get(name, name), shape, ((codes.position, size),))
        codes.skip(size)
        if codes.position != end or not _fits(leaf):
            raise CodeError(f"{size:,} bytes for an array of shape {list(shape)} and dtype {name}")
        return leaf

    def _flatten(
        self, tree: dict[str, Any], place: tuple[str, ...], leaves: dict[tuple[str, ...], _Leaf]
    ) -> None:
        """Collect the arrays of a tree by their paths; those that were cut become one again."""
        for key, value in tree.items():
            path = (*place, key)
            if isinstance(value, dict) and _CUT in value:
                value = self._joined(path, value)
            if isinstance(value, dict):
                self._flatten(value, path, leaves)
            elif isinstance(value, _Leaf):
                leaves[path] = value
            else:
                raise CheckpointError(
                    f"{self._path} has a single value at {'/'.join(path)}, and weights are arrays. If it is "
                    "the state of a training, save its `params` alone."
                )

    def _joined(self, path: tuple[str, ...], cut: dict[str, Any]) -> _Leaf:
        """Return an array that was cut into pieces."""
        shape = [getattr(size, "count", -1) for size in _numbered(cut.get(_SHAPE))]
        pieces = _numbered(cut.get(_PIECES))
        if pieces and all(isinstance(piece, _Leaf) for piece in pieces):
            places = tuple(place for piece in pieces for place in piece.pieces)
            leaf = _Leaf(pieces[0].dtype, tuple(shape), places)
            if _fits(leaf) and len({piece.dtype for piece in pieces}) == 1:
                return leaf
        raise CheckpointError(
            f"{self._path} has {'/'.join(path)} in pieces that make no array of shape {shape}. {_ADVICE}"
        )


def _numbered(entries: Any) -> list[Any]:
    """Return the values of a map with the keys "0", "1", ... in that order; an empty list for another map."""
    keys = [str(number) for number in range(len(entries))] if isinstance(entries, dict) else []
    return [entries[key] for key in keys] if set(keys) == set(entries or ()) else []


def _fits(leaf: _Leaf) -> bool:
    """Tell whether an array has the bytes that its shape asks for; of an unknown dtype, whether it could."""
    spread = math.prod(max(size, 1) for size in leaf.shape)  # an empty array may have a shape beyond NumPy's
    if min(leaf.shape, default=0) < 0 or len(leaf.shape) > _AXES or spread >= 2**48:
        return False
    wanted, size = math.prod(leaf.shape), sum(size for _, size in leaf.pieces)
    return wanted * DTYPES[leaf.dtype].itemsize == size if leaf.dtype in DTYPES else True


# --------------------------------------------------------------------------- writing


def write_tree(file: IO[bytes], tensors: Mapping[str, RawTensor]) -> None:
    """Write arrays as Flax's to_bytes does, byte for byte, one after another.

    Args:
        file: Open for writing.
        tensors: Path ("transformer/wte/embedding") -> values, with Flax's axes.

    Raises:
        InputError: A dtype that the format does not have, or a path that leads on below a tensor.
    """
    tree: dict[str, Any] = {}
    for path, tensor in tensors.items():
        *levels, last = path.split("/")
        branch = tree
        for level in levels:
            branch = branch.setdefault(level, {})
            if not isinstance(branch, dict):
                raise InputError(
                    f"There is a tensor above {path}: a name is either a tensor or has others below."
                )
        if tensor.dtype not in _NAMES:
            raise InputError(
                f"The tensor {path} is of dtype {tensor.dtype}, which this format does not have."
            )
        branch[last] = tensor
    _write(file, tree, "")


def _write(file: IO[bytes], value: Any, path: str) -> None:
    """Write a map in its order, or an array."""
    if isinstance(value, RawTensor):
        _write_array(file, value, value.read(path))
        return
    file.write(map_code(len(value)))
    for key, below in value.items():
        file.write(text_code(key))
        _write(file, below, f"{path}/{key}".lstrip("/"))


def _write_array(file: IO[bytes], tensor: RawTensor, values: memoryview) -> None:
    """Write an array, in pieces where it is too large for one."""
    if values.nbytes <= _PIECE_BYTES:
        _write_piece(file, tensor.dtype, tensor.shape, values)
        return
    itemsize = DTYPES[tensor.dtype].itemsize
    step = max(1, _PIECE_BYTES // itemsize) * itemsize
    file.write(map_code(3) + text_code(_CUT) + b"\xc3")  # True
    file.write(text_code(_SHAPE) + map_code(len(tensor.shape)))
    for axis, size in enumerate(tensor.shape):
        file.write(text_code(str(axis)) + number_code(size))
    starts = range(0, values.nbytes, step)
    file.write(text_code(_PIECES) + map_code(len(starts)))
    for number, start in enumerate(starts):
        piece = values[start : start + step]
        file.write(text_code(str(number)))
        _write_piece(file, tensor.dtype, (piece.nbytes // itemsize,), piece)


def _write_piece(file: IO[bytes], dtype: str, shape: tuple[int, ...], values: memoryview) -> None:
    """Write shape, dtype and values as one extension."""
    head = list_code(3) + list_code(len(shape)) + b"".join(map(number_code, shape))
    head += text_code(_NAMES[dtype]) + binary_code(values.nbytes)
    file.write(extension_code(_ARRAY, len(head) + values.nbytes) + head)
    file.write(values)
