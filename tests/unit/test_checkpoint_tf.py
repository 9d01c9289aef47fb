"""4.34's tf_model.h5, read and written without TensorFlow."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import random_checkpoint, tiny_config
from gpt2kit.checkpoint import Checkpoint, RawTensor, head_of, open_checkpoint, save_tf, tensor_specs
from gpt2kit.checkpoint.formats import tf_h5
from gpt2kit.checkpoint.tf_names import official_name, official_shape, tf_name, tf_shape
from gpt2kit.config import GPT2Config
from gpt2kit.errors import CheckpointError, FileNotInRepositoryError, InputError, StorageError
from tf_files import SAVED, official_weights

h5py = pytest.importorskip("h5py", reason="it writes a tf_model.h5")

H5 = "tf_model.h5"
CLASS_OF = {
    "whole": "TFGPT2LMHeadModel",
    "shards": "TFGPT2LMHeadModel",
    "body": "TFGPT2Model",
    "double": "TFGPT2DoubleHeadsModel",
    "labels": "TFGPT2ForSequenceClassification",
}


def open_tf(place: Path) -> Checkpoint:
    return open_checkpoint(place, formats=("tensorflow",))


def prefixed(name: str) -> str:
    """Return the name that every file has for a tensor, which a body without a head has without prefix."""
    head = name.startswith(("transformer.", "score.", "multiple_choice_head.", "lm_head."))
    return name if head else f"transformer.{name}"


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize("head", ["none", "lm", "double", "sequence_classification"])
def test_every_tensor_of_the_table_has_a_name_and_the_name_leads_back(head: Any) -> None:
    config = tiny_config(n_layer=11, add_cross_attention=True, tie_word_embeddings=False)
    specs = tensor_specs(config, head=head)
    names = [tf_name(spec.name) for spec in specs]
    assert len(set(names)) == len(specs)
    for spec, name in zip(specs, names, strict=True):
        assert official_name(name) == prefixed(spec.name)
        assert official_shape(name, tf_shape(name, spec.shape)) == spec.shape


def test_embeddings_have_an_older_name_as_well() -> None:
    assert official_name("transformer/wte/weight:0") == official_name("transformer/wte/embeddings:0")


# --------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", CLASS_OF)
def test_what_4_34_saved_is_read_under_official_names(name: str) -> None:
    wanted = official_weights(name)
    with open_tf(SAVED / name) as checkpoint:
        assert set(checkpoint) == {prefixed(key) for key in wanted}
        for key, values in wanted.items():
            stored = checkpoint[prefixed(key)]
            assert (stored.dtype, stored.shape) == ("F32", values.shape)
            np.testing.assert_array_equal(checkpoint.numpy(prefixed(key)), values)


@pytest.mark.parametrize("name", ["double", "labels"])
def test_any_piece_of_a_tensor_is_read_with_official_axes(name: str) -> None:
    with open_tf(SAVED / name) as checkpoint:
        for key, values in official_weights(name).items():
            for step in (7, 41, 10_000):  # bytes; no multiple of a value or a row
                pieces = np.zeros(values.nbytes, np.uint8)
                for start in range(0, values.nbytes, step):
                    checkpoint.read_into(key, pieces[start : start + step], offset=start)
                assert pieces.tobytes() == values.tobytes()


def test_a_matrix_is_read_with_its_axes_reversed() -> None:
    with open_tf(SAVED / "labels") as checkpoint:
        for key, values in official_weights("labels").items():
            if values.ndim == 2:
                target = np.empty(values.shape[::-1], values.dtype)
                checkpoint.read_reversed_into(key, target)
                np.testing.assert_array_equal(target, values.T)


def test_a_file_is_opened_by_its_own_name_where_it_is_asked_for() -> None:
    path = SAVED / "whole" / H5
    with open_tf(path) as checkpoint:
        assert set(checkpoint) == set(official_weights("whole"))
    with pytest.raises(
        CheckpointError, match=r"format of tensorflow, which was not asked for\. Pass from_tf"
    ):
        open_checkpoint(path)
    with pytest.raises(FileNotInRepositoryError, match=r"It has tf_model\.h5: pass from_tf=True"):
        open_checkpoint(SAVED / "whole")


def test_nothing_but_names_and_shapes_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / H5
    with h5py.File(path, "w") as file:
        group, name = file.create_group("transformer"), "m/transformer/wte/embeddings:0"
        large = group.create_dataset(name, (2**28, 7), "f4")
        large[-1] = 3  # so that the file has a place for all of it; most of it is a hole
        group.attrs["weight_names"] = [name.encode()]
        file.attrs["layer_names"] = [b"transformer"]
    with open_tf(path) as checkpoint:
        assert checkpoint["transformer.wte.weight"].nbytes == 7 * 2**30
        last = np.zeros(7, np.float32)
        checkpoint.read_into("transformer.wte.weight", last, offset=7 * 2**30 - last.nbytes)
        np.testing.assert_array_equal(last, 3)


def test_long_lists_of_names_are_cut_and_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf_h5, "_ATTRIBUTE_BYTES", 300)
    weights = official_weights("whole")
    save_tf(tmp_path, weights, class_name="TFGPT2LMHeadModel")
    with h5py.File(tmp_path / H5) as file:
        assert "weight_names2" in file["transformer"].attrs
    with open_tf(tmp_path) as checkpoint:
        for key, values in weights.items():
            np.testing.assert_array_equal(checkpoint.numpy(key), values)


# --------------------------------------------------------------------------- what is written


def contents(path: Path) -> dict[str, Any]:
    """Return everything in a file: attributes, groups, and arrays with their types.

    Keras numbers the models of a class; the number is taken out of their names.
    """
    found: dict[str, Any] = {}

    def note(name: str, node: Any) -> None:
        attributes = {
            key: [plain(each) for each in np.atleast_1d(value).tolist()] for key, value in node.attrs.items()
        }
        array = (node.dtype, node.shape, node[()].tolist()) if isinstance(node, h5py.Dataset) else None
        found[plain(name)] = (attributes, array)

    with h5py.File(path) as file:
        note("/", file)
        file.visititems(note)
    return found


def plain(name: bytes | str) -> str:
    return (name.decode() if isinstance(name, bytes) else name).replace("_model_1", "_model")


def in_order(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the weights in the order of 4.34's variables: a classifier comes first, other heads last."""
    config = GPT2Config.from_pretrained(SAVED / name)
    weights = official_weights(name)
    names = [spec.name for spec in tensor_specs(config, head=head_of(config)) if spec.tied_to is None]
    return {key: weights[key] for key in sorted(names, key=lambda key: not key.startswith("score"))}


