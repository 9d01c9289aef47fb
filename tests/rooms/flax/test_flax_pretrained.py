"""Loading and saving in the Flax room: every argument, every spelling of a file, and what is refused."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from hub_server import HubServer

from cases import random_checkpoint, tiny_config
from flax_files import COMPUTED, SAVED
from gpt2kit.checkpoint import open_checkpoint, save_safetensors
from gpt2kit.config import GPT2Config
from gpt2kit.errors import (
    CheckpointError,
    ConfigError,
    FileNotInRepositoryError,
    GPT2KitError,
    HubError,
    InputError,
    ShapeMismatchError,
    StorageError,
)
from gpt2kit.flax import FlaxGPT2LMHeadModel, FlaxGPT2Model
from gpt2kit.flax.tree import flatten
from gpt2kit.generation import GenerationConfig

CONFIG = tiny_config()
WEIGHTS = random_checkpoint(CONFIG)
# Any output of these small models against 4.34's Flax: measured 9.6e-7 in float32, times ten.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
FLAX = "flax_model.msgpack"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as other tools write it: config.json and model.safetensors."""
    return folder_of(tmp_path / "model", WEIGHTS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FlaxGPT2LMHeadModel:
    return FlaxGPT2LMHeadModel.from_pretrained(folder_of(tmp_path_factory.mktemp("shared"), WEIGHTS))


def folder_of(place: Path, weights: dict[str, Any], config: GPT2Config = CONFIG, **options: Any) -> Path:
    config.save_pretrained(place)
    save_safetensors(place, weights, **options)
    return place


def assert_same(params: Any, wanted: Any) -> None:
    found, wanted = flatten(params), flatten(wanted)
    assert list(found) == list(wanted)
    for path, leaf in wanted.items():
        assert found[path].dtype == leaf.dtype, path
        np.testing.assert_array_equal(found[path], leaf)


# --------------------------------------------------------------------------- what is read


def test_kernels_are_turned_and_the_rest_is_as_in_the_file(model: FlaxGPT2LMHeadModel) -> None:
    block = model.params["transformer"]["h"]["1"]
    np.testing.assert_array_equal(
        block["attn"]["c_attn"]["kernel"], WEIGHTS["transformer.h.1.attn.c_attn.weight"].T
    )
    np.testing.assert_array_equal(
        block["mlp"]["c_proj"]["kernel"], WEIGHTS["transformer.h.1.mlp.c_proj.weight"].T
    )
    np.testing.assert_array_equal(block["ln_2"]["scale"], WEIGHTS["transformer.h.1.ln_2.weight"])
    np.testing.assert_array_equal(
        model.params["transformer"]["wte"]["embedding"], WEIGHTS["transformer.wte.weight"]
    )
    assert "lm_head" not in model.params
    assert all(isinstance(leaf, jax.Array) for leaf in flatten(model.params).values())


@pytest.mark.parametrize("name", ["whole", "shards", "body"])
def test_what_4_34_saved_computes_what_4_34_computed(name: str) -> None:
    cls = FlaxGPT2Model if name == "body" else FlaxGPT2LMHeadModel
    loaded = cls.from_pretrained(SAVED / name)
    states = COMPUTED["encoder_hidden_states"] if name == "body" else None
    output = loaded(COMPUTED["input_ids"], encoder_hidden_states=states)
    np.testing.assert_allclose(output[0], COMPUTED[name], **TOLERANCE)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "msgpack"])
