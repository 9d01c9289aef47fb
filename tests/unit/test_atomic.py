from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpt2kit.atomic import (
    AtomicFiles,
    atomic_file,
    atomic_write_bytes,
    atomic_write_text,
    folder_lock,
    make_folder,
)
from gpt2kit.errors import StorageError

ON_POSIX = pytest.mark.skipif(os.name == "nt", reason="the limit and the rights are those of POSIX systems")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a", b"old")
    atomic_write_bytes(tmp_path / "a", b"new")
    atomic_write_text(str(tmp_path / "b"), "zwölf\n")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "b").read_bytes() == "zwölf\n".encode()
    assert names(tmp_path) == ["a", "b"]


def test_an_error_inside_leaves_the_old_file_alone(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a", b"old")

    def fail_halfway() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_several_files_take_their_places_together(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a", b"old")

    def fail_at_the_second() -> None:
        with AtomicFiles() as files:
            with files.open(tmp_path / "a") as file:
                file.write(b"new")
            assert (tmp_path / "a").read_bytes() == b"old"
            with files.open(tmp_path / "b", "w") as file:
                raise KeyError

    with pytest.raises(KeyError):
        fail_at_the_second()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@ON_POSIX
def test_a_new_file_has_the_rights_of_an_ordinary_one_and_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    atomic_write_text(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    atomic_write_text(tmp_path / "link", "y")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "ours").read_text() == "y"


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write_bytes(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StorageError, match=r"a could not be written: No space left.*untouched\. Make room"
    ) as caught:
        atomic_write_bytes(tmp_path / "a", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@ON_POSIX
def test_a_write_that_the_system_cuts_off_loses_nothing(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a", b"old")
    script = (
        "import resource, signal, sys\n"
        "from gpt2kit.atomic import atomic_write_bytes\n"
        "from gpt2kit.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    atomic_write_bytes(sys.argv[1], bytes(1_000_000))\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a")], capture_output=True, text=True, check=True
    )
    assert "untouched" in done.stdout
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_missing_folder_and_a_folder_in_the_way_are_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Make the folder first"):
        atomic_write_text(tmp_path / "none" / "a", "x")
    (tmp_path / "dir").mkdir()
    with pytest.raises(StorageError, match="Choose another"):
        atomic_write_text(tmp_path / "dir", "x")
    assert names(tmp_path) == ["dir"]


def test_an_error_of_the_caller_is_not_taken_for_one_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a") as file:
        file.write((tmp_path / "none").read_bytes())


def test_the_lock_makes_the_second_wait_and_leaves_no_file(tmp_path: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def first() -> None:
        with folder_lock(tmp_path):
            inside.set()
            time.sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with folder_lock(tmp_path), folder_lock(tmp_path):  # the same thread passes
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert names(tmp_path) == []


def test_a_lock_that_is_held_too_long_is_told(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from gpt2kit.atomic import folder_lock\n"
        "with folder_lock(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with (
            pytest.raises(StorageError, match="Another process has been saving into"),
            folder_lock(tmp_path, 0.1),
        ):
            pass
        process.kill()
    with folder_lock(tmp_path, 5):  # the lock ended with its holder
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not be written"):
        make_folder(tmp_path / "file" / "below")
    assert make_folder(tmp_path / "a" / "b").is_dir()
