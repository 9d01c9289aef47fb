from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cases import random_checkpoint, tiny_config
from gpt2kit.checkpoint import RawTensor, open_checkpoint, save_flax, save_safetensors
from gpt2kit.checkpoint.write import parse_size, plan_shards, save_shards
from gpt2kit.errors import InputError, StorageError

TENSORS = random_checkpoint(tiny_config())
OTHER = {name: value + 1 for name, value in TENSORS.items()}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_saved(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint) == set(tensors)
        for name, values in tensors.items():
            np.testing.assert_array_equal(checkpoint.numpy(name), values)


def test_the_safetensors_library_reads_what_is_written(tmp_path: Path) -> None:
    mixed = TENSORS | {"half": np.ones(3, np.float16), "empty": np.zeros((0, 5)), "flag": np.array([True])}
    assert save_safetensors(tmp_path / "new", mixed) == [tmp_path / "new" / "model.safetensors"]
    loaded = load_file(tmp_path / "new" / "model.safetensors")
    assert loaded.keys() == mixed.keys()
    for name, values in mixed.items():
        assert loaded[name].dtype == values.dtype
        np.testing.assert_array_equal(loaded[name], values)


def test_arrays_in_any_order_of_memory_are_written_row_by_row(tmp_path: Path) -> None:
    values = np.arange(35, dtype=np.float32).reshape(5, 7)
    save_safetensors(tmp_path, {"t": values.T, "big": values.astype(">f4"), "strided": values[::2, ::3]})
    assert_saved(tmp_path, {"t": values.T, "big": values, "strided": values[::2, ::3]})


def test_bytes_of_another_framework_are_written_with_their_dtype(tmp_path: Path) -> None:
    data = np.array([0x3FC0, 0xC040], np.uint16)
    save_safetensors(tmp_path, {"x": RawTensor("BF16", (2,), memoryview(data.tobytes()))})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint["x"].dtype == "BF16"
        np.testing.assert_array_equal(checkpoint.numpy("x"), [1.5, -3])


def test_what_cannot_be_written_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    save_safetensors(tmp_path, TENSORS)
    with pytest.raises(InputError, match="x is of dtype complex128"):
        save_safetensors(tmp_path, {"x": np.zeros(3, complex)})
    with pytest.raises(InputError, match="which is not its shape"):
        save_safetensors(tmp_path, {"x": RawTensor("F32", (3,), memoryview(bytes(11)))})
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        save_safetensors(tmp_path / "file", TENSORS)
    assert files(tmp_path) == ["file", "model.safetensors"]
    assert_saved(tmp_path, TENSORS)


def test_shards_have_4_34s_names_and_index(tmp_path: Path) -> None:
    written = save_safetensors(tmp_path, TENSORS, max_shard_size="30KB")
    shards, index = written[:-1], json.loads(written[-1].read_text())
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert written[-1].name == "model.safetensors.index.json"
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in TENSORS.values())
    for shard in shards:
        names = load_file(shard)
        assert len(names) == 1 or shard.stat().st_size < 30_000 + 5_000  # the header comes on top
        assert all(index["weight_map"][name] == shard.name for name in names)
    assert_saved(tmp_path, TENSORS)


