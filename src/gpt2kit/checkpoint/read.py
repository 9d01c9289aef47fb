"""Find the weights of a model and read them: one file or many; safetensors, or a framework's own format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from gpt2kit.checkpoint import flax_names, tf_names
from gpt2kit.checkpoint.formats import StoredTensor, TensorFile, copy_transposed
from gpt2kit.checkpoint.formats.flax_msgpack import FlaxMsgpackFile
from gpt2kit.checkpoint.formats.pytorch_bin import PyTorchBinFile
from gpt2kit.checkpoint.formats.safetensors_file import SafetensorsFile
from gpt2kit.checkpoint.formats.tensor_file import DTYPES
from gpt2kit.checkpoint.formats.tf_h5 import TFH5File
from gpt2kit.errors import CheckpointError, FileNotInRepositoryError, InputError
from gpt2kit.hub import HubOptions, find_folder, locate, locate_optional

__all__ = [
    "BIN_NAME",
    "FLAX_NAME",
    "SAFETENSORS_NAME",
    "TF_NAME",
    "Checkpoint",
    "Format",
    "open_checkpoint",
    "with_variant",
]

SAFETENSORS_NAME = "model.safetensors"
BIN_NAME = "pytorch_model.bin"
FLAX_NAME = "flax_model.msgpack"
TF_NAME = "tf_model.h5"
INDEX_SUFFIX = ".index.json"
Format = Literal["safetensors", "pytorch", "flax", "tensorflow"]
_NAME_OF: dict[Format, str] = {
    "safetensors": SAFETENSORS_NAME,
    "pytorch": BIN_NAME,
    "flax": FLAX_NAME,
    "tensorflow": TF_NAME,
}
_FORMAT_OF: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".bin": "pytorch",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".msgpack": "flax",
    ".h5": "tensorflow",
}
# How a format is asked for that was not looked for; a room with other arguments has its own table.
_ASKED_BY: dict[Format, str] = {
    "safetensors": "leave out from_flax and from_tf",
    "pytorch": "leave out from_flax and from_tf",
    "flax": "pass from_flax=True",
    "tensorflow": "pass from_tf=True",
}
_FOREIGN = {"model.ckpt.index": "OpenAI's TensorFlow"}
_POINTER = b"version https://git-lfs"  # how the file that Git LFS puts in place of a large one begins


class Checkpoint(Mapping[str, StoredTensor]):
    """The tensors of one or several open files, by the names that the files give them.

    Use it as a context manager, so that the files are closed.

    Attributes:
        files: The files of weights, in the order of their names.
        metadata: What the first safetensors file says of itself ({"format": "pt"}).
    """

    def __init__(self, files: Iterable[TensorFile]) -> None:
        self._files = list(files)
        self._home: dict[str, TensorFile] = {}
        for file in self._files:
            for name in file.tensors:
                if name in self._home:
                    raise CheckpointError(
                        f"The tensor {name} is both in {self._home[name].path} and in {file.path}. "
                        "Remove the shards that belong to another save."
                    )
                self._home[name] = file
        self.files = [file.path for file in self._files]
        self.metadata = dict(self._files[0].metadata) if self._files else {}

    def __getitem__(self, name: str) -> StoredTensor:
        """Return dtype and shape of a tensor."""
        return self._home[name].tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def read_into(
        self, name: str, buffer: memoryview | np.ndarray[Any, Any], offset: int | None = None
    ) -> None:
        """Read the values of a tensor into memory that is there already, without a copy in between.

        Args:
            name: The tensor's name in the file.
            buffer: Writable, C-contiguous, of exactly the tensor's bytes; dtype and shape of a NumPy array
                are not looked at.
            offset: Byte of the tensor to begin at; then the buffer may be smaller than what follows.

        Raises:
            InputError: The buffer has another size, or cannot be written.
            CheckpointError: The file ends too early.
        """
        if isinstance(buffer, np.ndarray):
            if not buffer.flags.c_contiguous:
                raise InputError(f"The buffer for {name} is not C-contiguous. Pass a contiguous array.")
            buffer = buffer.reshape(-1).view(np.uint8).data
        wanted = self[name].nbytes
        fits = buffer.nbytes == wanted if offset is None else 0 <= offset <= wanted - buffer.nbytes
        if buffer.readonly or not fits:
            raise InputError(
                f"The buffer for {name} must be writable and of {wanted} bytes, "
                f"but it is {'read-only' if buffer.readonly else f'of {buffer.nbytes} bytes'}."
            )
        if buffer.nbytes:
            self._home[name].read_into(name, buffer.cast("B"), offset or 0)

    def numpy(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        """Return a tensor as a new NumPy array; BF16, which NumPy does not have, is widened to float32."""
        stored = self[name]
        wanted = stored.nbytes
        values = np.empty(stored.shape, DTYPES[stored.dtype].numpy)
        if wanted:
            self.read_into(name, values)
        if stored.dtype != "BF16":
            return values
        # bfloat16 is the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)

    def read_reversed_into(self, name: str, target: np.ndarray[Any, Any]) -> None:
        """Read a matrix with its axes reversed, as Flax keeps a kernel, into an array that is there already.

        Values that lie so in the file are read straight into place; others take a detour through one tensor.

        Args:
            name: The tensor's name in the file.
            target: C-contiguous, of the tensor's shape reversed and of its size of values.

        Raises:
            InputError: The tensor is no matrix, or the array has another shape.
            CheckpointError: The file ends too early.
        """
        stored, wanted = self[name], self[name].nbytes
        fits = target.shape == stored.shape[::-1] and target.nbytes == wanted and target.flags.c_contiguous
        if len(stored.shape) != 2 or not fits:
            raise InputError(
                f"{name} of shape {list(stored.shape)} with {wanted} bytes needs a contiguous array with its "
                f"two axes reversed, but it is of shape {list(target.shape)} with {target.nbytes} bytes."
            )
        file = self._home[name]
        if not wanted or (
            isinstance(file, FlaxMsgpackFile)
            and file.read_reversed_into(name, target.reshape(-1).view(np.uint8).data)
        ):
            return
        values = np.empty(stored.shape, target.dtype)
        self.read_into(name, values)
        copy_transposed(target, values)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Checkpoint of {len(self)} tensors in {', '.join(path.name for path in self.files)}>"


def open_checkpoint(
    name_or_path: str | os.PathLike[str],
    options: HubOptions | None = None,
    *,
    use_safetensors: bool | None = None,
    variant: str | None = None,
    formats: Sequence[Format] = ("safetensors", "pytorch"),
    asked_by: Mapping[Format, str] = _ASKED_BY,
) -> Checkpoint:
    """Open the weights of a folder, a name on the hub, or a single file.

    In a folder or repository the first of these is taken: model.safetensors, model.safetensors.index.json,
    pytorch_model.bin, pytorch_model.bin.index.json. A flax_model.msgpack, a tf_model.h5, or the index of one
    is opened where `formats` asks for it; its tensors have official names and axes.

    Args:
        name_or_path: Folder, name, or a file of weights or index.
        options: Revision, cache, token, subfolder and so on.
        use_safetensors: True for safetensors only, False for the other formats only.
        variant: A word in the file names, "fp16" for model.fp16.safetensors.
        formats: What may be opened, in the order of the search.
        asked_by: Other format -> what to do in order to open it, for messages: "pass from_flax=True".

    Returns:
        The open checkpoint; nothing but names, dtypes and shapes has been read.

    Raises:
        HubError: No such place, or no weights in it.
        CheckpointError: A file that is truncated, tampered with or unsafe.
    """
    options = options or HubOptions()
    path = Path(name_or_path)
    if path.is_file():
        _refuse_format(path, formats, asked_by)
        return _open_path(path, path.parent, HubOptions())
    candidates = [
        with_variant(_NAME_OF[kind] + suffix, variant)
        for kind in formats
        for suffix in ("", INDEX_SUFFIX)
        if use_safetensors is None or use_safetensors is (kind == "safetensors")
    ]
    for candidate in candidates:
        _refuse_folder(name_or_path, candidate, options)
        found = locate_optional(name_or_path, candidate, options)
        if found is not None:
            return _open_path(found, name_or_path, options)
    others = {_NAME_OF[kind]: way for kind, way in asked_by.items() if kind not in formats}
    raise FileNotInRepositoryError(_describe_no_weights(name_or_path, candidates, others, options))


def _open_path(path: Path, place: str | os.PathLike[str], options: HubOptions) -> Checkpoint:
    """Open one file of weights, or all files of an index."""
    if path.suffix != ".json":
        return Checkpoint([_open_file(path)])
    weight_map = _read_index(path)
    shards: list[TensorFile] = []
    try:
        for shard in sorted(set(weight_map.values())):
            try:
                shards.append(_open_file(locate(place, shard, options)))
            except FileNotInRepositoryError as error:
                raise CheckpointError(
                    f"{path} lists the file {shard}, which is not there. Download or save the model again."
                ) from error
        checkpoint = Checkpoint(shards)
        by_name = {shard.path.name: shard for shard in shards}
        for name, shard in weight_map.items():
            file = by_name[Path(shard).name]
            if _official_name(name, file) not in file.tensors:
                raise CheckpointError(
                    f"{path} says that the tensor {name} is in {shard}, and it is not. "
                    "Index and files are of two different saves: download or save the model again."
                )
    except BaseException:
        for open_file in shards:
            open_file.close()
        raise
    return checkpoint


def _official_name(name: str, file: TensorFile) -> str:
    """Return the name that a reader gives to what an index calls so."""
    if isinstance(file, FlaxMsgpackFile):
        return flax_names.official_name(name.split("/"))
    if isinstance(file, TFH5File):
        return tf_names.official_name(name.split("/", 1)[-1])  # without the name of the model
    return name


def _open_file(path: Path) -> TensorFile:
    """Open one file of weights by the kind that its name tells."""
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if not start:
        raise CheckpointError(f"{path} is empty. Download or save it again.")
    if start == _POINTER:
        raise CheckpointError(
            f"{path} only points to a file that Git LFS keeps. Run `git lfs pull` in its folder."
        )
    kind = _FORMAT_OF.get(path.suffix)
    if kind == "safetensors":
        return SafetensorsFile(path)
    if kind == "pytorch":
        return PyTorchBinFile(path)
    if kind == "flax":
        return FlaxMsgpackFile(path)
    if kind == "tensorflow":
        return TFH5File(path)
    raise CheckpointError(f"{path} is of no known format. Known are {', '.join(_FORMAT_OF)}.")


def _refuse_format(path: Path, formats: Sequence[Format], asked_by: Mapping[Format, str]) -> None:
    """Refuse a file of a format that the caller did not ask for."""
    kind = _FORMAT_OF.get(Path(path.name.removesuffix(INDEX_SUFFIX)).suffix)
    if kind is not None and kind not in formats:
        way = asked_by.get(kind)
        raise CheckpointError(
            f"{path} has weights in the format of {kind}, which was not asked for."
            + (f" {way[0].upper()}{way[1:]}." if way else "")
        )


def _read_index(path: Path) -> dict[str, str]:
    """Read and check which tensor lies in which file; the files must lie beside the index."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no valid JSON ({error}). Download or save it again.") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path} has no `weight_map` of tensor names to files. Download or save it again."
        )
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or shard in ("", ".", "..") or set(shard) & set("/\\:\0"):
            raise CheckpointError(
                f"{path} says that the tensor {name} is in {shard!r}, "
                "which is not the name of a file beside it. Do not use this index."
            )
    return weight_map


