"""Read a pytorch_model.bin: a pickle, opened by PyTorch's restricted reader, which runs no code of the file.

This is the one module of the core that imports a framework, and only when such a file is opened: the
format is PyTorch's own.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2kit.checkpoint.formats.tensor_file import StoredTensor
from gpt2kit.errors import CheckpointError, MissingDependencyError

__all__ = ["PyTorchBinFile"]

_DTYPE_NAMES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
# What the restricted unpickler, or the zip reader under it, meets in a damaged file.
_DAMAGE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class PyTorchBinFile:
    """An open pytorch_model.bin; the current zip format is mapped into memory, the older one is read whole.

    Args:
        path: The file.

    Raises:
        CheckpointError: The pickle asks for more than tensors, is damaged, or holds no state dict.
        MissingDependencyError: PyTorch is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._values = _load_state_dict(path)
        self.tensors = {
            name: StoredTensor(name, _DTYPE_NAMES.get(str(value.dtype), str(value.dtype)), tuple(value.shape))
            for name, value in self._values.items()
        }

    def read_into(self, name: str, buffer: memoryview, offset: int = 0) -> None:
        """Copy the bytes of a tensor from byte `offset` on into `buffer`."""
        import torch

        values = self._values[name].detach().contiguous()
        source = values.reshape(-1).view(torch.uint8).numpy()
        if source.nbytes:
            buffer[:] = memoryview(source)[offset : offset + buffer.nbytes]

    def close(self) -> None:
        """Let the tensors, and with them the mapped file, go."""
        self._values = {}


def _load_state_dict(path: Path) -> dict[str, Any]:
    """Read name -> tensor, and refuse everything else."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is in PyTorch's own format. "
            "Install gpt2kit[torch] to read it, or use a safetensors file."
        ) from error
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(_describe_refusal(path, str(error))) from error
    except _DAMAGE as error:
        raise CheckpointError(_describe_damage(path)) from error
    if not isinstance(values, Mapping) or not values:
        raise CheckpointError(f"{path} holds {type(values).__name__} where name -> tensor was expected.")
    strangers = [name for name, value in values.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        raise CheckpointError(
            f"{path} is no state dict: {strangers[0]!r} is no tensor but of type "
            f"{type(values[strangers[0]]).__name__}. If the weights lie under one of its keys, "
            "save that part alone."
        )
    sparse = [name for name, value in values.items() if value.layout is not torch.strided]
    if sparse:
        raise CheckpointError(
            f"{path} holds {sparse[0]} as a sparse tensor. Convert it first: tensor.to_dense()."
        )
    return dict(values)


def _describe_refusal(path: Path, reason: str) -> str:
    """Say that a pickle was refused, with the function that it asked for."""
    asked = re.search(r"(?:GLOBAL|global|class|function)\s+`?([\w.]+\.[\w]+)", reason)
    if asked is None:
        return _describe_damage(path)
    return (
        f"{path} was refused, and nothing in it was run: it asks for {asked.group(1)}, and weights need no "
        "code. Use a safetensors file, or one from a source that you trust, saved as plain tensors."
    )


def _describe_damage(path: Path) -> str:
    return f"{path} cannot be read as PyTorch weights. It is truncated or damaged: download or save it again."
