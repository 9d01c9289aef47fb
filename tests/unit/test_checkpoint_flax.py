"""Flax's own format, read and written without Flax."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import random_checkpoint, tiny_config
from flax_files import SAVED, official_weights, tree_order
from gpt2kit.checkpoint import (
    Checkpoint,
    RawTensor,
    open_checkpoint,
    save_flax,
    save_safetensors,
    tensor_specs,
)
from gpt2kit.checkpoint.flax_names import flax_path, is_reversed, official_name
from gpt2kit.checkpoint.formats import flax_msgpack
from gpt2kit.errors import CheckpointError, FileNotInRepositoryError, InputError, StorageError

FLAX = "flax_model.msgpack"
WHOLE = official_weights("whole")


def open_flax(place: Path) -> Checkpoint:
    return open_checkpoint(place, formats=("flax",))


def array(shape: tuple[int, ...] = (3,), dtype: str = "float32", count: int | None = None) -> bytes:
    """Write an array of zeros by hand, as many bytes as it asks for unless told."""
    size = np.zeros(shape, "float32" if dtype == "bfloat16" else dtype).nbytes if count is None else count
    inside = bytes([0x93, 0x90 + len(shape), *shape, 0xA0 + len(dtype)]) + dtype.encode()
    inside += b"\xc4" + bytes([size]) + bytes(size)
    return b"\xc7" + bytes([len(inside), 1]) + inside


def text(word: str) -> bytes:
    return bytes([0xA0 + len(word)]) + word.encode()


def tree(**entries: bytes) -> bytes:
    """Write a map by hand."""
    return bytes([0x80 + len(entries)]) + b"".join(text(name) + value for name, value in entries.items())


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize("case", ["default", "cross_attention", "untied"])
def test_every_tensor_of_the_table_has_a_path_and_the_path_leads_back(case: str) -> None:
    specs = [spec for spec in tensor_specs(tiny_config(case)) if spec.tied_to is None]
    paths = [flax_path(spec) for spec in specs]
    assert len(set(paths)) == len(specs)
    assert [official_name(path) for path in paths] == [spec.name for spec in specs]
    for spec, path in zip(specs, paths, strict=True):
        assert is_reversed(path, spec.shape) == (
            len(spec.shape) == 2 and "wte" not in path and "wpe" not in path
        )


def test_paths_and_shapes_are_those_of_4_34() -> None:
    recorded = json.loads((SAVED.parent / "flax_signatures.json").read_text())["parameters"]
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "untied": {"tie_word_embeddings": False},
        "cross-attention and n_inner": {"add_cross_attention": True, "n_inner": 47},
    }
    for head, cls in (("none", "FlaxGPT2Model"), ("lm", "FlaxGPT2LMHeadModel")):
        for variant, change in changes.items():
            specs = tensor_specs(tiny_config(n_layer=2, **change), head=head)  # type: ignore[arg-type]
            ours = {}
            for spec in specs:
                path = flax_path(spec)
                shape = spec.shape[::-1] if is_reversed(path, spec.shape) else spec.shape
                if spec.tied_to is None:
                    ours["/".join(path)] = [list(shape), "float32"]
            assert ours == recorded[f"{cls}/{variant}"]


# --------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", ["whole", "shards", "body"])
def test_what_4_34_saved_is_read_under_official_names(name: str) -> None:
    wanted = official_weights(name)
    with open_flax(SAVED / name) as checkpoint:
        assert set(checkpoint) == set(wanted)
        for key, values in wanted.items():
            assert checkpoint[key].shape == values.shape
            read = checkpoint.numpy(key)
            if name == "shards":  # bfloat16: the upper half, rounded to even
                assert checkpoint[key].dtype == "BF16"
                np.testing.assert_allclose(read, values, rtol=2**-8, atol=0)
                assert not (read.view(np.uint32) & 0xFFFF).any()
            else:
                assert checkpoint[key].dtype == "F32"
                np.testing.assert_array_equal(read, values)


def test_any_piece_of_a_tensor_is_read_with_official_axes() -> None:
    with open_flax(SAVED / "whole") as checkpoint:
        for name, values in WHOLE.items():
            for step in (7, 41, 10_000):  # bytes; no multiple of a value or a row
                pieces = np.zeros(values.nbytes, np.uint8)
                for start in range(0, values.nbytes, step):
                    checkpoint.read_into(name, pieces[start : start + step], offset=start)
                assert pieces.tobytes() == values.tobytes()


def test_matrices_are_read_with_reversed_axes_from_any_format(tmp_path: Path) -> None:
    save_safetensors(tmp_path, WHOLE)
    name = "transformer.h.1.mlp.c_fc.weight"
    for checkpoint in (open_flax(SAVED / "whole"), open_checkpoint(tmp_path)):
        with checkpoint:
            target = np.zeros((40, 10), np.float32)
            checkpoint.read_reversed_into(name, target)
            np.testing.assert_array_equal(target, WHOLE[name].T)
            for wrong in (
                np.zeros((10, 40), np.float32),
                np.zeros((40, 10)),
                np.zeros((10, 40), np.float32).T,
            ):
                with pytest.raises(InputError, match=r"c_fc.weight of shape \[10, 40\] with 1600 bytes"):
                    checkpoint.read_reversed_into(name, wrong)
            with pytest.raises(InputError, match="its two axes reversed"):
                checkpoint.read_reversed_into("transformer.ln_f.bias", np.zeros(10, np.float32))


def test_a_file_is_opened_by_its_own_path_and_only_where_it_was_asked_for(tmp_path: Path) -> None:
    file = Path(shutil.copy(SAVED / "whole" / FLAX, tmp_path))
    with open_flax(file) as checkpoint:
        assert checkpoint.files == [file]
    with open_flax(SAVED / "shards" / f"{FLAX}.index.json") as checkpoint:
        assert checkpoint.files[0].name == "flax_model-00001-of-00004.msgpack"
    for place in (file, SAVED / "shards" / f"{FLAX}.index.json"):
        with pytest.raises(
            CheckpointError, match=r"format of flax, which was not asked for. Pass from_flax=True"
        ):
            open_checkpoint(place)
    with pytest.raises(FileNotInRepositoryError, match=r"It has flax_model.msgpack: pass from_flax=True"):
        open_checkpoint(tmp_path)
    (tmp_path / FLAX).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotInRepositoryError, match=r"pytorch_model.bin: leave out from_flax"):
        open_flax(tmp_path)


def test_formats_are_looked_for_in_their_order(tmp_path: Path) -> None:
    save_flax(tmp_path, {"x/kernel": np.full((2, 3), 7.0)})
    save_safetensors(tmp_path, {"x.weight": np.full((3, 2), 5.0)})
    for formats, value in ((("safetensors", "flax"), 5), (("flax", "safetensors"), 7), (("flax",), 7)):
        with open_checkpoint(tmp_path, formats=formats) as checkpoint:  # type: ignore[arg-type]
            np.testing.assert_array_equal(checkpoint.numpy("x.weight"), np.full((3, 2), value))


def test_no_framework_is_needed_to_read() -> None:
    code = (
        "import sys; from gpt2kit.checkpoint import open_checkpoint\n"
        f"with open_checkpoint({str(SAVED / 'whole')!r}, formats=('flax',)) as checkpoint:\n"
        "    for name in checkpoint: checkpoint.numpy(name)\n"
        "print(sorted({'torch', 'jax', 'flax', 'msgpack', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


# --------------------------------------------------------------------------- what is written


def test_what_is_written_is_byte_for_byte_what_4_34_writes(tmp_path: Path) -> None:
    for name in ("whole", "body"):
        save_flax(tmp_path, tree_order(name))
        assert (tmp_path / FLAX).read_bytes() == (SAVED / name / FLAX).read_bytes()


def test_shards_are_cut_and_listed_as_by_4_34(tmp_path: Path) -> None:
    halves = {  # bfloat16 as 4.34 saved it, from which the same shards come
        path: RawTensor("BF16", values.shape, memoryview(read_bf16(path)))
        for path, values in tree_order("shards").items()
    }
    files = save_flax(tmp_path, halves, max_shard_size="2KB")
    assert sorted(path.name for path in files) == sorted(
        path.name for path in (SAVED / "shards").iterdir() if path.name.startswith("flax_model")
    )
    for path in files:
        assert path.read_bytes() == (SAVED / "shards" / path.name).read_bytes()


def read_bf16(path: str) -> bytes:
    """Read a bfloat16 leaf of the recorded shards with Flax's axes."""
    name = official_name(path.split("/"))
    with open_flax(SAVED / "shards") as checkpoint:
        values = np.empty(checkpoint[name].shape, np.uint16)
        checkpoint.read_into(name, values)
    return (values.T if is_reversed(path.split("/"), values.shape) else values).tobytes()


