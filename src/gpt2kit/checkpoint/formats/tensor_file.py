"""What every reader of a weights file offers: names, dtypes and shapes first, bytes on demand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from gpt2kit.errors import CheckpointError

__all__ = ["DTYPES", "DTypeInfo", "StoredTensor", "TensorFile"]


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


class TensorFile(Protocol):
    """One open file of tensors."""

    path: Path
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]

    def read_into(self, name: str, buffer: memoryview, offset: int = 0) -> None:
        """Fill a writable buffer with a tensor, row-major and little-endian, from byte `offset` on."""

    def close(self) -> None:
        """Close the file; a closed one reads no more."""
