"""Save tensors as safetensors, or as Flax or Keras does, in one file or in shards, whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt2kit.atomic import (
    AtomicFiles,
    atomic_file,
    atomic_write_bytes,
    atomic_write_text,
    folder_lock,
    make_folder,
    remove_leftovers,
)
from gpt2kit.checkpoint.formats.flax_msgpack import write_tree
from gpt2kit.checkpoint.formats.tensor_file import DTYPES, RawTensor
from gpt2kit.checkpoint.formats.tf_h5 import write_h5
from gpt2kit.checkpoint.read import FLAX_NAME, INDEX_SUFFIX, SAFETENSORS_NAME, TF_NAME
from gpt2kit.checkpoint.tf_names import is_reversed, model_name, tf_name, tf_shape
from gpt2kit.errors import InputError

__all__ = [
    "RawTensor",
    "atomic_file",
    "atomic_write_bytes",
    "atomic_write_text",
    "folder_lock",
    "parse_size",
    "plan_shards",
    "refuse_shadowed",
    "save_flax",
    "save_safetensors",
    "save_shards",
    "save_tf",
]

_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}
_logger = logging.getLogger(__name__)
_ALIGNMENT = 8  # the format pads its header so that the values begin at a multiple of 8


def save_safetensors(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray[Any, Any] | RawTensor],
    *,
    max_shard_size: int | str = "10GB",
    metadata: Mapping[str, str] | None = None,
    name: str = SAFETENSORS_NAME,
    beside: Mapping[str, str] | None = None,
) -> list[Path]:
    """Save tensors as model.safetensors, or as shards with an index where that would be too large.

    Args:
        folder: Where; made if it is not there.
        tensors: Name -> array, or bytes with dtype and shape.
        max_shard_size: Largest file, as a number of bytes or "5GB", "200MB", "1GiB".
        metadata: What the files say of themselves, {"format": "pt"} unless told.
        name: Name of the single file.
        beside: Name -> text of small files that take their places together with the weights.

    Returns:
        The files of weights written, the index last.

    Raises:
        InputError: A size or a dtype that cannot be understood.
        StorageError: The disk is full, or the folder cannot be written; what was there is untouched.
    """
    raw = {
        key: value if isinstance(value, RawTensor) else _as_raw(key, value) for key, value in tensors.items()
    }
    sizes = {key: value.nbytes for key, value in raw.items()}
    about = {"format": "pt"} if metadata is None else dict(metadata)

    def write(file: IO[bytes], names: Sequence[str]) -> None:
        _write_safetensors(file, {key: raw[key] for key in names}, about)

    written = save_shards(folder, sizes, write, max_shard_size=max_shard_size, name=name, beside=beside)
    if name == SAFETENSORS_NAME:
        _warn_of_others(Path(folder))
    return written


def save_flax(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray[Any, Any] | RawTensor],
    *,
    max_shard_size: int | str = "10GB",
    name: str = FLAX_NAME,
    beside: Mapping[str, str] | None = None,
) -> list[Path]:
    """Save tensors as flax_model.msgpack, or as shards with an index, as 4.34's Flax models read them.

    Args:
        folder: Where; made if it is not there.
        tensors: Path in Flax's tree ("transformer/wte/embedding") -> array, or bytes with dtype and shape;
            the axes are Flax's.
        max_shard_size: Largest file, as a number of bytes or "5GB", "200MB", "1GiB".
        name: Name of the single file.
        beside: Name -> text of small files that take their places together with the weights.

    Returns:
        The files of weights written, the index last.

    Raises:
        InputError: A size or a dtype that cannot be understood.
        StorageError: The disk is full, or the folder cannot be written; what was there is untouched.
    """
    raw = {
        key: value if isinstance(value, RawTensor) else _as_raw(key, value) for key, value in tensors.items()
    }
    sizes = {key: value.nbytes for key, value in raw.items()}

    def write(file: IO[bytes], names: Sequence[str]) -> None:
        write_tree(file, {key: raw[key] for key in names})

    return save_shards(folder, sizes, write, max_shard_size=max_shard_size, name=name, beside=beside)


def save_tf(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray[Any, Any] | RawTensor],
    *,
    class_name: str,
    max_shard_size: int | str = "10GB",
    name: str = TF_NAME,
    beside: Mapping[str, str] | None = None,
) -> list[Path]:
    """Save tensors as tf_model.h5, or as shards with an index, as 4.34's TensorFlow models read them.

    Args:
        folder: Where; made if it is not there.
        tensors: Official name -> array, or bytes with dtype and shape; the axes are the official ones.
        class_name: The class of the model, whose name begins the names in the file: "TFGPT2LMHeadModel".
        max_shard_size: Largest file, as a number of bytes or "5GB", "200MB", "1GiB".
        name: Name of the single file.
        beside: Name -> text of small files that take their places together with the weights.

    Returns:
        The files of weights written, the index last.

    Raises:
        InputError: A size or a dtype that cannot be understood, or a head of its own beside the embeddings,
            which 4.34's TensorFlow models do not have.
        MissingDependencyError: h5py is not installed.
        StorageError: The disk is full, or the folder cannot be written; what was there is untouched.
    """
    if any(official.endswith("lm_head.weight") for official in tensors):
        raise InputError(
            "A tf_model.h5 has no place for lm_head.weight: the head of 4.34's TensorFlow models is always "
            "tied to the embeddings. Save as safetensors."
        )
    raw = {}
    for official, value in tensors.items():
        values = value if isinstance(value, RawTensor) else _as_raw(official, value)
        raw[f"{model_name(class_name)}/{tf_name(official)}"] = _as_tf(tf_name(official), values)
    sizes = {key: value.nbytes for key, value in raw.items()}

    def write(file: IO[bytes], names: Sequence[str]) -> None:
        write_h5(file, {key: raw[key] for key in names}, is_shard=len(names) < len(raw))

    return save_shards(folder, sizes, write, max_shard_size=max_shard_size, name=name, beside=beside)


def _as_tf(name: str, values: RawTensor) -> RawTensor:
    """Return values with the axes that they have under TensorFlow's name; they are turned when written."""
    shape = tf_shape(name, values.shape)
    if not is_reversed(name, shape):
        return RawTensor(values.dtype, shape, values.buffer)

    def turned() -> memoryview:
        flat = np.frombuffer(values.read(name), DTYPES[values.dtype].numpy)
        return np.ascontiguousarray(flat.reshape(values.shape).T).reshape(-1).view(np.uint8).data

    return RawTensor(values.dtype, shape, turned)