@pytest.mark.parametrize("size", ["1GB", "20KB"], ids=["one file", "shards"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_saved_is_what_is_loaded(
    model: FlaxGPT2LMHeadModel, tmp_path: Path, safe: bool, size: str, dtype: str
) -> None:
    cast = {"float32": model.to_fp32, "bfloat16": model.to_bf16, "float16": model.to_fp16}[dtype]
    params = cast(model.params)
    model.save_pretrained(tmp_path, params, max_shard_size=size, safe_serialization=safe)
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    stem = "model.safetensors" if safe else FLAX
    assert {"config.json", stem if size == "1GB" else f"{stem}.index.json"} <= names
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype
    assert_same(FlaxGPT2LMHeadModel.from_pretrained(tmp_path).params, params)


def test_flax_itself_reads_what_is_written_and_writes_what_is_read(
    model: FlaxGPT2LMHeadModel, tmp_path: Path
) -> None:
    for params in (model.params, model.to_bf16(model.params)):
        model.save_pretrained(tmp_path, params, safe_serialization=False)
        restored = serialization.msgpack_restore((tmp_path / FLAX).read_bytes())
        assert_same(restored, params)
        (tmp_path / FLAX).write_bytes(serialization.to_bytes(params))
        assert_same(FlaxGPT2LMHeadModel.from_pretrained(tmp_path).params, params)


def test_an_untied_head_makes_the_round_trip_in_both_formats(tmp_path: Path) -> None:
    config = tiny_config("untied", n_layer=1)
    untied = FlaxGPT2LMHeadModel.from_pretrained(folder_of(tmp_path / "a", random_checkpoint(config), config))
    assert untied.params["lm_head"]["kernel"].shape == (33, 101)
    for safe in (True, False):
        untied.save_pretrained(tmp_path / str(safe), safe_serialization=safe)
        assert_same(FlaxGPT2LMHeadModel.from_pretrained(tmp_path / str(safe)).params, untied.params)
    with open_checkpoint(tmp_path / "True") as checkpoint:
        np.testing.assert_array_equal(
            checkpoint.numpy("lm_head.weight"), random_checkpoint(config)["lm_head.weight"]
        )


def test_files_with_and_without_prefix_fit_models_with_and_without_head(
    model: FlaxGPT2LMHeadModel, folder: Path, tmp_path: Path
) -> None:
    bare = {name.removeprefix("transformer."): value for name, value in WEIGHTS.items()}
    bare["h.0.attn.masked_bias"] = np.array(-1e4, np.float32)  # a buffer that older versions saved
    bare_folder = folder_of(tmp_path / "bare", bare)
    for place in (folder, bare_folder):
        assert_same(FlaxGPT2LMHeadModel.from_pretrained(place).params, model.params)
        assert_same(FlaxGPT2Model.from_pretrained(place).params, model.params["transformer"])
    body = FlaxGPT2Model.from_pretrained(folder)
    body.save_pretrained(tmp_path / "body", safe_serialization=False)
    assert_same(FlaxGPT2LMHeadModel.from_pretrained(tmp_path / "body").params, model.params)


def test_a_file_with_the_head_alone_fills_the_embeddings_and_one_that_differs_is_refused(
    model: FlaxGPT2LMHeadModel, tmp_path: Path
) -> None:
    weights = dict(WEIGHTS)
    weights["lm_head.weight"] = weights.pop("transformer.wte.weight")
    assert_same(FlaxGPT2LMHeadModel.from_pretrained(folder_of(tmp_path / "a", weights)).params, model.params)
    weights["transformer.wte.weight"] = weights["lm_head.weight"] + 1
    with pytest.raises(CheckpointError, match="in the file the two differ"):
        FlaxGPT2LMHeadModel.from_pretrained(folder_of(tmp_path / "b", weights))
    untied = FlaxGPT2LMHeadModel.from_pretrained(tmp_path / "b", tie_word_embeddings=False)
    np.testing.assert_array_equal(untied.params["lm_head"]["kernel"], weights["lm_head.weight"].T)


def test_pickles_of_pytorch_are_read_with_from_pt_only(model: FlaxGPT2LMHeadModel, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes the format of PyTorch")
    CONFIG.save_pretrained(tmp_path)
    torch.save(
        {name: torch.from_numpy(value) for name, value in WEIGHTS.items()}, tmp_path / "pytorch_model.bin"
    )
    with pytest.raises(FileNotInRepositoryError, match=r"It has pytorch_model.bin: pass from_pt=True"):
        FlaxGPT2LMHeadModel.from_pretrained(tmp_path)
    assert_same(FlaxGPT2LMHeadModel.from_pretrained(tmp_path, from_pt=True).params, model.params)
    file = tmp_path / "pytorch_model.bin"
    assert_same(FlaxGPT2LMHeadModel.from_pretrained(file, from_pt=True, config=CONFIG).params, model.params)


def test_from_pt_takes_safetensors_too_and_no_flax_file(model: FlaxGPT2LMHeadModel, folder: Path) -> None:
    assert_same(FlaxGPT2LMHeadModel.from_pretrained(folder, from_pt=True).params, model.params)
    with pytest.raises(FileNotInRepositoryError, match=r"looked for model.safetensors, .*pytorch_model.bin"):
        FlaxGPT2LMHeadModel.from_pretrained(SAVED / "whole", from_pt=True)


def test_what_is_there_instead_is_told_with_a_way_that_this_room_has(tmp_path: Path) -> None:
    for place in (SAVED / "whole", SAVED / "whole" / FLAX):
        with pytest.raises((FileNotInRepositoryError, CheckpointError), match=r"[Ll]eave out from_pt"):
            FlaxGPT2LMHeadModel.from_pretrained(place, from_pt=True, config=CONFIG)
    CONFIG.save_pretrained(tmp_path)
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    with pytest.raises(FileNotInRepositoryError, match=r"It has tf_model.h5: pass from_tf=True to read that"):
        FlaxGPT2LMHeadModel.from_pretrained(tmp_path)


def test_safetensors_are_taken_before_msgpack(folder: Path) -> None:
    (folder / FLAX).write_bytes(b"no weights")
    FlaxGPT2LMHeadModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is no tree of arrays"):
        FlaxGPT2LMHeadModel.from_pretrained(folder)


def test_parameters_keep_their_dtype_whatever_the_computation(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = FlaxGPT2LMHeadModel.from_pretrained(folder, jnp.bfloat16)
    assert {leaf.dtype.name for leaf in flatten(loaded.params).values()} == {"float32"}
    assert loaded.dtype == jnp.bfloat16
    assert not caplog.records
    loaded.save_pretrained(folder, loaded.to_fp16(loaded.params))
    halves = FlaxGPT2LMHeadModel.from_pretrained(folder)
    assert {leaf.dtype.name for leaf in flatten(halves.params).values()} == {"float16"}
    assert halves.dtype == jnp.float32
    assert "weights of FlaxGPT2LMHeadModel are float16" in caplog.text


def test_float64_is_kept_where_jax_has_it_and_told_of_where_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(n_layer=1)
    doubles = {name: value.astype(np.float64) for name, value in random_checkpoint(config).items()}
    place = folder_of(tmp_path, doubles, config)
    narrow = FlaxGPT2Model.from_pretrained(place)
    assert narrow.params["ln_f"]["scale"].dtype == jnp.float32
    assert "has float64 weights" in caplog.text
    caplog.clear()
    with jax.enable_x64(True):
        wide = FlaxGPT2Model.from_pretrained(place)
        assert wide.params["ln_f"]["scale"].dtype == jnp.float64
        np.testing.assert_array_equal(wide.params["wte"]["embedding"], doubles["transformer.wte.weight"])
    assert "has float64 weights" not in caplog.text


def test_pruned_heads_of_a_configuration_are_loaded(tmp_path: Path) -> None:
    config = tiny_config(n_layer=2, pruned_heads={1: [0, 2]})
    weights = random_checkpoint(config)
    loaded = FlaxGPT2LMHeadModel.from_pretrained(folder_of(tmp_path, weights, config))
    kernel = loaded.params["transformer"]["h"]["1"]["attn"]["c_attn"]["kernel"]
    np.testing.assert_array_equal(kernel, weights["transformer.h.1.attn.c_attn.weight"].T)
    assert kernel.shape == (33, 33)  # 3 K of one head


def test_the_model_knows_its_place_and_its_generation_options(folder: Path) -> None:
    GenerationConfig(max_new_tokens=17, bos_token_id=97, eos_token_id=97).save_pretrained(folder)
    loaded = FlaxGPT2LMHeadModel.from_pretrained(folder)
    assert loaded.name_or_path == loaded.config.name_or_path == str(folder)
    if loaded.can_generate():
        assert loaded.generation_config.max_new_tokens == 17
    body = FlaxGPT2Model.from_pretrained(folder)
    assert not body.can_generate()
    assert body.generation_config is None


def test_overrides_of_the_configuration_and_arguments_of_the_constructor_are_honoured(folder: Path) -> None:
    loaded = FlaxGPT2LMHeadModel.from_pretrained(
        folder, jnp.float32, (2, 3), 7, layer_norm_epsilon=0.5, output_attentions=True
    )
    assert (loaded.input_shape, loaded.config.layer_norm_epsilon) == ((2, 3), 0.5)
    assert loaded.module.config.output_attentions
    np.testing.assert_array_equal(loaded.key, jax.random.PRNGKey(7))
    given = FlaxGPT2LMHeadModel.from_pretrained(folder, config=CONFIG, seed=5)
    assert given.config is CONFIG
    np.testing.assert_array_equal(given.key, jax.random.PRNGKey(5))


def test_pocket_is_loaded_without_a_folder() -> None:
    params = FlaxGPT2LMHeadModel.from_pretrained("pocket", _do_init=False)[1]
    with open_checkpoint("pocket") as checkpoint:
        np.testing.assert_array_equal(
            np.asarray(params["transformer"]["ln_f"]["scale"], np.float32),
            checkpoint.numpy("transformer.ln_f.weight"),
        )


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "msgpack"])
@pytest.mark.parametrize("size", ["1GB", "50KB"], ids=["one file", "shards"])
def test_a_model_is_loaded_by_name_from_the_hub(
    hub_server: HubServer, model: FlaxGPT2LMHeadModel, tmp_path: Path, safe: bool, size: str
) -> None:
    model.save_pretrained(tmp_path / "model", max_shard_size=size, safe_serialization=safe)
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    hub_server.add("someone/tiny-gpt2", files)
    assert_same(FlaxGPT2LMHeadModel.from_pretrained("someone/tiny-gpt2").params, model.params)


def test_a_hub_without_a_file_that_flax_reads_says_what_to_pass(hub_server: HubServer) -> None:
    hub_server.add(
        "someone/pickled", {"config.json": CONFIG.to_json_string().encode(), "pytorch_model.bin": b"x"}
    )
    with pytest.raises(
        HubError, match=r"looked for model.safetensors, .* For pytorch_model.bin, pass from_pt=True"
    ):
        FlaxGPT2LMHeadModel.from_pretrained("someone/pickled")


# --------------------------------------------------------------------------- without parameters


def test_without_init_the_parameters_are_returned_beside_the_model(
    model: FlaxGPT2LMHeadModel, folder: Path
) -> None:
    bare, params = FlaxGPT2LMHeadModel.from_pretrained(folder, _do_init=False)
    assert_same(params, model.params)
    assert {str(leaf.device) for leaf in flatten(params).values()} == {str(jax.devices("cpu")[0])}
    with pytest.raises(InputError, match="_do_init=False and holds no parameters"):
        _ = bare.params
    with pytest.raises(InputError, match="_do_init=False and holds no parameters"):
        bare.params = params
    with pytest.raises(InputError, match="_do_init=False and holds no parameters"):
        bare.save_pretrained(folder)
    bare.save_pretrained(folder / "again", params)
    assert_same(FlaxGPT2LMHeadModel.from_pretrained(folder / "again").params, model.params)


def test_what_a_file_lacks_is_refused_or_left_to_init_weights(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = {name: value for name, value in WEIGHTS.items() if "h.1.mlp.c_fc" not in name}
    save_safetensors(folder, weights)
    with pytest.raises(
        CheckpointError, match=r"lack transformer.h.1.mlp.c_fc.bias and 1 more.*_do_init=False"
    ):
        FlaxGPT2LMHeadModel.from_pretrained(folder)
    bare, params = FlaxGPT2LMHeadModel.from_pretrained(folder, _do_init=False)
    assert "c_fc" not in params["transformer"]["h"]["1"]["mlp"]
    assert "newly initialized: ['transformer.h.1.mlp.c_fc.bias'" in caplog.text
    filled = bare.init_weights(jax.random.PRNGKey(3), (1, 1), params)
    assert bare.required_params == set(flatten(filled))
    drawn = filled["transformer"]["h"]["1"]["mlp"]["c_fc"]
    assert 0.01 < float(drawn["kernel"].std()) < 0.03
    assert not drawn["bias"].any()
    assert (
        filled["transformer"]["h"]["1"]["ln_1"]["scale"] is params["transformer"]["h"]["1"]["ln_1"]["scale"]
    )


def test_heads_and_cross_attention_that_a_file_lacks_are_drawn_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(n_layer=1)
    weights = random_checkpoint(config)
    loaded = FlaxGPT2LMHeadModel.from_pretrained(
        folder_of(tmp_path, weights, config), add_cross_attention=True, tie_word_embeddings=False
    )
    assert "newly initialized" in caplog.text
    assert "transformer.h.0.crossattention.c_attn.weight" in caplog.text
    assert "lm_head.weight" in caplog.text
    drawn = flatten(loaded.params)
    assert set(drawn) == loaded.required_params
    np.testing.assert_array_equal(drawn["transformer", "wte", "embedding"], weights["transformer.wte.weight"])
    for path in (("lm_head", "kernel"), ("transformer", "h", "0", "crossattention", "q_attn", "kernel")):
        assert 0.01 < float(drawn[path].std()) < 0.03


def test_a_head_that_is_not_asked_for_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config("untied", n_layer=1)
    untied = FlaxGPT2LMHeadModel.from_pretrained(folder_of(tmp_path, random_checkpoint(config), config))
    untied.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        FlaxGPT2Model.from_pretrained(tmp_path)
    (record,) = (record for record in caplog.records if "were not used" in record.message)
    assert record.levelno == logging.INFO
    assert "['lm_head.weight']" in record.message
    caplog.clear()
    save_safetensors(tmp_path, random_checkpoint(config) | {"surplus": np.zeros(3, np.float32)})
    FlaxGPT2LMHeadModel.from_pretrained(tmp_path)
    assert "were not used when initializing FlaxGPT2LMHeadModel: ['surplus']" in caplog.text


def test_other_shapes_are_refused_or_drawn_and_listed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ShapeMismatchError, match=r"wte.weight is \[101, 33\] in the file and \[103, 33\]"):
        FlaxGPT2LMHeadModel.from_pretrained(folder, vocab_size=103)
    loaded = FlaxGPT2LMHeadModel.from_pretrained(folder, vocab_size=103, ignore_mismatched_sizes=True)
    assert "the shapes did not match: transformer.wte.weight: (101, 33) in the file" in caplog.text
    table = loaded.params["transformer"]["wte"]["embedding"]
    assert table.shape == (103, 33)
    assert 0.01 < float(table.std()) < 0.03


# --------------------------------------------------------------------------- what is refused


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "two files": (
        {"from_pt": True, "from_tf": True},
        InputError,
        "from_pt=True and from_tf=True ask for two",
    ),
    "another format": (
        {"from_tf": True},
        FileNotInRepositoryError,
        r"looked for tf_model\.h5, tf_model\.h5\.i",
    ),
    "dtype of the parameters": (
        {"torch_dtype": "float16"},
        InputError,
        "torch_dtype: parameters keep the dtype",
    ),
    "a report": ({"output_loading_info": True}, InputError, "output_loading_info: what is missing is logged"),
    "no dtype": ({"dtype": "float31"}, ConfigError, "float31"),
    "whole numbers": ({"dtype": jnp.int8}, ConfigError, "int8"),
    "misspelt": ({"output_atentions": True}, TypeError, "output_atentions"),
    "two tokens": ({"token": "a", "use_auth_token": "b"}, InputError, "two spellings"),
    "what the configuration refuses": ({"n_head": 2}, ConfigError, "n_embd"),
    "input shape": ({"input_shape": (0, 1)}, InputError, r"input_shape should be \(batch, positions\)"),
}


@pytest.mark.parametrize("argument", REFUSED)
def test_arguments_that_cannot_be_honoured_are_refused_in_a_sentence(folder: Path, argument: str) -> None:
    given, kind, sentence = REFUSED[argument]
    with pytest.raises(kind, match=sentence):
        FlaxGPT2LMHeadModel.from_pretrained(folder, **given)


def test_places_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"config.json"):
        FlaxGPT2LMHeadModel.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="needs a folder or a name"):
        FlaxGPT2LMHeadModel.from_pretrained(None)
    CONFIG.save_pretrained(tmp_path)
    with pytest.raises(FileNotInRepositoryError, match=r"looked for model.safetensors, .*flax_model.msgpack"):
        FlaxGPT2LMHeadModel.from_pretrained(tmp_path)