@pytest.mark.parametrize("limit", [1, 7, 400, 1000])
def test_large_arrays_are_cut_into_pieces_and_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(flax_msgpack, "_PIECE_BYTES", limit)
    save_flax(tmp_path, tree_order("whole"))
    assert b"__msgpack_chunked_array__" in (tmp_path / FLAX).read_bytes()
    with open_flax(tmp_path) as checkpoint:
        for name, values in WHOLE.items():
            np.testing.assert_array_equal(checkpoint.numpy(name), values)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?"])
@pytest.mark.parametrize("count", [0, 1, 3, 17, 300, 70_000])
def test_every_dtype_and_size_comes_back(tmp_path: Path, dtype: str, count: int) -> None:
    values = (np.arange(count) % 101).astype(dtype)
    save_flax(tmp_path, {"a/b/embedding": values.reshape(1, -1), "one": np.array(1, dtype)})
    with open_flax(tmp_path) as checkpoint:
        assert list(checkpoint) == ["a.b.weight", "one"]
        np.testing.assert_array_equal(checkpoint.numpy("a.b.weight"), values.reshape(1, -1))
        assert checkpoint.numpy("a.b.weight").dtype == np.dtype(dtype)
        assert checkpoint.numpy("one") == np.array(1, dtype)


def test_what_cannot_be_written_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    save_flax(tmp_path, tree_order("whole"))
    before = (tmp_path / FLAX).read_bytes()
    with pytest.raises(InputError, match="x is of dtype complex128"):
        save_flax(tmp_path, {"x": np.zeros(3, complex)})
    with pytest.raises(InputError, match="above a/b/kernel"):
        save_flax(tmp_path, {"a/b": np.zeros(3), "a/b/kernel": np.zeros(3)})
    with pytest.raises(InputError, match="a/b has 11 bytes, which is not its shape"):
        save_flax(tmp_path, {"a/b": RawTensor("F32", (3,), memoryview(bytes(11)))})
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [FLAX]
    assert (tmp_path / FLAX).read_bytes() == before


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_full_disk_while_saving_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    save_flax(tmp_path, tree_order("whole"), max_shard_size="5KB")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls, real = [], os.fsync

    def fill_up(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    other = {path: values + 1 for path, values in tree_order("whole").items()}
    with pytest.raises(StorageError, match="No space left"):
        save_flax(tmp_path, other, max_shard_size="5KB")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_one_file_takes_the_place_of_older_shards(tmp_path: Path) -> None:
    save_flax(tmp_path, tree_order("whole"), max_shard_size="5KB")
    save_flax(tmp_path, {"x/bias": np.zeros(3)})
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [FLAX]


# --------------------------------------------------------------------------- hostile files

CUT = text("__msgpack_chunked_array__") + b"\xc3"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a list": (b"\x91\x01", "a list where a map was expected"),
    "a number": (b"\x07", "a number where a map was expected"),
    "a pickle": (b"\x80\x04\x95\x10\x00\x00\x00", "behind the tree"),
    "no code": (b"\x81\xa1x\xc1", "the byte 0xc1, which begins nothing"),
    "text at a leaf": (tree(x=text("os.system")), "a text at x, which is no array"),
    "a list at a leaf": (tree(x=b"\x92\x01\x02"), "a list at x, which is no array"),
    "an object": (tree(x=b"\xc7\x02\x05ab"), "an extension 5 at x"),
    "a complex number": (tree(x=b"\xc7\x02\x02ab"), "an extension 2 at x"),
    "a step of training": (tree(step=b"\x07"), "a single value at step.*save its `params` alone"),
    "a fraction": (tree(x=b"\xca\x00\x00\x00\x00"), "a single value at x"),
    "a name twice": (b"\x82" + 2 * (text("x") + array()), "the name 'x' twice"),
    "a name that is a number": (b"\x81\x07" + array(), "a number of 7 where a name was expected"),
    "a name that is no text": (b"\x81\xa2\xff\xfe" + array(), "a name that is no UTF-8"),
    "a name without an end": (b"\x81\xdb\xff\xff\xff\xff", "beyond the end|where a name was expected"),
    "two spellings": (
        tree(wte=tree(kernel=array((2, 3)), embedding=array((2, 3)))),
        "tensor wte.weight under two names",
    ),
    "bytes behind the tree": (tree(x=array()) + b"\x00", "1 bytes behind the tree"),
    "a map of millions": (b"\xdf\xff\xff\xff\xff", "a map of 4,294,967,295 that reaches beyond the end"),
    "an array beyond the end": (tree(x=b"\xc9\xff\xff\xff\xff\x01"), "beyond the end of the file"),
    "too many bytes": (tree(x=array((3,), count=13)), r"13 bytes for an array of shape \[3\]"),
    "too few bytes": (tree(x=array((3,), count=11)), r"11 bytes for an array of shape \[3\]"),
    "an extension longer than its array": (
        tree(x=b"\xc7\x1a\x01" + array()[3:] + b"\x00"),
        "12 bytes for an array",
    ),
    "a shape below zero": (
        tree(x=b"\xc7\x14\x01\x93\x91\xff\xa7float32\xc4\x08" + bytes(8)),
        r"array of shape \[-1\]",
    ),
    "nothing in a shape beyond NumPy's": (
        tree(x=b"\xc7\x16\x01\x93\x92\x00\xcf" + bytes([64] + [0] * 7) + b"\xa7float32\xc4\x00"),
        r"0 bytes for an array of shape \[0, 4611686018427387904\]",
    ),
    "an array of too many axes": (tree(x=array((1,) * 9)), "4 bytes for an array of shape"),
    "an array without values": (tree(x=b"\xc7\x03\x01\x92\x01\x02"), "not a shape, a dtype and values"),
    "a shape of words": (tree(x=b"\xc7\x05\x01\x93\x91" + text("ab")), "a text where a number was expected"),
    "pieces of two dtypes": (
        tree(x=b"\x83" + CUT + text("shape") + tree(**{"0": b"\x04"}) + text("chunks")
             + tree(**{"0": array((2,)), "1": array((2,), "int32")})),
        "in pieces that make no array",
    ),
    "a piece missing": (
        tree(x=b"\x83" + CUT + text("shape") + tree(**{"0": b"\x04"}) + text("chunks")
             + tree(**{"0": array((2,)), "2": array((2,))})),
        "in pieces that make no array",
    ),
    "pieces of another size": (
        tree(x=b"\x83" + CUT + text("shape") + tree(**{"0": b"\x05"}) + text("chunks")
             + tree(**{"0": array((2,)), "1": array((2,))})),
        r"make no array of shape \[5\]",
    ),
    "pieces of nothing": (tree(x=b"\x81" + CUT), "in pieces that make no array"),
    "a pit": (b"\x81\xa1x" * 100 + array(), "a tree of more than 32 levels"),
    "a pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "only points to a file that Git LFS keeps. Run `git lfs pull`",
    ),
    "nothing": (b"", "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    data, message = HOSTILE[name]
    (tmp_path / FLAX).write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as error:
        open_flax(tmp_path)
    assert FLAX in str(error.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    save_flax(tmp_path, {"a/kernel": np.ones((3, 5)), "a/bias": np.zeros(30), "b": np.zeros(0)})
    data = (tmp_path / FLAX).read_bytes()
    for length in range(len(data)):
        (tmp_path / FLAX).write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            open_flax(tmp_path)


def test_damaged_bytes_give_an_error_of_ours_or_other_numbers_and_nothing_else(tmp_path: Path) -> None:
    save_flax(
        tmp_path, {"a/kernel": np.ones((3, 5), np.float32), "a/bias": np.zeros(2), "b/scale": np.zeros(3)}
    )
    data = (tmp_path / FLAX).read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), generator.integers(1, 4)):
            damaged[place] = generator.integers(0, 256)
        (tmp_path / FLAX).write_bytes(damaged)
        try:
            with open_flax(tmp_path) as checkpoint:
                for name in checkpoint:
                    checkpoint.numpy(name)
        except CheckpointError:
            refused += 1
    assert 100 < refused < 500


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    save_flax(tmp_path, tree_order("whole"))
    with open_flax(tmp_path) as checkpoint:
        os.truncate(tmp_path / FLAX, 1000)
        with pytest.raises(CheckpointError, match=r"ended inside the tensor transformer.wte.weight"):
            checkpoint.numpy("transformer.wte.weight")


