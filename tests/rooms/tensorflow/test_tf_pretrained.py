"""from_pretrained and save_pretrained of the TensorFlow models."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the room that is tested")

import tensorflow as tf

from cases import random_checkpoint, tiny_config
from gpt2kit.checkpoint import save_flax, save_safetensors, tensor_specs
from gpt2kit.checkpoint.flax_names import flax_path, is_reversed
from gpt2kit.config import GPT2Config
from gpt2kit.errors import CheckpointError, HubError, InputError, ShapeMismatchError
from gpt2kit.tensorflow import (
    TFGPT2DoubleHeadsModel,
    TFGPT2ForSequenceClassification,
    TFGPT2LMHeadModel,
    TFGPT2Model,
)
from gpt2kit.tensorflow.weights import table_of
from tf_files import COMPUTED, SAVED, official_weights

pytest.importorskip("h5py", reason="it writes a tf_model.h5")

CLASS_OF = {
    "whole": TFGPT2LMHeadModel,
    "shards": TFGPT2LMHeadModel,
    "body": TFGPT2Model,
    "double": TFGPT2DoubleHeadsModel,
    "labels": TFGPT2ForSequenceClassification,
}
IDS = COMPUTED["input_ids"]
# Numbers of up to 8 in float32 against 4.34's own: measured 8.4e-7 over the five folders.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def outputs_of(name: str, model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Call a model as the recorder did."""
    if name == "double":
        both = model(IDS[:, None], mc_token_ids=np.array([[4], [2]]))
        return {"double": both.logits.numpy(), "double_mc": both.mc_logits.numpy()}
    states = {"encoder_hidden_states": COMPUTED["encoder_hidden_states"]} if name == "body" else {}
    return {name: model(IDS, **states)[0].numpy()}


def values_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: variable.value.numpy() for name, variable in table_of(model)[1].items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = tiny_config()
    config.save_pretrained(tmp_path)
    save_safetensors(tmp_path, random_checkpoint(config))
    return tmp_path


# --------------------------------------------------------------------------- 4.34's files


@pytest.mark.parametrize("name", CLASS_OF)
def test_what_4_34_saved_is_computed_as_4_34_computed_it(name: str) -> None:
    model = CLASS_OF[name].from_pretrained(SAVED / name)
    for key, values in official_weights(name).items():
        np.testing.assert_array_equal(values_of(model)[key], values)
    for key, values in outputs_of(name, model).items():
        np.testing.assert_allclose(values, COMPUTED[key], **TOLERANCE)


@pytest.mark.parametrize("name", CLASS_OF)
@pytest.mark.parametrize("safe", [True, False])
def test_what_is_saved_comes_back_as_it_was(tmp_path: Path, name: str, safe: bool) -> None:
    cls = CLASS_OF[name]
    model = cls.from_pretrained(SAVED / name)
    model.save_pretrained(tmp_path, safe_serialization=safe, max_shard_size="3KB")
    again = cls.from_pretrained(tmp_path)
    assert values_of(again).keys() == values_of(model).keys()
    for key, values in values_of(model).items():
        np.testing.assert_array_equal(values_of(again)[key], values)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [cls.__name__.removeprefix("TF")]
    assert config["torch_dtype"] == "float32"
    assert (tmp_path / "generation_config.json").exists() == model.can_generate()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # Keras' own
@pytest.mark.parametrize("safe", [True, False])
def test_a_model_without_some_heads_comes_back_without_them(tmp_path: Path, safe: bool) -> None:
    model = TFGPT2LMHeadModel(tiny_config(n_layer=2))
    model.prune_heads({1: [0, 2]})
    model.save_pretrained(tmp_path, safe_serialization=safe)
    again = TFGPT2LMHeadModel.from_pretrained(tmp_path)
    assert again.config.pruned_heads == {1: [0, 2]}
    assert again.transformer.h[1].attn.c_proj.weight.shape == (11, 33)
    for key, values in values_of(model).items():
        np.testing.assert_array_equal(values_of(again)[key], values)
    np.testing.assert_array_equal(again(IDS).logits, model(IDS).logits)
    again.prune_heads({0: [1]})  # and once more
    again.save_weights(tmp_path / "more.weights.h5")
    last = TFGPT2LMHeadModel(again.config)
    last.load_weights(tmp_path / "more.weights.h5")
    np.testing.assert_array_equal(last(IDS).logits, again(IDS).logits)


# --------------------------------------------------------------------------- folders of other rooms


