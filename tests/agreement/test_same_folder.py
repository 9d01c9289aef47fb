"""One folder, several rooms: what one saves another opens, and both compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="one of the rooms that are compared")
pytest.importorskip("flax", reason="one of the rooms that are compared")

import torch

import tf_files
from cases import make_inputs, random_checkpoint, tiny_config
from flax_files import COMPUTED, SAVED, official_weights
from gpt2kit.checkpoint import save_safetensors
from gpt2kit.errors import CheckpointError, FileNotInRepositoryError, InputError
from gpt2kit.flax import FlaxGPT2LMHeadModel, FlaxGPT2Model
from gpt2kit.torch import (
    GPT2DoubleHeadsModel,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

# Logits of up to 40 in float32, relative to what is compared and absolutely: measured 1.4e-6 over the cases.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
CASES = {
    "tied": tiny_config(),
    "untied, every switch": tiny_config(
        "cross_attention_all_switches", tie_word_embeddings=False, n_inner=47, n_layer=2
    ),
    "pruned": tiny_config(n_layer=2, pruned_heads={1: [0, 2]}),
}


def tensors(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in inputs.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_folder_opens_in_both_rooms_with_equal_outputs(tmp_path: Path, case: str) -> None:
    config = CASES[case]
    config.save_pretrained(tmp_path)
    save_safetensors(tmp_path, random_checkpoint(config), max_shard_size="50KB")
    ours, theirs = FlaxGPT2LMHeadModel.from_pretrained(tmp_path), GPT2LMHeadModel.from_pretrained(tmp_path)
    inputs = make_inputs(config).as_dict()
    with torch.no_grad():
        wanted = theirs(**tensors(inputs)).logits.numpy()  # [B, T, V]
    np.testing.assert_allclose(ours(**inputs).logits, wanted, **TOLERANCE)

    ours.save_pretrained(tmp_path / "from flax")
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "from flax")
    theirs.save_pretrained(tmp_path / "from torch", safe_serialization=False)
    back = FlaxGPT2LMHeadModel.from_pretrained(tmp_path / "from torch", from_pt=True)
    back.save_pretrained(tmp_path / "msgpack", safe_serialization=False, max_shard_size="50KB")
    last = GPT2LMHeadModel.from_pretrained(tmp_path / "msgpack", from_flax=True)
    for model in (again, last):
        for name, values in theirs.state_dict().items():
            assert torch.equal(model.state_dict()[name], values), name


@pytest.mark.parametrize("name", ["whole", "shards", "body"])
def test_pytorch_models_read_what_4_34s_flax_models_saved(name: str) -> None:
    cls = GPT2Model if name == "body" else GPT2LMHeadModel
    model = cls.from_pretrained(SAVED / name, from_flax=True)
    inputs = {"input_ids": COMPUTED["input_ids"]}
    if name == "body":
        inputs["encoder_hidden_states"] = COMPUTED["encoder_hidden_states"]
    with torch.no_grad():
        np.testing.assert_allclose(model(**tensors(inputs))[0].numpy(), COMPUTED[name], **TOLERANCE)


def test_another_head_takes_its_body_from_a_flax_file(caplog: pytest.LogCaptureFixture) -> None:
    model = GPT2ForSequenceClassification.from_pretrained(SAVED / "whole", from_flax=True)
    for name, values in official_weights("whole").items():
        if name.startswith("transformer."):
            np.testing.assert_array_equal(model.state_dict()[name].numpy(), values)
    assert "newly initialized: ['score.weight']" in caplog.text


def test_half_precision_goes_from_room_to_room_and_stays(tmp_path: Path) -> None:
    model = FlaxGPT2Model.from_pretrained(SAVED / "shards")
    for safe in (True, False):
        model.save_pretrained(tmp_path / str(safe), safe_serialization=safe)
        theirs = GPT2Model.from_pretrained(tmp_path / str(safe), torch_dtype="auto", from_flax=not safe)
        assert theirs.dtype == torch.bfloat16
        kernel = np.asarray(model.params["h"]["0"]["attn"]["c_attn"]["kernel"], np.float32)
        np.testing.assert_array_equal(theirs.h[0].attn.c_attn.weight.detach().float().numpy(), kernel.T)


def test_from_flax_reads_flax_files_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotInRepositoryError, match=r"It has flax_model.msgpack: pass from_flax=True"):
        GPT2LMHeadModel.from_pretrained(SAVED / "whole")
    with pytest.raises(InputError, match=r"from_flax=True .* and from_tf=True asks for other weights"):
        GPT2LMHeadModel.from_pretrained(SAVED / "whole", from_flax=True, from_tf=True)
    with pytest.raises(InputError, match="state_dict asks for other weights"):
        GPT2LMHeadModel.from_pretrained(SAVED / "whole", from_flax=True, state_dict={})
    config = tiny_config()
    config.save_pretrained(tmp_path)
    save_safetensors(tmp_path, random_checkpoint(config))
    with pytest.raises(
        FileNotInRepositoryError, match=r"looked for flax_model.msgpack, flax_model.msgpack.index"
    ):
        GPT2LMHeadModel.from_pretrained(tmp_path, from_flax=True)
    (tmp_path / "flax_model.msgpack").write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises(CheckpointError, match="is no tree of arrays"):
        GPT2LMHeadModel.from_pretrained(tmp_path, from_flax=True)


@pytest.mark.parametrize("name", ["whole", "shards", "body", "double", "labels"])
def test_pytorch_models_read_what_4_34s_tensorflow_models_saved(name: str) -> None:
    classes = {"body": GPT2Model, "double": GPT2DoubleHeadsModel, "labels": GPT2ForSequenceClassification}
    model = classes.get(name, GPT2LMHeadModel).from_pretrained(tf_files.SAVED / name, from_tf=True)
    computed = tf_files.COMPUTED
    ids = torch.from_numpy(computed["input_ids"]).long()
    inputs: dict[str, Any] = {"input_ids": ids[:, None] if name == "double" else ids}
    if name == "body":
        inputs["encoder_hidden_states"] = torch.from_numpy(computed["encoder_hidden_states"])
    if name == "double":
        inputs["mc_token_ids"] = torch.tensor([[4], [2]])
    with torch.no_grad():
        outputs = model(**inputs)
    np.testing.assert_allclose(outputs[0].numpy(), computed[name], **TOLERANCE)
    if name == "double":  # the reference leaves an axis of one choice in
        mc_logits = outputs.mc_logits.numpy().reshape(-1)
        np.testing.assert_allclose(mc_logits, computed["double_mc"].reshape(-1), **TOLERANCE)


@pytest.mark.parametrize("name", ["whole", "shards", "body"])
def test_flax_models_read_what_4_34s_tensorflow_models_saved(name: str) -> None:
    cls = FlaxGPT2Model if name == "body" else FlaxGPT2LMHeadModel
    model = cls.from_pretrained(tf_files.SAVED / name, from_tf=True)
    inputs = {"input_ids": tf_files.COMPUTED["input_ids"]}
    if name == "body":
        inputs["encoder_hidden_states"] = tf_files.COMPUTED["encoder_hidden_states"]
    np.testing.assert_allclose(model(**inputs)[0], tf_files.COMPUTED[name], **TOLERANCE)