def test_a_quantized_file_is_refused(folder: Path) -> None:
    save_safetensors(folder, WEIGHTS | {"transformer.ln_f.weight": np.ones(33, np.int8)})
    with pytest.raises(CheckpointError, match=r"transformer.ln_f.weight is of dtype I8, and weights are F64"):
        FlaxGPT2LMHeadModel.from_pretrained(folder)


# --------------------------------------------------------------------------- what is written


def test_a_folder_has_what_other_tools_ask_for(model: FlaxGPT2LMHeadModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert config["torch_dtype"] == "float32"
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.metadata == {"format": "pt"}
        assert set(checkpoint) == set(WEIGHTS)
        for name, values in WEIGHTS.items():
            np.testing.assert_array_equal(checkpoint.numpy(name), values)


def test_uploading_unknown_arguments_and_other_trees_are_refused_before_anything_is_written(
    model: FlaxGPT2LMHeadModel, tmp_path: Path
) -> None:
    for given, sentence in (
        ({"push_to_hub": True}, "cannot honour push_to_hub"),
        ({"token": "x"}, "cannot honour token"),
        ({"commit_message": "x"}, "cannot honour commit_message"),
        (
            {"params": model.params["transformer"]},
            "is missing; .*; h/0/attn/c_attn/bias is unknown; .* and 76 more",
        ),
        ({"max_shard_size": "much"}, "is no size"),
    ):
        with pytest.raises(InputError, match=sentence):
            model.save_pretrained(tmp_path / "new", **given)
    with pytest.raises(InputError, match="uploads nothing"):
        model.push_to_hub("name")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        model.save_pretrained(tmp_path / "file")
    assert not list(tmp_path.glob("new/[!.]*"))


def test_a_flax_file_that_would_not_be_read_is_not_written(model: FlaxGPT2LMHeadModel, folder: Path) -> None:
    with pytest.raises(InputError, match=r"holds model.safetensors, which would be read in place"):
        model.save_pretrained(folder, safe_serialization=False)
    assert not (folder / FLAX).exists()


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "msgpack"])
def test_a_failed_save_leaves_the_old_model(
    model: FlaxGPT2LMHeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    model.save_pretrained(tmp_path, safe_serialization=safe)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    other = jax.tree.map(lambda leaf: leaf + 1, model.params)
    with pytest.raises(StorageError, match="space"):
        model.save_pretrained(tmp_path, other, safe_serialization=safe)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_saved_configuration_that_cannot_work_is_refused(folder: Path) -> None:
    loaded = FlaxGPT2Model.from_pretrained(folder)
    loaded.config.n_head = 2
    with pytest.raises(GPT2KitError, match="n_head"):
        loaded.save_pretrained(folder / "new")


# --------------------------------------------------------------------------- what it takes


@pytest.fixture(scope="module")
def saved(model: FlaxGPT2LMHeadModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same model in both formats, each in a folder."""
    place = tmp_path_factory.mktemp("saved")
    model.save_pretrained(place / "safetensors")
    model.save_pretrained(place / "msgpack", safe_serialization=False)
    return place


_IMPORTS = """
import sys
import gpt2kit
for place in sys.argv[1:]:
    gpt2kit.FlaxGPT2LMHeadModel.from_pretrained(place)
print(sorted({"torch", "tensorflow", "transformers", "orbax"} & set(sys.modules)))
"""


def test_loading_either_format_imports_no_other_framework(saved: Path) -> None:
    command = [sys.executable, "-c", _IMPORTS, str(saved / "safetensors"), str(saved / "msgpack")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


_MEASURE = """
import re, sys
from gpt2kit import FlaxGPT2LMHeadModel
import jax
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
FlaxGPT2LMHeadModel.from_pretrained(sys.argv[1])  # a small one first: imports and pools are not the weights
before = peak()
model = FlaxGPT2LMHeadModel.from_pretrained(sys.argv[2])
loaded = peak()
sizes = [leaf.nbytes for leaf in jax.tree.leaves(model.params)]
model.save_pretrained(sys.argv[2] + "/again", safe_serialization="safe" in sys.argv)
print((loaded - before) / sum(sizes), (peak() - before) / sum(sizes), max(sizes) / sum(sizes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "msgpack"])
def test_loading_and_saving_take_hardly_more_memory_than_the_weights(
    saved: Path, tmp_path: Path, safe: bool
) -> None:
    config = GPT2Config(vocab_size=5003, n_positions=127, n_embd=640, n_layer=5, n_head=10)  # 110 MB
    weights = random_checkpoint(config)
    folder_of(tmp_path, weights, config)
    del weights
    if not safe:
        loaded, params = FlaxGPT2LMHeadModel.from_pretrained(tmp_path, _do_init=False)
        (tmp_path / "model.safetensors").unlink()
        loaded.save_pretrained(tmp_path, params, safe_serialization=False)
        del params
    small = saved / ("safetensors" if safe else "msgpack")
    command = [sys.executable, "-c", _MEASURE, str(small), str(tmp_path), *(["safe"] if safe else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    loading, saving, largest = map(float, done.stdout.split())
    assert 0.9 < loading < 1.1 + 2 * largest
    assert saving < 1.1 + 2 * largest