def test_every_kind_of_file_gives_the_same_model(folder: Path) -> None:
    config = GPT2Config.from_pretrained(folder)
    weights = random_checkpoint(config)
    paths = {spec.name: flax_path(spec) for spec in tensor_specs(config)}
    other = folder / "flax"
    config.save_pretrained(other)
    own = {
        "/".join(paths[name]): values.T.copy() if is_reversed(paths[name], values.shape) else values
        for name, values in weights.items()
        if name in paths
    }
    save_flax(other, own)
    models = [
        TFGPT2LMHeadModel.from_pretrained(folder),
        TFGPT2LMHeadModel.from_pretrained(folder, from_pt=True),
        TFGPT2LMHeadModel.from_pretrained(other, from_flax=True),
        TFGPT2LMHeadModel.from_pretrained(folder / "model.safetensors", config=config),
    ]
    for model in models:
        for name, values in values_of(model).items():
            np.testing.assert_array_equal(values, weights[name])


def test_the_embedded_model_opens() -> None:
    model = TFGPT2LMHeadModel.from_pretrained("pocket")
    assert model.name_or_path == model.config.name_or_path == "pocket"
    assert model(IDS).logits.shape == (*IDS.shape, model.config.vocab_size)


def test_half_precision_in_a_file_is_widened_and_a_policy_keeps_its_own(tmp_path: Path) -> None:
    config = tiny_config(n_layer=1)
    config.save_pretrained(tmp_path)
    half = {name: values.astype(np.float16) for name, values in random_checkpoint(config).items()}
    save_safetensors(tmp_path, half)
    for policy, dtype in ((None, "float32"), ("float16", "float16"), ("mixed_bfloat16", "float32")):
        model = TFGPT2Model.from_pretrained(tmp_path, **({} if policy is None else {"dtype": policy}))
        for name, values in values_of(model).items():
            assert values.dtype == dtype
            np.testing.assert_array_equal(values, half[f"transformer.{name}"].astype(dtype))
    back = tmp_path / "back"
    model = TFGPT2Model.from_pretrained(tmp_path, dtype="bfloat16")
    model.save_pretrained(back)
    assert TFGPT2Model.from_pretrained(back, dtype="bfloat16").config.torch_dtype == "bfloat16"
    with pytest.raises(InputError, match="BF16, which HDF5 does not have"):
        model.save_pretrained(tmp_path / "h5", safe_serialization=False)


# --------------------------------------------------------------------------- what does not fit


def test_a_head_starts_afresh_and_that_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model, info = TFGPT2ForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == ["score.weight"]
    assert "newly initialized: ['score.weight']" in caplog.text
    assert float(tf.math.reduce_std(model.score.weight)) > 0


def test_what_a_file_lacks_is_drawn_as_gpt2_draws_it_and_nothing_else_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    class Watched(tf.keras.initializers.RandomNormal):
        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            drawn.append((self.stddev, tuple(shape)))
            return super().__call__(shape, dtype)

    monkeypatch.setattr("keras.initializers.RandomNormal", Watched)
    TFGPT2LMHeadModel.from_pretrained(folder)
    assert drawn == []
    weights = random_checkpoint(GPT2Config.from_pretrained(folder))
    lacked = {
        "wte.weight": 0.5,
        "h.1.attn.c_attn.weight": 0.5,
        "h.2.mlp.c_proj.weight": 0.5 / np.sqrt(2 * tiny_config().n_layer),
    }
    save_safetensors(folder, {name: weights[name] for name in weights if name[12:] not in lacked})
    model, info = TFGPT2Model.from_pretrained(folder, initializer_range=0.5, output_loading_info=True)
    assert set(info["missing_keys"]) == lacked.keys()
    found = values_of(model)
    assert sorted(drawn) == sorted((lacked[name], found[name].shape) for name in lacked)
    for name, deviation in lacked.items():
        np.testing.assert_allclose(found[name].std(), deviation, rtol=0.15)
    for name in found.keys() - lacked.keys():
        np.testing.assert_array_equal(found[name], weights[f"transformer.{name}"])


def test_a_file_without_a_weight_of_the_body_is_refused(folder: Path) -> None:
    weights = random_checkpoint(GPT2Config.from_pretrained(folder))
    del weights["transformer.h.1.mlp.c_fc.bias"]
    save_safetensors(folder, weights)
    with pytest.raises(
        CheckpointError, match=r"lack transformer\.h\.1\.mlp\.c_fc\.bias, without which TFGPT2LM"
    ):
        TFGPT2LMHeadModel.from_pretrained(folder)
    _, info = TFGPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] == ["transformer.h.1.mlp.c_fc.bias"]


