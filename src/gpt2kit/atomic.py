"""Files that are written whole or not at all, and folders that one process at a time saves into.

What is written goes to a file beside the target (`.name.<random>.tmp`), reaches the disk, and takes the
target's place in one step, so a full disk, a crash or Ctrl-C leaves the old file as it was.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from gpt2kit.errors import StorageError

__all__ = [
    "AtomicFiles",
    "atomic_file",
    "atomic_write_bytes",
    "atomic_write_text",
    "folder_lock",
    "make_folder",
    "remove_leftovers",
]

LOCK_NAME = ".gpt2kit-lock"
LOCK_TIMEOUT = 60.0  # seconds; a 6 GB checkpoint takes about half of it on a slow disk

# A temporary file is private (0o600); a finished one has the rights that open() would have given.
_UMASK = os.umask(0)
os.umask(_UMASK)
# What a write itself can meet; any other error inside the block belongs to the caller.
_DISK_ERRORS = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EIO)


class AtomicFiles:
    """Files that are all written first and then take their places one right after the other.

    Use it as a context manager: at its end the files are renamed in the order in which they were opened; an
    error inside it removes what was written, and nothing else has changed.

    Example:
        with AtomicFiles() as files:
            with files.open(folder / "a.json", "w") as file:
                file.write("{}")
            with files.open(folder / "b.bin") as file:
                file.write(data)
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Path, Path]] = []  # (written beside, target)

    @contextmanager
    def open(
        self, path: str | os.PathLike[str], mode: str = "wb", encoding: str | None = None
    ) -> Iterator[IO[Any]]:
        """Open the file that will take the place of `path`; it has reached the disk when the block ends."""
        target = Path(os.path.realpath(path))  # a link is followed, so that the file behind it is replaced
        text = {} if "b" in mode else {"encoding": encoding or "utf-8", "newline": "\n"}
        try:
            descriptor, aside = tempfile.mkstemp(
                prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent
            )
        except OSError as error:
            raise _storage_error(target, error) from error
        self._pending.append((Path(aside), target))
        try:
            with os.fdopen(descriptor, mode, **text) as file:  # type: ignore[call-overload]  # mode is no literal
                yield file
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise _storage_error(target, error) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._rename()
        finally:
            for aside, _ in self._pending:
                with suppress(FileNotFoundError):
                    aside.unlink()

    def _rename(self) -> None:
        for aside, target in self._pending:
            try:
                os.chmod(aside, 0o666 & ~_UMASK)
                os.replace(aside, target)
            except OSError as error:
                raise _storage_error(target, error) from error
        for folder in {target.parent for _, target in self._pending}:
            _sync_folder(folder)


@contextmanager
def atomic_file(
    path: str | os.PathLike[str], mode: str = "wb", encoding: str | None = None
) -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` when the block ends without an error.

    Args:
        path: The file to write.
        mode: "wb" or "w".
        encoding: Encoding of a text file, UTF-8 unless told.

    Yields:
        The open file, to be written.

    Raises:
        StorageError: The folder is missing or may not be written, or the disk is full; whatever was at
            `path` is still there.
    """
    with AtomicFiles() as files, files.open(path, mode, encoding) as file:
        yield file


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes to a file, whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to a file, whole or not at all; lines end in a newline on every system."""
    with atomic_file(path, "w") as file:
        file.write(text)


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        StorageError: It cannot be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _storage_error(path, error) from error
    return path


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove what a killed process left beside the files that match `names`; call it under `folder_lock`."""
    for leftover in folder.glob(f".{names}.*.tmp"):
        with suppress(FileNotFoundError):
            leftover.unlink()


@contextmanager
def folder_lock(folder: str | os.PathLike[str], timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Keep other processes and threads from saving into a folder while the block runs.

    Whoever comes second waits, so the folder ends up as one whole save. A block inside a block of the same
    thread passes. The lock is the operating system's, so it ends with the process, however that ends.

    Args:
        folder: The folder, which must exist.
        timeout: Seconds to wait for the other.

    Raises:
        StorageError: The other is still saving after `timeout` seconds, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # only who saves pays for the import

    path = Path(os.path.realpath(folder)) / LOCK_NAME
    lock = FileLock(path, is_singleton=True)  # one for the path, so that a save inside a save passes
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise StorageError(
            f"Another process has been saving into {path.parent} for {timeout:g} seconds. "
            "Save again when it is done, or choose another folder."
        ) from error
    except OSError as error:
        raise _storage_error(path, error) from error
    try:
        yield
    finally:
        if lock.lock_counter == 1 and os.name != "nt":  # Windows removes no file that somebody has open
            path.unlink(missing_ok=True)  # before the release: whoever waits sees that the name is gone
        lock.release()


def _storage_error(target: Path, error: OSError) -> StorageError:
    """Say which file could not be written and why; the number of the error stays readable as `errno`."""
    advice = {
        errno.ENOSPC: "Make room on the disk, or choose another folder.",
        errno.EFBIG: "It is larger than this system allows; pass a smaller max_shard_size.",
        errno.ENOENT: "Make the folder first.",
        errno.EACCES: "Choose a folder that you may write.",
        errno.EISDIR: "Choose another name.",
    }.get(error.errno or 0, "Choose another folder.")
    result = StorageError(
        f"{target} could not be written: {error.strerror or error}. "
        f"What was there before is untouched. {advice}"
    )
    result.errno = error.errno
    return result


def _sync_folder(folder: Path) -> None:
    """Make a rename reach the disk; Windows cannot open a folder and does so by itself."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems refuse, and offer no other way
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