@pytest.mark.parametrize("name", CLASS_OF)
def test_what_is_written_is_what_4_34_wrote(tmp_path: Path, name: str) -> None:
    size = "3KB" if name in ("shards", "labels") else "10GB"
    written = save_tf(tmp_path, in_order(name), class_name=CLASS_OF[name], max_shard_size=size)
    theirs = {path.name for path in (SAVED / name).glob("tf_model*")}
    assert {path.name for path in written} == theirs
    for filename in theirs:
        if filename.endswith(".json"):
            wanted = plain((SAVED / name / filename).read_text())
            assert json.loads((tmp_path / filename).read_text()) == json.loads(wanted)
            continue
        wanted_file = contents(SAVED / name / filename)
        wanted_file.pop("top_level_model_weights", None)  # a group of nothing
        assert contents(tmp_path / filename) == wanted_file


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    weights = official_weights("double")
    for folder in ("a", "b"):
        save_tf(tmp_path / folder, weights, class_name="TFGPT2DoubleHeadsModel")
    assert (tmp_path / "a" / H5).read_bytes() == (tmp_path / "b" / H5).read_bytes()


@pytest.mark.parametrize("dtype", ["F64", "F16", "I64"])
def test_other_dtypes_are_written_and_read(tmp_path: Path, dtype: str) -> None:
    numpy = {"F64": np.float64, "F16": np.float16, "I64": np.int64}[dtype]
    values = np.arange(6).reshape(2, 3).astype(numpy)
    save_tf(tmp_path, {"score.weight": values}, class_name="TFGPT2ForSequenceClassification")
    with open_tf(tmp_path) as checkpoint:
        assert checkpoint["score.weight"].dtype == dtype
        np.testing.assert_array_equal(checkpoint.numpy("score.weight"), values)