def refuse_shadowed(folder: Path, name: str, older: str = SAFETENSORS_NAME) -> None:
    """Refuse to write a file of weights beside safetensors that would be read in its place.

    Args:
        folder: Where it is to be written.
        name: The file to be written.
        older: The safetensors.

    Raises:
        InputError: They are there, or their index is.
    """
    if any((folder / found).exists() for found in (older, f"{older}{INDEX_SUFFIX}")):
        raise InputError(
            f"{folder} holds {older}, which would be read in place of the {name} to be written. "
            "Remove it first, or save to another folder."
        )


def _warn_of_others(folder: Path) -> None:
    """Warn of weights of an older save in another format, which some readers take before safetensors."""
    others = [
        name
        for name in (FLAX_NAME, TF_NAME)
        for end in ("", INDEX_SUFFIX)
        if (folder / f"{name}{end}").exists()
    ]
    if others:
        _logger.warning(
            "%s still holds %s of another save, which is read in place of the new %s where it is asked for, "
            "and by transformers 4.34 in Flax. Remove it if it is of an older model.",
            folder,
            " and ".join(dict.fromkeys(others)),
            SAFETENSORS_NAME,
        )


def save_shards(
    folder: str | os.PathLike[str],
    sizes: Mapping[str, int],
    write: Callable[[IO[bytes], Sequence[str]], None],
    *,
    max_shard_size: int | str,
    name: str,
    beside: Mapping[str, str] | None = None,
) -> list[Path]:
    """Save named tensors into as many files as their sizes ask for, in any format.

    All files are written beside their targets first and then renamed one after another, under the folder's
    lock; only after that are the files of an older save removed. So a full disk loses nothing.

    Args:
        folder: Where; made if it is not there.
        sizes: Name -> bytes.
        write: Writes the tensors of the given names into an open file.
        max_shard_size: Largest file, as a number of bytes or "5GB".
        name: Name of the single file; shards are named after it.
        beside: Name -> text of small files that belong to these weights, such as config.json.

    Returns:
        The files of weights written, the index last.
    """
    target = Path(folder)
    if target.is_file():
        raise InputError(f"{target} is a file; saving needs a folder. Pass another name.")
    make_folder(target)
    shards = plan_shards(sizes, max_shard_size)
    stem, suffix = os.path.splitext(name)
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}{suffix}" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [name]
    with folder_lock(target):
        remove_leftovers(target, f"{stem}*{suffix}*")
        with AtomicFiles() as files:
            for filename, keys in zip(names, shards, strict=True):
                with files.open(target / filename) as file:
                    write(file, keys)
            if len(shards) > 1:
                names.append(f"{name}{INDEX_SUFFIX}")
                with files.open(target / names[-1], "w") as file:
                    file.write(_index_text(names, shards, sum(sizes.values())))
            for filename, text in (beside or {}).items():
                with files.open(target / filename, "w") as file:
                    file.write(text)
        _remove_older(target, stem, suffix, keep=names)
    return [target / filename for filename in names]


