"""One reader for each format of weights; each gives a `TensorFile`."""

from __future__ import annotations

from gpt2kit.checkpoint.formats.tensor_file import (
    RawTensor,
    StoredTensor,
    TensorFile,
    copy_transposed,
)

__all__ = ["RawTensor", "StoredTensor", "TensorFile", "copy_transposed"]
