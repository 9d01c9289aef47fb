"""Files that are written whole or not at all.

The text goes to a file beside the target (`.name.<random>.tmp`), reaches the disk, and takes the target's
place in one step, so a full disk, a crash or Ctrl-C leaves the old file as it was.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = ["atomic_file", "atomic_write_bytes", "atomic_write_text", "sync_folder"]

# A temporary file is private (0o600); a finished one has the rights that open() would have given.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextmanager
def atomic_file(
    path: str | os.PathLike[str], mode: str = "wb", encoding: str | None = None
) -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` when the block ends without an error.

    Args:
        path: The file to write. A link is followed, so that the file behind it is replaced.
        mode: "wb" or "w".
        encoding: Encoding of a text file, UTF-8 unless told.

    Yields:
        The open file, to be written.

    Raises:
        OSError: The folder is missing or the disk is full; whatever was at `path` is still there.
    """
    target = Path(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent)
    try:
        text = {} if "b" in mode else {"encoding": encoding or "utf-8", "newline": "\n"}
        with os.fdopen(descriptor, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_UMASK)
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    sync_folder(target.parent)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes to a file, whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to a file, whole or not at all; lines end in a newline on every system."""
    with atomic_file(path, "w") as file:
        file.write(text)


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder reach the disk; on systems that cannot open a folder, do nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
