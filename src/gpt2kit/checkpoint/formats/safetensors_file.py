"""Read a .safetensors file: header checked by the safetensors library, bytes straight into place.

The format: 8 bytes with the length N of the header, N bytes of JSON (name -> dtype, shape, begin and end),
then all values without holes. The library refuses a header that lies (length, offsets, holes, overlaps).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gpt2kit.checkpoint.formats.tensor_file import StoredTensor, fill
from gpt2kit.errors import CheckpointError

__all__ = ["SafetensorsFile"]

_LENGTH_BYTES = 8
_ADVICE = "It is truncated, damaged or tampered with: download or save it again."


class SafetensorsFile:
    """An open .safetensors file.

    Args:
        path: The file.

    Raises:
        CheckpointError: The file is no valid .safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = _read_header(path)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.tensors = {
            name: StoredTensor(name, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()
        }
        self._offsets: dict[str, int] = {name: entry["data_offsets"][0] for name, entry in header.items()}
        self._file = path.open("rb", buffering=0)  # unbuffered: from the disk straight to the reader's memory
        self._start = _LENGTH_BYTES + int.from_bytes(self._file.read(_LENGTH_BYTES), "little")

    def read_into(self, name: str, buffer: memoryview, offset: int = 0) -> None:
        """Read the bytes of a tensor from byte `offset` on into `buffer`."""
        if not fill(self._file, self._start + self._offsets[name] + offset, buffer):
            raise CheckpointError(f"{self.path} ended inside the tensor {name}. {_ADVICE}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read_header(path: Path) -> dict[str, Any]:
    """Let the library check the file, then read its header."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no valid safetensors file ({error}). {_ADVICE}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. {_ADVICE}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        pairs = json.loads(file.read(length), object_pairs_hook=_Pairs)
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise CheckpointError(f"{path} names a tensor twice. {_ADVICE}")
    return {name: dict(entry) for name, entry in pairs}


class _Pairs(list[tuple[str, Any]]):
    """The items of a JSON object in their order, repeated names included."""