def plan_shards(sizes: Mapping[str, int], max_shard_size: int | str) -> list[list[str]]:
    """Share tensors out to files in their order: a file is full when the next tensor would exceed its size.

    A tensor larger than `max_shard_size` has a file of its own.

    Source:
        transformers v4.34.0, modeling_utils.py, shard_checkpoint.
    """
    limit = parse_size(max_shard_size)
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def parse_size(size: int | str) -> int:
    """Read a number of bytes such as 1000, "5GB", "200MB" or "1GiB"; as in 4.34, a small b means bits.

    Raises:
        InputError: It is no size.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)([Bb])", str(size).strip(), re.IGNORECASE)
    if found is None or found.group(2).upper() not in _UNITS or float(found.group(1)) <= 0:
        raise InputError(
            f'max_shard_size={size!r} is no size. Write a number of bytes, or "5GB", "200MB", "1GiB".'
        )
    count = float(found.group(1)) * _UNITS[found.group(2).upper()]
    return max(1, int(count) // (8 if found.group(3) == "b" else 1))


def _as_raw(name: str, values: np.ndarray[Any, Any]) -> RawTensor:
    """Describe a NumPy array as bytes."""
    for dtype, info in DTYPES.items():
        if dtype != "BF16" and values.dtype.newbyteorder("=") == info.numpy:
            flat = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).reshape(-1)
            return RawTensor(dtype, values.shape, flat.view(np.uint8).data)
    raise InputError(
        f"The tensor {name} is of dtype {values.dtype}, which files of weights do not have. Convert it first."
    )


def _write_safetensors(
    file: IO[bytes], tensors: Mapping[str, RawTensor], metadata: Mapping[str, str]
) -> None:
    """Write header and values: wide dtypes first, so that every tensor is aligned, then by name."""
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name].dtype].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(tensors[name].read(name))


def _index_text(names: Sequence[str], shards: Sequence[Sequence[str]], total: int) -> str:
    """Return the JSON that tells which tensor lies in which file."""
    weight_map = {key: filename for filename, keys in zip(names, shards, strict=False) for key in keys}
    return (
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2, sort_keys=True)
        + "\n"
    )


def _remove_older(folder: Path, stem: str, suffix: str, keep: Sequence[str]) -> None:
    """Remove the files of an older save of the same kind: they would be read in place of the new ones."""
    ours = re.compile(
        rf"{re.escape(stem)}(-\d{{5}}-of-\d{{5}})?{re.escape(suffix)}({re.escape(INDEX_SUFFIX)})?"
    )
    for path in folder.iterdir():
        if ours.fullmatch(path.name) and path.name not in keep:
            path.unlink(missing_ok=True)
