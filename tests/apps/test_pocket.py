"""The model in the package: small, there without a network, and as good as its card says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model is read by the PyTorch room")

import torch
from safetensors import safe_open

import gpt2kit
from gpt2kit import AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel

FOLDER = Path(gpt2kit.__file__).parent / "pocket"
EXPECTED = json.loads((Path(__file__).parents[1] / "golden" / "pocket.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model():
    return GPT2LMHeadModel.from_pretrained("pocket").eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained("pocket")


def test_it_is_small_enough_for_the_package():
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8_500_000  # the wheel stays under 10 MB


def test_it_is_stored_in_float16_and_loads_as_float32_unless_asked(model):
    with safe_open(FOLDER / "model.safetensors", "np") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype(np.float16)}  # noqa: SIM118
    assert model.dtype == torch.float32
    assert GPT2LMHeadModel.from_pretrained("pocket", torch_dtype="auto").dtype == torch.float16


def test_configuration_tokenizer_and_weights_agree(model, tokenizer):
    config = GPT2Config.from_pretrained("pocket")
    assert len(tokenizer) == config.vocab_size == model.config.vocab_size == 2048
    assert tokenizer.eos_token_id == config.eos_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert tokenizer.model_max_length == config.n_positions == 256


def test_it_spells_any_text(tokenizer):
    text = "Thou art 中文 — naïve 😀!\n\n\tO, 7 times <|endoftext|>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_its_loss_on_held_out_text_is_what_the_card_says(model, tokenizer):
    ids = tokenizer(EXPECTED["excerpt"], return_tensors="pt")["input_ids"]  # [1, T]
    total, width = 0.0, model.config.n_positions
    with torch.no_grad():
        for start in range(0, ids.shape[1] - 1, width):
            window = ids[:, start : start + width + 1]  # [1, T + 1]
            logits = model(window[:, :-1]).logits  # [1, T, V]
            total += torch.nn.functional.cross_entropy(logits[0], window[0, 1:], reduction="sum").item()
    loss = total / (ids.shape[1] - 1)
    # The same sums on other processors: float32 rounds in the seventh digit, a thousand terms average it out.
    assert loss == pytest.approx(EXPECTED["excerpt_loss"], abs=1e-4)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert float(re.search(r"which the tests carry \| ([\d.]+) \|", card).group(1)) == pytest.approx(
        loss, abs=2e-4
    )
    said = float(re.search(r"\| held out \| ([\d.]+) \|", card).group(1))
    assert said == pytest.approx(EXPECTED["held_out_loss"], abs=1e-4)


def test_greedy_text_is_always_the_same(model, tokenizer):
    prompt = tokenizer(EXPECTED["greedy_prompt"], return_tensors="pt")["input_ids"]
    ids = model.generate(prompt, do_sample=False, temperature=1.0, max_new_tokens=40)[0]
    assert ids.tolist() == EXPECTED["greedy_ids"]
    assert tokenizer.decode(ids) == EXPECTED["greedy_text"]


def test_it_samples_unless_told_otherwise():
    config = GenerationConfig.from_pretrained("pocket")
    assert (config.do_sample, config.temperature, config.top_k) == (True, 0.8, 50)
    assert config.eos_token_id == 0


def test_the_card_says_what_it_was_made_of_and_what_it_is_not_for():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for said in (
        "public domain",
        "Apache-2.0",
        "gpt2kit train",
        "--seed 1337",
        "perplexity",
        "What it is not for",
    ):
        assert said in card