def test_files_of_an_older_save_are_removed_and_others_stay(tmp_path: Path) -> None:
    for name in ("config.json", "model-card.md", "my-model.safetensors", "model.fp16.safetensors"):
        (tmp_path / name).write_text("{}")
    others = files(tmp_path)
    save_safetensors(tmp_path, OTHER, max_shard_size="20KB")
    save_safetensors(tmp_path, TENSORS, max_shard_size="50KB")
    assert_saved(tmp_path, TENSORS)
    save_safetensors(tmp_path, OTHER)
    assert files(tmp_path) == sorted([*others, "model.safetensors"])
    assert_saved(tmp_path, OTHER)
    save_safetensors(tmp_path, TENSORS, max_shard_size="50KB")
    assert "model.safetensors" not in files(tmp_path)
    assert_saved(tmp_path, TENSORS)


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.safetensors.x1y2.tmp").write_text("half")
    (tmp_path / ".config.json.x1y2.tmp").write_text("of another writer")
    save_safetensors(tmp_path, TENSORS)
    assert files(tmp_path) == [".config.json.x1y2.tmp", "model.safetensors"]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_full_disk_while_saving_shards_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    save_safetensors(tmp_path, TENSORS, max_shard_size="50KB")
    before = files(tmp_path)
    calls, real = [], os.fsync

    def fill_up(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(StorageError, match="No space left"):
        save_safetensors(tmp_path, OTHER, max_shard_size="50KB")
    monkeypatch.undo()
    assert files(tmp_path) == before
    assert_saved(tmp_path, TENSORS)


@pytest.mark.skipif(os.name == "nt", reason="the limit on the size of files is POSIX's")
def test_a_real_limit_on_the_size_of_files_loses_nothing(tmp_path: Path) -> None:
    save_safetensors(tmp_path, TENSORS)
    script = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from gpt2kit.checkpoint import save_safetensors\n"
        "from gpt2kit.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    save_safetensors(sys.argv[1], {'x': np.zeros(1_000_000)})\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "max_shard_size" in done.stdout
    assert files(tmp_path) == ["model.safetensors"]
    assert_saved(tmp_path, TENSORS)


SAVER = """
import sys
import numpy as np
from gpt2kit.atomic import atomic_write_text, folder_lock
from gpt2kit.checkpoint import save_safetensors
folder, mark = sys.argv[1], int(sys.argv[2])
tensors = {f"t{i}": np.full(1000, mark, np.float32) for i in range(7)}
print("ready", flush=True)
sys.stdin.readline()
for round in range(15):
    with folder_lock(folder):
        atomic_write_text(folder + "/config.json", str(mark))
        save_safetensors(folder, tensors, max_shard_size=[8000, "1MB", 13000][(round + mark) % 3])
"""


def test_two_processes_that_save_at_once_leave_one_whole_save(tmp_path: Path) -> None:
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), str(mark)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mark in (1, 2)
    ]
    for saver in savers:
        assert saver.stdout is not None
        assert saver.stdout.readline() == "ready\n"
    for saver in savers:
        assert saver.stdin is not None
        saver.stdin.write("go\n")
        saver.stdin.flush()
    for saver in savers:
        _, complaints = saver.communicate(timeout=60)
        assert saver.returncode == 0, complaints
    mark = int((tmp_path / "config.json").read_text())
    assert_saved(tmp_path, {f"t{i}": np.full(1000, mark, np.float32) for i in range(7)})
    with open_checkpoint(tmp_path) as checkpoint:
        kept = {path.name for path in checkpoint.files} | {"config.json", "model.safetensors.index.json"}
    assert set(files(tmp_path)) <= kept


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (7, 7),
        ("5GB", 5 * 10**9),
        ("200MB", 2 * 10**8),
        ("1GiB", 2**30),
        ("3 kb", 3000 // 8),
        ("8Gb", 10**9),
        ("1.5MB", 1_500_000),
        ("2TiB", 2**41),
    ],
)
def test_sizes_are_read_as_in_4_34(size: int | str, count: int) -> None:
    assert parse_size(size) == count


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "5", "GB", "-5GB", "0GB", "5 gigs", None])
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(InputError, match="max_shard_size"):
        parse_size(size)  # type: ignore[arg-type]


def test_tensors_fill_files_in_their_order() -> None:
    sizes = {"a": 3, "b": 3, "c": 100, "d": 3, "e": 7}
    assert plan_shards(sizes, 7) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert plan_shards(sizes, 1000) == [["a", "b", "c", "d", "e"]]
    assert plan_shards({}, 5) == [[]]


def test_other_formats_share_the_same_care(tmp_path: Path) -> None:
    written = save_shards(
        tmp_path,
        {"a": 5, "b": 5},
        lambda file, names: file.write("".join(names).encode()),
        max_shard_size=5,
        name="pytorch_model.bin",
    )
    assert [path.name for path in written] == [
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
    ]
    assert written[1].read_bytes() == b"b"


def test_weights_of_another_format_that_stay_beside_new_ones_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_safetensors(tmp_path, {"x.weight": np.ones((3, 2))})
    assert not caplog.records
    save_flax(tmp_path, {"y/kernel": np.zeros((2, 3)), "x/kernel": np.zeros((2, 3))}, max_shard_size=48)
    assert not caplog.records
    save_safetensors(tmp_path, {"x.weight": np.ones((3, 2))}, name="training_state.safetensors")
    assert not caplog.records
    save_safetensors(tmp_path, {"x.weight": np.ones((3, 2))})
    assert "still holds flax_model.msgpack of another save, which is read in place" in caplog.text