def test_what_the_format_does_not_have_is_refused_and_what_was_there_stays(tmp_path: Path) -> None:
    save_tf(tmp_path, official_weights("whole"), class_name="TFGPT2LMHeadModel")
    before = (tmp_path / H5).read_bytes()
    brief = RawTensor("BF16", (2,), memoryview(bytes(4)))
    with pytest.raises(InputError, match=r"is of dtype BF16, which HDF5 does not have"):
        save_tf(tmp_path, {"transformer.wte.weight": brief}, class_name="TFGPT2LMHeadModel")
    with pytest.raises(InputError, match=r"no place for lm_head\.weight"):
        save_tf(tmp_path, {"lm_head.weight": np.zeros((2, 3))}, class_name="TFGPT2LMHeadModel")
    assert [path.name for path in tmp_path.iterdir()] == [H5]
    assert (tmp_path / H5).read_bytes() == before


class FullDisk:
    """A file on a disk that is full."""

    def write(self, values: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *args: 0


def test_a_full_disk_is_said_as_for_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tf_h5.write_h5

    def write(_file: Any, *args: Any, **kwargs: Any) -> None:
        whole(FullDisk(), *args, **kwargs)  # type: ignore[arg-type]  # what HDF5 asks of a file

    monkeypatch.setattr("gpt2kit.checkpoint.write.write_h5", write)
    with pytest.raises(StorageError, match="Make room on the disk"):
        save_tf(tmp_path, official_weights("whole"), class_name="TFGPT2LMHeadModel")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- hostile and damaged files


def file_of(path: Path, make: Callable[[Any], None], name: str = "transformer/wte/embeddings:0") -> Path:
    """Write a shard that lists one tensor, which `make` puts there."""
    with h5py.File(path / H5, "w") as file:
        make(file)
        file.attrs["layer_names"] = [name.encode()]
    return path


def external(file: Any) -> None:
    file.create_dataset("transformer/wte/embeddings:0", (3,), "f4", external=[("/etc/hostname", 0, 12)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (3,))
    file.create_virtual_dataset("transformer/wte/embeddings:0", layout)


def link(target: Any) -> Callable[[Any], None]:
    return lambda file: file.create_group("transformer/wte").__setitem__("embeddings:0", target)


def dataset(**options: Any) -> Callable[[Any], None]:
    return lambda file: file.create_dataset("transformer/wte/embeddings:0", **options)


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "external data": (external, "takes .* from another file"),
    "virtual data": (virtual, "takes .* from another file"),
    "external link": (link(h5py.ExternalLink("/etc/hostname", "x")), "which can lead to any file"),
    "soft link": (link(h5py.SoftLink("/else")), "a link at"),
    "nothing there": (lambda file: None, "a link at|has not|no array|cannot be read"),
    "a group": (lambda file: file.create_group("transformer/wte/embeddings:0"), "cannot be read"),
    "no values": (dataset(shape=(2**40,), dtype="f4"), "has not the 4,398,046,511,104 bytes"),
    "compressed": (dataset(shape=(2**20,), dtype="f4", compression="gzip"), "h5repack"),
    "chunks": (dataset(shape=(2**40,), dtype="f4", chunks=(7,)), "h5repack"),
    "no shape": (dataset(data=h5py.Empty("f4")), "which is no array"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_leads_elsewhere_or_promises_too_much_is_refused(tmp_path: Path, case: str) -> None:
    make, sentence = HOSTILE[case]
    with pytest.raises(CheckpointError, match=sentence):
        open_tf(file_of(tmp_path, make))


def test_an_unknown_dtype_is_refused_when_it_is_read(tmp_path: Path) -> None:
    folder = file_of(tmp_path, dataset(data=np.zeros(3, ">f4")))
    with (
        open_tf(folder) as checkpoint,
        pytest.raises(CheckpointError, match=r"is of dtype >f4, and gpt2kit reads"),
    ):
        checkpoint.numpy("transformer.wte.weight")


def test_files_of_other_programs_are_told_apart(tmp_path: Path) -> None:
    with h5py.File(tmp_path / H5, "w") as file:
        file.create_group("layers")
    with pytest.raises(CheckpointError, match=r"written by save_weights of Keras 3. Use load_weights"):
        open_tf(tmp_path)
    with h5py.File(tmp_path / H5, "w") as file:
        file.create_group("data")
    with pytest.raises(CheckpointError, match="does not list the layers of a model"):
        open_tf(tmp_path)
    (tmp_path / H5).write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises(CheckpointError, match="cannot be read as HDF5"):
        open_tf(tmp_path)


def test_one_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / H5, "w") as file:
        for name in ("transformer/wte/weight:0", "transformer/wte/embeddings:0"):
            file.create_dataset(name, data=np.zeros(3, "f4"))
        file.attrs["layer_names"] = [b"transformer/wte/weight:0", b"transformer/wte/embeddings:0"]
    with pytest.raises(CheckpointError, match=r"transformer\.wte\.weight under two names"):
        open_tf(tmp_path)


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = (SAVED / "body" / H5).read_bytes()
    for length in range(8, len(whole), 1_013):
        (tmp_path / H5).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            open_tf(tmp_path)


SHARD = SAVED / "labels" / "tf_model-00001-of-00003.h5"


def patched(path: Path, mark: bytes, place: int, value: int) -> Path:
    """Write a shard whose first structure with a mark has another number, of 8 bytes, at a place of it."""
    data = bytearray(SHARD.read_bytes())
    at = data.index(mark) + place
    data[at : at + 8] = value.to_bytes(8, "little")
    (path / H5).write_bytes(data)
    return path


@pytest.mark.parametrize("size", [2**64 - 16, 2**64 - 1, 2**63, 0])
def test_a_text_in_the_heap_whose_length_is_damaged_is_refused(tmp_path: Path, size: int) -> None:
    """The HDF5 library reads the first of these for ever."""
    with pytest.raises(CheckpointError, match=r"cannot be read as HDF5 \(a text of \d+ bytes is not at byte"):
        open_tf(patched(tmp_path, b"GCOL", 24, size))


def test_structures_that_go_in_circles_or_nowhere_are_refused(tmp_path: Path) -> None:
    tree = SHARD.read_bytes().index(b"TREE")
    for place, value, why in ((32, tree, "no members of a group"), (32, 2**64 - 9, "it ends before byte")):
        with pytest.raises(CheckpointError, match=why):
            open_tf(patched(tmp_path, b"TREE", place, value))
    with pytest.raises(CheckpointError, match="larger than that of any model"):
        open_tf(patched(tmp_path, b"GCOL", 8, 2**40))
    loop = "/".join(["self"] * 10**6)
    with h5py.File(tmp_path / H5, "w") as file:
        file["self"] = file["/"]
        file.attrs["layer_names"] = np.array([loop], dtype=object)
    with pytest.raises(CheckpointError, match="larger than that of any model, or goes in circles"):
        open_tf(tmp_path)


def test_a_link_whose_name_is_longer_than_any_number_of_bytes_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, link(h5py.ExternalLink("/etc/hostname", "x"))) / H5
    data = bytearray(path.read_bytes())
    name = data.index(b"embeddings:0")  # before it: version, flags, kind of link, length
    data[name - 3] |= 3  # the length has 8 bytes
    data[name - 2] = 0  # a link within the file
    data[name - 1 : name + 7] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot be read as HDF5"):
        open_tf(tmp_path)


def test_any_damage_is_told_and_none_takes_long(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    whole, refused = SHARD.read_bytes(), 0
    start = time.process_time()
    for _ in range(700):
        data = np.frombuffer(whole, np.uint8).copy()
        for _ in range(generator.integers(1, 9)):
            at, length = generator.integers(len(data)), generator.choice([1, 2, 8, 64])
            piece = data[at : at + length]
            piece[:] = generator.choice([0, 255, generator.integers(256)], size=len(piece))
        (tmp_path / H5).write_bytes(data.tobytes())
        try:
            open_tf(tmp_path).close()
        except CheckpointError:
            refused += 1
    assert refused > 100
    assert time.process_time() - start < 30  # measured: 0.6


def test_a_newer_form_of_the_format_is_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / H5, "w", libver="latest") as file:
        file.attrs["layer_names"] = [b"transformer"]
    with pytest.raises(CheckpointError, match="it is of a newer form than Keras 2 writes"):
        open_tf(tmp_path)
    with h5py.File(tmp_path / H5, "w", track_order=True) as file:
        file.create_group("transformer")
        file.attrs["layer_names"] = [b"transformer"]
    with pytest.raises(CheckpointError, match=r"than Keras 2 writes|no object of Keras 2"):
        open_tf(tmp_path)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "i1", "<i2", "<i4", "<i8", "u1"])
