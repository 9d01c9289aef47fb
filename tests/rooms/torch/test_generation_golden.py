"""`generate` against transformers 4.34.0: the same tokens and scores, as tools/record_generation.py found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cases import random_checkpoint, tiny_config
from gpt2kit.torch import GPT2LMHeadModel
from gpt2kit.torch.generation import logits

FOLDER = Path(__file__).parents[2] / "golden" / "generation"
CASES = json.loads((FOLDER / "cases.json").read_text())
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
SCORES = np.load(FOLDER / "scores.npz")
PROCESSORS = np.load(FOLDER / "processors.npz")
ARGUMENTS = json.loads(str(PROCESSORS["arguments"]))

# Largest difference over all cases and one or two threads, 2.4e-5 at scores up to 43 (six roundings of
# float32 there: the sums run in another order), times ten.
SCORE_TOLERANCE = 2.4e-4


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    config = tiny_config(**MANIFEST["model"])
    weights = random_checkpoint(config, MANIFEST["weights_seed"])
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    model = GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state).eval()
    model.generation_config.eos_token_id = None  # as the recorder does
    return model


def arguments_of(model: GPT2LMHeadModel, case: dict[str, Any]) -> dict[str, Any]:
    kwargs = dict(case["kwargs"])
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in case:
            kwargs[name] = torch.tensor(case[name])
    if "embeds_seed" in case:
        noise = np.random.default_rng(case["embeds_seed"]).normal(size=(2, 5, 33))
        kwargs["inputs_embeds"] = torch.from_numpy(noise.astype(np.float32) * 0.7)
    if "past" in case:
        with torch.no_grad():
            kwargs["past_key_values"] = model(kwargs["input_ids"][:, : case["past"]]).past_key_values
    return kwargs


def test_the_files_are_those_of_the_manifest():
    for name, digest in MANIFEST["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest
    assert MANIFEST["transformers"] == "4.34.0"


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_scores_are_those_of_4_34(name: str, model: GPT2LMHeadModel):
    case = CASES[name]
    if "seed" in case:
        if MANIFEST["torch"].split("+")[0] != torch.__version__.split("+")[0]:
            pytest.skip(f"draws were recorded with torch {MANIFEST['torch']}, this is {torch.__version__}")
        torch.manual_seed(case["seed"])
    output = model.generate(**arguments_of(model, case), return_dict_in_generate=True, output_scores=True)
    assert output.sequences.tolist() == case["sequences"]
    scores = torch.stack(output.scores).numpy()
    np.testing.assert_allclose(scores, SCORES[name], rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", [name for name in CASES if "attentions" in CASES[name]])
def test_attentions_and_hidden_states_have_the_nested_layout_of_4_34(name: str, model: GPT2LMHeadModel):
    case = CASES[name]
    torch.manual_seed(case.get("seed", 0))
    output = model.generate(**arguments_of(model, case), return_dict_in_generate=True)
    assert list(output) == ["sequences", "attentions", "hidden_states"]
    for part in ("attentions", "hidden_states"):
        nested = output[part]
        assert isinstance(nested, tuple)
        assert all(isinstance(step, tuple) for step in nested)
        assert [[list(tensor.shape) for tensor in step] for step in nested] == case[part]
        last = [step[-1].numpy() for step in nested]
        if part == "hidden_states":
            found = np.stack([state[:, -1] for state in last])
        else:
            found = np.stack([w[:, :, -1] @ np.arange(w.shape[-1], dtype=np.float32) for w in last])
        np.testing.assert_allclose(found, SCORES[f"{name}.{part}"], rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_processor_does_to_fixed_scores_what_4_34_does(name: str):
    scores = torch.from_numpy(PROCESSORS["logits"].copy())
    ids = torch.from_numpy(PROCESSORS["input_ids"])
    if name == "InfNanRemoveLogitsProcessor":
        scores[0, 3], scores[1, 5], scores[1, 7] = float("nan"), float("inf"), -float("inf")
    if name.startswith("ForcedBOS"):
        ids = ids[:, :1]
    untouched = scores.clone()
    processor_class = getattr(logits, name)
    found = processor_class(*ARGUMENTS[name])(ids, scores)
    np.testing.assert_allclose(found.numpy(), PROCESSORS[name], rtol=0, atol=1e-6)  # 4 ulp at 2.4
    torch.testing.assert_close(scores, untouched, rtol=0, atol=0, equal_nan=True)
