"""What every reader of a weights file offers: names, dtypes and shapes first, bytes on demand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from gpt2kit.errors import CheckpointError, InputError

__all__ = ["DTYPES", "DTypeInfo", "RawTensor", "StoredTensor", "TensorFile", "copy_transposed", "fill"]


@dataclass(frozen=True)
class DTypeInfo:
    """How a dtype of the safetensors format lies in memory."""

    itemsize: int
    numpy: DTypeLike  # BF16 has none: its bytes are read as uint16


DTYPES: dict[str, DTypeInfo] = {
    "F64": DTypeInfo(8, np.float64),
    "F32": DTypeInfo(4, np.float32),
    "F16": DTypeInfo(2, np.float16),
    "BF16": DTypeInfo(2, np.uint16),
    "I64": DTypeInfo(8, np.int64),
    "I32": DTypeInfo(4, np.int32),
    "I16": DTypeInfo(2, np.int16),
    "I8": DTypeInfo(1, np.int8),
    "U8": DTypeInfo(1, np.uint8),
    "BOOL": DTypeInfo(1, np.bool_),
}


_STRIP = 64  # rows that are turned at a time


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file has it: its name in the file, its dtype in safetensors' words, its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        try:
            return math.prod(self.shape) * DTYPES[self.dtype].itemsize
        except KeyError:
            raise CheckpointError(
                f"The tensor {self.name} is of dtype {self.dtype}, and gpt2kit reads {', '.join(DTYPES)}. "
                "Convert it first."
            ) from None


@dataclass(frozen=True)
class RawTensor:
    """Values of any framework on their way into a file: row-major, little-endian.

    Attributes:
        dtype: In safetensors' words.
        shape: Shape of the values.
        buffer: Their bytes, or what makes them when they are written, so that not all are there at once.
    """

    dtype: str
    shape: tuple[int, ...]
    buffer: memoryview | Callable[[], memoryview]

    @property
    def nbytes(self) -> int:
        """Bytes that shape and dtype ask for."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def read(self, name: str) -> memoryview:
        """Return the bytes; the name is for the message.

        Raises:
            InputError: They are more or fewer than shape and dtype ask for.
        """
        values = self.buffer if isinstance(self.buffer, memoryview) else self.buffer()
        if values.nbytes != self.nbytes:
            raise InputError(
                f"The tensor {name} has {values.nbytes} bytes, which is not its shape {self.shape}."
            )
        return values


class TensorFile(Protocol):
    """One open file of tensors."""

    path: Path
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]

    def read_into(self, name: str, buffer: memoryview, offset: int = 0) -> None:
        """Fill a writable buffer with a tensor, row-major and little-endian, from byte `offset` on."""

    def close(self) -> None:
        """Close the file; a closed one reads no more."""


def copy_transposed(target: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> None:
    """Copy `values.T` into an array, in strips that fit a processor's cache: several times as fast as whole.

    Shapes:
        target: [n, m], C-contiguous; values: [m, n], C-contiguous.
    """
    for start in range(0, len(values), _STRIP):
        target[:, start : start + _STRIP] = values[start : start + _STRIP].T


def fill(file: FileIO, begin: int, buffer: memoryview) -> bool:
    """Fill a buffer from byte `begin` of an unbuffered file on; return whether the file has so much."""
    file.seek(begin)
    done = 0
    while done < buffer.nbytes:  # one call reads at most 2 GiB
        count = file.readinto(buffer[done:])
        if not count:
            return False
        done += count
    return True