def test_numbers_of_every_kind_are_read(tmp_path: Path, dtype: str) -> None:
    values = np.arange(6, dtype=dtype).reshape(2, 3)
    with open_tf(file_of(tmp_path, dataset(data=values))) as checkpoint:
        np.testing.assert_array_equal(checkpoint.numpy("transformer.wte.weight"), values)


def test_texts_of_fixed_width_in_a_layer_are_names_too(tmp_path: Path) -> None:
    with h5py.File(tmp_path / H5, "w") as file:
        group = file.create_group("transformer")
        group.create_dataset("m/transformer/wte/weight:0", data=np.ones(3, "f4"))
        group.attrs["weight_names"] = np.array([b"m/transformer/wte/weight:0"])
        group.attrs["more"] = np.arange(3)  # no texts, and nobody's business
        file.attrs["layer_names"] = np.array([b"transformer"])
    with open_tf(tmp_path) as checkpoint:
        assert dict(checkpoint).keys() == {"transformer.wte.weight"}


def test_an_index_that_names_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (SAVED / "labels").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = tmp_path / f"{H5}.index.json"
    index.write_text(index.read_text().replace("score/kernel:0", "score/kernel2:0"))
    with pytest.raises(CheckpointError, match=r"says that the tensor .*kernel2:0 is in .*, and it is not"):
        open_tf(tmp_path)
    (tmp_path / "tf_model-00002-of-00003.h5").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.h5, which is not there"):
        open_tf(tmp_path)


