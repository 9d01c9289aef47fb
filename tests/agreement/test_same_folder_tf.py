"""One folder in the TensorFlow room and in every other that is installed: all compute the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="one of the rooms that are compared")

from cases import make_inputs, random_checkpoint, tiny_config
from gpt2kit.checkpoint import open_checkpoint, save_safetensors
from gpt2kit.config import GPT2Config
from gpt2kit.reference import gpt2
from gpt2kit.tensorflow import TFGPT2LMHeadModel

# Logits of up to 40 in float32, relative to what is compared and absolutely: measured 2.9e-6 over the cases.
TOLERANCE = {"rtol": 1e-5, "atol": 3e-5}
CASES = {
    "tied": tiny_config(),
    "untied, every switch": tiny_config(
        "cross_attention_all_switches", tie_word_embeddings=False, n_inner=47, n_layer=2
    ),
    "pruned": tiny_config(n_layer=2, pruned_heads={1: [0, 2]}),
}


def in_torch(folder: Path, inputs: dict[str, Any], **options: Any) -> Any:
    import torch

    from gpt2kit.torch import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder, **options)
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()


def in_flax(folder: Path, inputs: dict[str, Any], **options: Any) -> Any:
    from gpt2kit.flax import FlaxGPT2LMHeadModel

    return FlaxGPT2LMHeadModel.from_pretrained(folder, **options)(**inputs).logits


ROOMS: dict[str, Callable[..., Any]] = {"torch": in_torch, "flax": in_flax}


@pytest.fixture(params=ROOMS)
def room(request: pytest.FixtureRequest) -> Callable[..., Any]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return ROOMS[request.param]


@pytest.mark.parametrize("case", CASES)
def test_what_tensorflow_saves_every_room_opens_and_computes_alike(
    tmp_path: Path, room: Callable[..., Any], case: str
) -> None:
    config = CASES[case]
    config.save_pretrained(tmp_path)
    save_safetensors(tmp_path, random_checkpoint(config), max_shard_size="50KB")
    model = TFGPT2LMHeadModel.from_pretrained(tmp_path)
    inputs = make_inputs(config).as_dict()
    logits = model(**inputs).logits.numpy()  # [B, T, V]
    model.save_pretrained(tmp_path / "saved", max_shard_size="50KB")
    np.testing.assert_allclose(room(tmp_path, inputs), logits, **TOLERANCE)
    np.testing.assert_allclose(room(tmp_path / "saved", inputs), logits, **TOLERANCE)


@pytest.mark.parametrize("size", ["50KB", "10GB"])
def test_an_h5_of_tensorflow_opens_in_pytorch(tmp_path: Path, size: str) -> None:
    pytest.importorskip("torch", reason="the room that opens it")
    pytest.importorskip("h5py", reason="it writes a tf_model.h5")
    model = TFGPT2LMHeadModel(tiny_config())
    model.save_pretrained(tmp_path, safe_serialization=False, max_shard_size=size)
    inputs = make_inputs(model.config).as_dict()
    logits = in_torch(tmp_path, inputs, from_tf=True)
    np.testing.assert_allclose(logits, model(**inputs).logits, **TOLERANCE)


def test_what_tensorflow_saves_is_what_the_reference_computes(tmp_path: Path) -> None:
    config = tiny_config()
    model = TFGPT2LMHeadModel(config)
    model.save_pretrained(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        weights = {name: checkpoint.numpy(name).astype(np.float64) for name in checkpoint}
    inputs = make_inputs(config).as_dict()
    wanted = gpt2(GPT2Config.from_pretrained(tmp_path), weights, **inputs)
    np.testing.assert_allclose(model(**inputs).logits, wanted.logits, **TOLERANCE)