def with_variant(filename: str, variant: str | None) -> str:
    """Put the variant where 4.34 does: before the last suffix."""
    stem, _, suffix = filename.rpartition(".")
    return filename if variant is None else f"{stem}.{variant}.{suffix}"


def _refuse_folder(name_or_path: str | os.PathLike[str], candidate: str, options: HubOptions) -> None:
    """Refuse a folder where a file of weights should be, rather than look on for another one."""
    folder = find_folder(name_or_path)
    if folder is not None and (folder / options.subfolder / candidate).is_dir():
        raise CheckpointError(
            f"{folder / options.subfolder / candidate} is a folder, and a file of weights was expected. "
            "Remove it."
        )


def _describe_no_weights(
    name_or_path: str | os.PathLike[str],
    candidates: Sequence[str],
    others: Mapping[str, str],
    options: HubOptions,
) -> str:
    """Say what was looked for, and what there is in its stead."""
    folder = find_folder(name_or_path)
    text = f"{os.fspath(name_or_path)!r} has no weights that can be read: looked for {', '.join(candidates)}."
    if folder is None:
        ways = "".join(f" For {name}, {way}." for name, way in others.items())
        return f"{text} Check the files on its page, `use_safetensors`, `variant` and `subfolder`.{ways}"
    there = {entry.name for entry in (folder / options.subfolder).glob("*")}
    for name, way in others.items():
        if there & {name, name + INDEX_SUFFIX}:
            return f"{text} It has {name}: {way} to read that."
    for name, framework in _FOREIGN.items():
        if name in there:
            return text + f" It has {framework} weights ({name}), which this version cannot read yet."
    listing = ", ".join(sorted(name for name in there if not name.startswith("."))[:8]) or "nothing"
    return text + f" The folder has {listing}. Pass the folder that a model was saved in."