def test_other_shapes_are_refused_or_start_afresh(folder: Path) -> None:
    with pytest.raises(ShapeMismatchError, match="size mismatch for 1 tensors"):
        TFGPT2LMHeadModel.from_pretrained(folder, vocab_size=97)
    model, info = TFGPT2LMHeadModel.from_pretrained(
        folder, vocab_size=97, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert [name for name, _, _ in info["mismatched_keys"]] == ["transformer.wte.weight"]
    assert model.config.vocab_size == model.transformer.wte.weight.shape[0] == 97


def test_values_of_the_configuration_can_be_replaced(folder: Path) -> None:
    config = GPT2Config.from_pretrained(folder)
    assert TFGPT2LMHeadModel.from_pretrained(folder, attn_pdrop=0.25).config.attn_pdrop == 0.25
    assert TFGPT2LMHeadModel.from_pretrained(folder, config=config).config is config
    named = TFGPT2LMHeadModel.from_pretrained(folder, name="mine", trainable=False)
    assert (named.name, named.trainable) == ("mine", False)


def test_layers_of_a_subclass_are_saved_and_loaded(tmp_path: Path) -> None:
    class Extended(TFGPT2LMHeadModel):
        def __init__(self, config: GPT2Config, **kwargs: Any) -> None:
            super().__init__(config, **kwargs)
            self.extra = tf.keras.layers.Dense(3, name="extra")
            self.extra.build((None, config.n_embd))

    model = Extended(tiny_config(n_layer=1))
    model.save_pretrained(tmp_path)
    again, info = Extended.from_pretrained(tmp_path, output_loading_info=True)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []}
    np.testing.assert_array_equal(again.extra.kernel, model.extra.kernel)


# --------------------------------------------------------------------------- what is refused

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "prefix": ({"load_weight_prefix": "decoder"}, InputError, "cannot honour load_weight_prefix"),
    "rename": ({"tf_to_pt_weight_rename": str}, InputError, "cannot honour tf_to_pt_weight_rename"),
    "torch_dtype": ({"torch_dtype": "float16"}, InputError, "give a policy of Keras as dtype"),
    "state_dict": ({"state_dict": {}}, InputError, "cannot honour state_dict"),
    "two files": ({"from_tf": True, "from_flax": True}, InputError, "ask for two files"),
    "a misspelt name": ({"from_ptt": True}, TypeError, "unknown keyword 'from_ptt'"),
    "safetensors alone": (
        {"from_flax": True},
        HubError,
        r"It has model\.safetensors: leave out from_tf and from_flax",
    ),
    "another format": ({"from_tf": True}, HubError, r"looked for tf_model\.h5, tf_model\.h5\.index"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_cannot_be_honoured_are_refused_before_weights_are_read(
    folder: Path, case: str
) -> None:
    arguments, kind, sentence = REFUSED[case]
    with pytest.raises(kind, match=sentence):
        TFGPT2LMHeadModel.from_pretrained(folder, **arguments)


def test_no_place_and_arguments_that_ask_for_nothing(folder: Path) -> None:
    with pytest.raises(InputError, match="needs a folder or a name"):
        TFGPT2LMHeadModel.from_pretrained(None)
    with pytest.raises(HubError):
        TFGPT2LMHeadModel.from_pretrained(folder / "none", local_files_only=True)
    TFGPT2LMHeadModel.from_pretrained(
        folder, from_pt=False, load_weight_prefix=None, revision="main", cache_dir=folder, mirror=None
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"push_to_hub": True}, "cannot honour push_to_hub"),
        ({"create_pr": True, "token": "x"}, "cannot honour create_pr, token"),
        ({"repo_id": "x"}, "cannot honour repo_id"),
        ({"version": 2}, "pass saved_model=True"),
        ({"signatures": {}}, "pass saved_model=True"),
        ({"max_shard_size": "many"}, "is no size"),
    ],
)
def test_a_save_that_cannot_be_honoured_writes_nothing(
    tmp_path: Path, arguments: dict[str, Any], sentence: str
) -> None:
    model = TFGPT2Model(tiny_config(n_layer=1))
    with pytest.raises(InputError, match=sentence):
        model.save_pretrained(tmp_path / "new", **arguments)
    assert not list(tmp_path.glob("new/*"))


def test_an_h5_is_not_written_where_it_would_be_wrong_or_unread(folder: Path, tmp_path: Path) -> None:
    model = TFGPT2LMHeadModel.from_pretrained(folder)
    with pytest.raises(
        InputError, match=r"holds model\.safetensors, which would be read in place of the tf_mod"
    ):
        model.save_pretrained(folder, safe_serialization=False)
    untied = TFGPT2LMHeadModel(tiny_config(n_layer=1, tie_word_embeddings=False))
    with pytest.raises(InputError, match=r"no place for lm_head\.weight"):
        untied.save_pretrained(tmp_path / "untied", safe_serialization=False)
    with pytest.raises(InputError, match="is a file; save_pretrained needs a folder"):
        model.save_pretrained(folder / "model.safetensors")
