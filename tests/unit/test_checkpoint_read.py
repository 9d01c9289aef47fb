from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cases import random_checkpoint, tiny_config
from gpt2kit.checkpoint import open_checkpoint, save_safetensors
from gpt2kit.errors import (
    CheckpointError,
    FileNotInRepositoryError,
    HubError,
    InputError,
    RepositoryNotFoundError,
)

TENSORS = random_checkpoint(tiny_config("untied"))


def write_raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """Write a .safetensors file by hand, lies included."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def assert_equal_to_tensors(place: Path, **options: Any) -> None:
    with open_checkpoint(place, **options) as checkpoint:
        assert set(checkpoint) == set(TENSORS)
        for name, values in TENSORS.items():
            assert checkpoint[name].shape == values.shape
            np.testing.assert_array_equal(checkpoint.numpy(name), values)


def test_what_the_safetensors_library_writes_is_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_equal_to_tensors(tmp_path)
    assert_equal_to_tensors(tmp_path / "model.safetensors")
    with open_checkpoint(str(tmp_path)) as checkpoint:
        assert checkpoint.files == [tmp_path / "model.safetensors"]
        assert checkpoint.metadata == {"format": "pt"}


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]
)
def test_every_dtype_is_read_as_it_is(tmp_path: Path, dtype: type) -> None:
    values = np.arange(35).reshape(5, 7).astype(dtype)
    save_file(
        {"x": values, "empty": np.zeros((0, 3), dtype), "one": np.array(1, dtype)},
        tmp_path / "model.safetensors",
    )
    with open_checkpoint(tmp_path) as checkpoint:
        read = checkpoint.numpy("x")
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, values)
        assert checkpoint.numpy("empty").shape == (0, 3)
        assert checkpoint.numpy("one") == dtype(1)


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    halves = struct.pack("<3H", 0x3FC0, 0xC040, 0x7F80)  # 1.5, -3, infinity
    write_raw(
        tmp_path / "model.safetensors", {"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}, halves
    )
    with open_checkpoint(tmp_path) as checkpoint:
        values = checkpoint.numpy("x")
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, [1.5, -3, np.inf])
        assert checkpoint["x"].nbytes == 6


def test_bytes_are_read_into_the_given_buffer_and_no_other(tmp_path: Path) -> None:
    save_safetensors(tmp_path, TENSORS)
    name = "transformer.wte.weight"
    with open_checkpoint(tmp_path) as checkpoint:
        target = np.zeros((101, 33), np.float32)
        checkpoint.read_into(name, target)
        np.testing.assert_array_equal(target, TENSORS[name])
        raw = bytearray(target.nbytes)
        checkpoint.read_into(name, memoryview(raw))
        assert bytes(raw) == TENSORS[name].tobytes()
        part = np.zeros(7, np.float32)
        checkpoint.read_into(name, part, offset=4 * 33)
        np.testing.assert_array_equal(part, TENSORS[name][1, :7])
        with pytest.raises(InputError, match=name):
            checkpoint.read_into(name, part, offset=len(raw) - 4)
        for wrong in (
            np.zeros(5, np.float32),
            np.zeros((33, 101), np.float32).T,
            memoryview(bytes(target.nbytes)),
        ):
            with pytest.raises(InputError, match=name):
                checkpoint.read_into(name, wrong)


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    files = save_safetensors(tmp_path, TENSORS, max_shard_size="20KB")
    assert len(files) > 3
    assert_equal_to_tensors(tmp_path)
    assert_equal_to_tensors(tmp_path / "model.safetensors.index.json")


def test_the_order_of_the_search_and_its_options(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes the format of PyTorch")
    torch.save({"x": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    save_file({"x": np.ones(3)}, tmp_path / "model.safetensors")
    save_file({"x": np.full(3, 2.0)}, tmp_path / "model.fp16.safetensors")

    def read(**options: Any) -> float:
        with open_checkpoint(tmp_path, **options) as checkpoint:
            return float(checkpoint.numpy("x")[0])

    assert (read(), read(use_safetensors=True), read(use_safetensors=False), read(variant="fp16")) == (
        1,
        1,
        0,
        2,
    )
    (tmp_path / "model.safetensors").unlink()
    assert read() == 0
    with pytest.raises(
        FileNotInRepositoryError, match=r"looked for model\.safetensors, model\.safetensors\.index"
    ):
        read(use_safetensors=True)
    with pytest.raises(FileNotInRepositoryError, match=r"pytorch_model\.int8\.bin"):
        read(variant="int8")


def test_a_place_without_weights_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HubError, match=r"looked for model\.safetensors.*The folder has config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "tf_model.h5").write_text("x")
    with pytest.raises(HubError, match=r"It has tf_model\.h5: pass from_tf=True to read that"):
        open_checkpoint(tmp_path)
    with pytest.raises(RepositoryNotFoundError, match="no folder"):
        open_checkpoint(tmp_path / "none")


ONE = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        pytest.param(ONE, bytes(7), None, id="data cut off"),
        pytest.param(ONE, bytes(9), None, id="data left over"),
        pytest.param(ONE, bytes(8), 2**62, id="huge header length"),
        pytest.param(ONE, bytes(8), 90_000_000, id="header length past the end"),
        pytest.param(ONE, bytes(8), 10, id="header length too short"),
        pytest.param(b"{not json", bytes(8), None, id="no json"),
        pytest.param(b"[1, 2]", b"", None, id="no object"),
        pytest.param(b"\xff\xfe{}", b"", None, id="no utf-8"),
        pytest.param(
            {"x": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, bytes(8), None, id="unknown dtype"
        ),
        pytest.param(
            {"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
            bytes(8),
            None,
            id="shape too large",
        ),
        pytest.param(
            {"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
            bytes(8),
            None,
            id="negative shape",
        ),
        pytest.param(
            {"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
            bytes(8),
            None,
            id="shape overflows",
        ),
        pytest.param(
            {"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, bytes(16), None, id="hole"
        ),
        pytest.param(
            {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}},
            bytes(8),
            None,
            id="offsets past the end",
        ),
        pytest.param(
            {"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
            bytes(8),
            None,
            id="offsets reversed",
        ),
        pytest.param(
            ONE | {"y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
            bytes(12),
            None,
            id="overlap",
        ),
        pytest.param(ONE | {"y": ONE["x"]}, bytes(8), None, id="two tensors in one place"),
        pytest.param({"x": {"dtype": "F32", "shape": [2]}}, bytes(8), None, id="no offsets"),
        pytest.param({"__metadata__": {"format": 3}} | ONE, bytes(8), None, id="metadata of numbers"),
        pytest.param(
            b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
            None,
            id="name twice",
        ),
    ],
)
def test_a_hostile_file_is_refused_by_name(
    tmp_path: Path, header: Any, data: bytes, length: int | None
) -> None:
    write_raw(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    save_file({"x": np.arange(7.0), "y": np.ones((2, 3))}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            open_checkpoint(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    save_safetensors(tmp_path, TENSORS)
    with open_checkpoint(tmp_path) as checkpoint:
        os.truncate(tmp_path / "model.safetensors", 9000)
        last = max(checkpoint)
        with pytest.raises(CheckpointError, match="ended inside the tensor"):
            checkpoint.numpy(last)


def test_empty_files_and_folders_in_the_way_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is empty"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        open_checkpoint(tmp_path)


def test_a_dtype_that_no_room_has_is_told_when_it_is_read(tmp_path: Path) -> None:
    write_raw(
        tmp_path / "model.safetensors",
        {"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}},
        bytes(2),
    )
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint["x"].dtype == "F8_E4M3"
        with pytest.raises(CheckpointError, match="dtype F8_E4M3"):
            checkpoint.numpy("x")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "no valid JSON"),
        ("[]", "no `weight_map`"),
        ('{"weight_map": {}}', "no `weight_map`"),
        (
            '{"weight_map": {"x": "../outside.safetensors"}}',
            r"'\.\./outside\.safetensors', which is not the name",
        ),
        ('{"weight_map": {"x": "/etc/passwd"}}', "not the name of a file beside it"),
        ('{"weight_map": {"x": "C:secret.safetensors"}}', "not the name of a file beside it"),
        ('{"weight_map": {"x": ".."}}', "not the name of a file beside it"),
        ('{"weight_map": {"x": 3}}', "not the name of a file beside it"),
        (
            '{"weight_map": {"x": "none.safetensors"}}',
            r"lists the file none\.safetensors, which is not there",
        ),
        ('{"weight_map": {"y": "there.safetensors"}}', "tensor y is in there.safetensors, and it is not"),
        ('{"weight_map": {"x": "there.safetensors", "z": "again.safetensors"}}', "The tensor x is both in"),
        ('{"weight_map": {"x": "strange.txt"}}', "no known format"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, index: str, message: str) -> None:
    save_file({"x": np.ones(3)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"x": np.ones(3)}, folder / "there.safetensors")
    save_file({"x": np.ones(3), "z": np.ones(3)}, folder / "again.safetensors")
    (folder / "strange.txt").write_text("x")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


class TestPyTorchBin:
    """pytorch_model.bin, whose reader is PyTorch's restricted one."""

    @pytest.fixture(autouse=True)
    def _needs_torch(self) -> None:
        pytest.importorskip("torch", reason="the format is PyTorch's own")

    @staticmethod
    def save(path: Path, values: Any, zipped: bool = True) -> None:
        import torch

        torch.save(values, path, _use_new_zipfile_serialization=zipped)

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_both_formats_are_read(self, tmp_path: Path, zipped: bool) -> None:
        import torch

        self.save(tmp_path / "pytorch_model.bin", {k: torch.tensor(v) for k, v in TENSORS.items()}, zipped)
        assert_equal_to_tensors(tmp_path)

    def test_parameters_views_and_half_precisions_are_read(self, tmp_path: Path) -> None:
        import torch

        base = torch.arange(35, dtype=torch.float32).reshape(5, 7)
        values = {
            "p": torch.nn.Parameter(base),
            "t": base.T,
            "row": base[2],
            "b": base.bfloat16(),
            "h": base.half(),
        }
        self.save(tmp_path / "pytorch_model.bin", values)
        with open_checkpoint(tmp_path) as checkpoint:
            np.testing.assert_array_equal(checkpoint.numpy("t"), base.T.numpy())
            np.testing.assert_array_equal(checkpoint.numpy("row"), base[2].numpy())
            np.testing.assert_array_equal(checkpoint.numpy("p"), base.numpy())
            np.testing.assert_array_equal(checkpoint.numpy("b"), base.numpy())
            assert [checkpoint[name].dtype for name in "bh"] == ["BF16", "F16"]

    def test_shards_are_read_by_their_index(self, tmp_path: Path) -> None:
        import torch

        names = sorted(TENSORS)
        weight_map = {name: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, name in enumerate(names)}
        for shard in set(weight_map.values()):
            self.save(
                tmp_path / shard, {n: torch.tensor(TENSORS[n]) for n in names if weight_map[n] == shard}
            )
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        assert_equal_to_tensors(tmp_path)

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_a_pickle_with_code_is_refused_and_nothing_runs(self, tmp_path: Path, zipped: bool) -> None:
        class Code:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "was run"),)

        self.save(tmp_path / "pytorch_model.bin", {"x": Code()}, zipped)
        with pytest.raises(
            CheckpointError, match=r"pytorch_model\.bin was refused, and nothing in it was run.*mkdir"
        ):
            open_checkpoint(tmp_path)
        assert not (tmp_path / "was run").exists()

    def test_what_is_no_state_dict_is_refused(self, tmp_path: Path) -> None:
        import torch

        for values, message in (
            ([1], "holds list"),
            ({}, "holds dict"),
            ({"model": {"x": torch.ones(1)}}, "'model'"),
            ({"x": torch.ones(2).to_sparse()}, "x as a sparse tensor"),
        ):
            self.save(tmp_path / "pytorch_model.bin", values)
            with pytest.raises(CheckpointError, match=message):
                open_checkpoint(tmp_path)

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_truncated_files_and_garbage_are_refused(self, tmp_path: Path, zipped: bool) -> None:
        import torch

        path = tmp_path / "pytorch_model.bin"
        self.save(path, {"x": torch.ones(500), "y": torch.ones(3)}, zipped)
        whole = path.read_bytes()
        garbage = np.random.default_rng(0).bytes(2000)
        for data in [whole[: len(whole) * k // 23] for k in range(1, 23)] + [
            garbage,
            b"PK\x03\x04" + garbage,
            b"x",
        ]:
            path.write_bytes(data)
            with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
                open_checkpoint(tmp_path)