def test_without_h5py_files_are_read_and_a_sentence_says_what_writes_them() -> None:
    code = (
        "import sys; sys.modules['h5py'] = None\n"
        "from gpt2kit.checkpoint import open_checkpoint, save_tf\n"
        "from gpt2kit.errors import MissingDependencyError\n"
        "import numpy, tempfile\n"
        "print(len(open_checkpoint(sys.argv[1], formats=('tensorflow',))))\n"
        "try: save_tf(tempfile.mkdtemp(), {'wte.weight': numpy.zeros(3)}, class_name='X')\n"
        "except MissingDependencyError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(SAVED / "whole")], capture_output=True, text=True, check=True
    )
    count, sentence = run.stdout.splitlines()
    assert int(count) == len(official_weights("whole"))
    assert "Install h5py (`pip install h5py`; gpt2kit[tensorflow] has it)" in sentence


def test_a_random_model_comes_back_as_it_was(tmp_path: Path) -> None:
    config = tiny_config("cross_attention")
    weights = random_checkpoint(config)
    save_tf(tmp_path, weights, class_name="TFGPT2LMHeadModel", max_shard_size="50KB")
    with open_tf(tmp_path) as checkpoint:
        assert len(checkpoint.files) > 2
        for name, values in weights.items():
            np.testing.assert_array_equal(checkpoint.numpy(name), values)
