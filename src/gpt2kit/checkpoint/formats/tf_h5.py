"""Read and write tf_model.h5: HDF5 as Keras 2 wrote it, under the names of 4.34's TensorFlow models.

A single file has a group for each layer of the model, `layer_names`, and in it a data set for each of its
`weight_names`, with the model's name before it. In a shard of several files `layer_names` are the data sets
themselves. Where the values lie is found without the HDF5 library (hdf5_code.py says why); they are read
when they are asked for, under official names and with official axes. Whatever leads out of the file, as
links and external data can, is refused. h5py writes.

Source:
    keras v2.15, saving/legacy/hdf5_format.py, save_weights_to_hdf5_group; transformers v4.34.0,
    modeling_tf_utils.py, save_pretrained and load_tf_shard.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt2kit.checkpoint.formats.hdf5_code import HDF5Error, HDF5Reader
from gpt2kit.checkpoint.formats.tensor_file import DTYPES, RawTensor, StoredTensor, copy_transposed, fill
from gpt2kit.checkpoint.tf_names import is_reversed, official_name, official_shape
from gpt2kit.errors import CheckpointError, InputError, MissingDependencyError

__all__ = ["TFH5File", "write_h5"]

_DTYPES = {
    np.dtype(info.numpy).newbyteorder("<").str: name for name, info in DTYPES.items() if name != "BF16"
}
_LAYERS, _WEIGHTS = "layer_names", "weight_names"
_ATTRIBUTE_BYTES = 64512  # Keras cuts a longer list: the head of an HDF5 object holds 64 KiB
_ADVICE = "It is truncated, damaged or no file of a TensorFlow model: download or save it again."


class TFH5File:
    """An open tf_model.h5.

    Args:
        path: The file.

    Raises:
        CheckpointError: The file is no file of weights, is damaged, or leads out of itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, StoredTensor] = {}
        self._begin: dict[str, int] = {}
        self._reversed: set[str] = set()
        for name, dtype, shape, begin in _Walk(path).tensors():
            official = official_name(name)
            if official in self.tensors:
                raise CheckpointError(
                    f"{path} has the tensor {official} under two names. Remove one of them."
                )
            self.tensors[official] = StoredTensor(official, dtype, official_shape(name, shape))
            self._begin[official] = begin
            if is_reversed(name, shape):
                self._reversed.add(official)
        self._file = path.open("rb", buffering=0)

    def read_into(self, name: str, buffer: memoryview, offset: int = 0) -> None:
        """Read the bytes of a tensor, with the axes of its official name, from byte `offset` on."""
        if name not in self._reversed:
            self._read(name, buffer, self._begin[name] + offset)
            return
        stored = self.tensors[name]  # the layer of a head: small
        values = np.empty(stored.shape[::-1], DTYPES[stored.dtype].numpy)
        self._read(name, values.reshape(-1).view(np.uint8).data, self._begin[name])
        turned = np.empty(stored.shape, values.dtype)
        copy_transposed(turned, values)
        buffer[:] = turned.reshape(-1).view(np.uint8).data[offset : offset + buffer.nbytes]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, name: str, buffer: memoryview, begin: int) -> None:
        if not fill(self._file, begin, buffer):
            raise CheckpointError(f"{self.path} ended inside the tensor {name}. {_ADVICE}")