def test_a_dtype_that_no_room_has_is_told_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / FLAX).write_bytes(tree(x=array((3,), "complex64")))
    with open_flax(tmp_path) as checkpoint, pytest.raises(CheckpointError, match="x is of dtype complex64"):
        checkpoint.numpy("x")


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    for file in (SAVED / "shards").iterdir():
        shutil.copy(file, tmp_path)
    index = tmp_path / f"{FLAX}.index.json"
    map_of = json.loads(index.read_text())
    map_of["weight_map"]["transformer/wte/kernel_of_another"] = "flax_model-00001-of-00004.msgpack"
    index.write_text(json.dumps(map_of))
    with pytest.raises(
        CheckpointError, match=r"kernel_of_another is in flax_model-00001-of-00004.msgpack, and it"
    ):
        open_flax(tmp_path)
    (tmp_path / "flax_model-00003-of-00004.msgpack").unlink()
    with pytest.raises(
        CheckpointError, match=r"lists the file flax_model-00003-of-00004.msgpack, which is not"
    ):
        open_flax(tmp_path)


def test_a_header_of_four_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    """A sparse file: what it announces is there, and is not read to find the names."""
    size = 2**32 - 2**10
    inside = b"\x93\x91\xce" + struct.pack(">I", size) + text("int8") + b"\xc6" + struct.pack(">I", size)
    head = b"\x81\xa1x\xc9" + struct.pack(">I", len(inside) + size) + b"\x01" + inside
    with (tmp_path / FLAX).open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    with open_flax(tmp_path) as checkpoint:
        assert checkpoint["x"].shape == (size,)
        part = np.empty(3, np.int8)
        checkpoint.read_into("x", part, offset=size - 3)
        assert not part.any()


def test_random_models_make_the_round_trip(tmp_path: Path) -> None:
    config = tiny_config("cross_attention", n_head=1, tie_word_embeddings=False)
    weights = random_checkpoint(config)
    path_of = {spec.name: flax_path(spec) for spec in tensor_specs(config)}
    own = {
        "/".join(path_of[name]): values.T if is_reversed(path_of[name], values.shape) else values
        for name, values in weights.items()
    }
    save_flax(tmp_path, own, max_shard_size="100KB")
    with open_flax(tmp_path) as checkpoint:
        assert set(checkpoint) == set(weights)
        for name, values in weights.items():
            np.testing.assert_array_equal(checkpoint.numpy(name), values)