class _Walk:
    """One walk over the arrays that a file lists."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._reader = HDF5Reader(path)

    def tensors(self) -> list[tuple[str, str, tuple[int, ...], int]]:
        """Return TensorFlow's name, dtype, shape and first byte of each tensor.

        Raises:
            CheckpointError: The file is something else, is damaged, or leads out of itself.
        """
        with closing(self._reader):
            try:
                root = self._reader.root()
                texts = self._reader.texts(root)
                if _LAYERS not in texts and f"{_LAYERS}0" not in texts:
                    raise CheckpointError(self._describe_stranger(self._reader.members(root)))
                return [(name, *self._place(name, node)) for name, node in self._listed(root)]
            except (HDF5Error, UnicodeDecodeError, struct.error, IndexError) as error:
                raise CheckpointError(f"{self._path} cannot be read as HDF5 ({error}). {_ADVICE}") from error

    def _listed(self, root: int) -> Iterator[tuple[str, int]]:
        """Go through the arrays by name, without that of the model."""
        for layer in self._names(root, _LAYERS):
            node = self._node(root, layer)
            if self._reader.array(node) is not None:
                yield layer, node
                continue
            for weight in self._names(node, _WEIGHTS):
                yield weight.split("/", 1)[-1], self._node(node, weight)

    def _names(self, node: int, key: str) -> list[str]:
        """Return a list of names that belongs to a group; a long one was cut into several."""
        texts = self._reader.texts(node)
        keys = [key] if key in texts else []
        while (not keys or keys[0] != key) and f"{key}{len(keys)}" in texts:
            self._reader.spend()
            keys.append(f"{key}{len(keys)}")
        if not keys:
            raise CheckpointError(f"{self._path} cannot be read as HDF5 ({key} is missing). {_ADVICE}")
        return [name for part in keys for name in texts[part]]

    def _node(self, node: int, path: str) -> int:
        """Step down to a group or an array; no step may be a link to another place."""
        for level in path.split("/"):
            self._reader.spend()
            members = self._reader.members(node)
            if level not in members:
                raise CheckpointError(f"{self._path} has not the array {path} that it lists. {_ADVICE}")
            found = members[level]
            if found is None:
                raise CheckpointError(
                    f"{self._path} has a link at {path}, which can lead to any file. Do not use this file."
                )
            node = found
        return node

    def _place(self, name: str, node: int) -> tuple[str, tuple[int, ...], int]:
        """Return dtype, shape and first byte of an array whose values lie in one piece in this file."""
        array = self._reader.array(node)
        if array is None or array.shape is None:
            raise CheckpointError(f"{self._path} lists {name}, which is no array. {_ADVICE}")
        if array.layout == "elsewhere":
            raise CheckpointError(f"{self._path} takes {name} from another file. Do not use this file.")
        if array.layout != "contiguous":
            raise CheckpointError(
                f"{self._path} has {name} compressed or in chunks, which no TensorFlow model of 4.34 writes. "
                "Repack it: h5repack -f NONE -l CONTI."
            )
        size, begin = math.prod(array.shape) * array.itemsize, array.begin
        if size and (begin is None or array.size != size or begin + size > self._size):
            raise CheckpointError(
                f"{self._path} has not the {size:,} bytes of {name} of shape {list(array.shape)}. {_ADVICE}"
            )
        return _DTYPES.get(array.dtype, array.dtype), array.shape, begin or 0

    def _describe_stranger(self, members: Container[str]) -> str:
        """Say what a file without lists of names is."""
        if "layers" in members or "_layer_checkpoint_dependencies" in members:
            return f"{self._path} was written by save_weights of Keras 3. Use load_weights of the same class."
        return f"{self._path} does not list the layers of a model. {_ADVICE}"


def _import_h5py(need: str) -> Any:
    """Import h5py, or say how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            f"{need} Install h5py (`pip install h5py`; gpt2kit[tensorflow] has it), or use safetensors files."
        ) from error
    return h5py


# --------------------------------------------------------------------------- writing


def write_h5(file: IO[bytes], tensors: Mapping[str, RawTensor], *, is_shard: bool) -> None:
    """Write tensors as Keras 2 does, one after another; equal tensors give equal bytes.

    Args:
        file: Open for writing.
        tensors: TensorFlow's name with that of the model -> values, with TensorFlow's axes.
        is_shard: Write one of several files, which has no groups for layers.

    Raises:
        InputError: A dtype that the format does not have.
        MissingDependencyError: h5py is not installed.
    """
    h5py = _import_h5py("A tf_model.h5 is HDF5.")
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(name.split("/")[1], []).append(name)
    disk = _Disk(file)
    try:
        with h5py.File(disk, "w", driver="fileobj") as target:
            if is_shard:
                short = {name.split("/", 1)[1]: tensor for name, tensor in tensors.items()}
                for name in sorted(short):
                    _write_tensor(target, name, short[name])
                _write_names(target, _LAYERS, sorted(short))
                return
            _write_names(target, _LAYERS, list(layers))
            target.attrs["backend"], target.attrs["keras_version"] = b"tensorflow", b"2.15.0"
            for layer, names in layers.items():
                group = target.create_group(layer)
                _write_names(group, _WEIGHTS, names)
                for name in names:
                    _write_tensor(group, name, tensors[name])
    except (OSError, RuntimeError):
        if disk.error is None:
            raise
        raise disk.error from None


class _Disk:
    """A file that remembers why it could not be written, which h5py does not tell."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, values: memoryview) -> int:
        """Write to the file."""
        try:
            return self._file.write(values)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _write_tensor(group: Any, name: str, tensor: RawTensor) -> None:
    """Write one tensor as a data set in one piece, without the time of day."""
    if tensor.dtype == "BF16":
        raise InputError(
            f"The tensor {name} is of dtype BF16, which HDF5 does not have. Cast it first, or save as "
            "safetensors."
        )
    dtype = np.dtype(DTYPES[tensor.dtype].numpy).newbyteorder("<")
    data = group.create_dataset(name, tensor.shape, dtype=dtype, track_times=False)
    values = tensor.read(name)
    if values.nbytes:
        data.write_direct(np.frombuffer(values, dtype).reshape(tensor.shape))


def _write_names(group: Any, key: str, names: Sequence[str]) -> None:
    """Write a list of names, cut into several where HDF5 could not keep it in one piece."""
    encoded = [name.encode() for name in names]
    width = max((len(name) for name in encoded), default=1)
    step = max(1, _ATTRIBUTE_BYTES // width)
    if len(encoded) <= step:
        group.attrs[key] = np.array(encoded, f"S{width}")
        return
    for number, start in enumerate(range(0, len(encoded), step)):
        group.attrs[f"{key}{number}"] = np.array(encoded[start : start + step], f"S{width}")
