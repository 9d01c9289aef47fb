"""Contrastive search, assistants, guidance and transition scores against transformers 4.34.0.

tools/record_decoding.py found the numbers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cases import random_checkpoint, tiny_config
from gpt2kit.torch import GPT2LMHeadModel, top_k_top_p_filtering
from gpt2kit.torch.generation.logits import EncoderNoRepeatNGramLogitsProcessor

FOLDER = Path(__file__).parents[2] / "golden" / "decoding"
CASES = json.loads((FOLDER / "cases.json").read_text())
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
ARRAYS = np.load(FOLDER / "arrays.npz")
TRANSITIONS = sorted({name.split(".")[1] for name in ARRAYS if name.startswith("transition.")})

# Largest difference over all cases and one or two threads, 3.7e-5 at scores up to 43, under guidance, which
# multiplies roundings by its scale; times ten.
SCORE_TOLERANCE = 3.7e-4


def build(noise: dict[str, Any] | None = None) -> GPT2LMHeadModel:
    config = tiny_config(**MANIFEST["model"])
    weights = random_checkpoint(config, MANIFEST["weights_seed"])
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    model = GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state).eval()
    model.generation_config.eos_token_id = None  # as the recorder does
    if noise is not None:
        draw = np.random.default_rng(noise["seed"])
        with torch.no_grad():
            for _, weight in sorted(model.named_parameters()):
                added = draw.normal(size=tuple(weight.shape)).astype(np.float32) * np.float32(noise["scale"])
                weight.add_(torch.from_numpy(added))
    return model


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return build()


def run(model: GPT2LMHeadModel, case: dict[str, Any]) -> Any:
    kwargs = dict(case["kwargs"])
    for name in ("input_ids", "negative_prompt_ids"):
        if name in case:
            kwargs[name] = torch.tensor(case[name])
    if case.get("assistant"):
        kwargs["assistant_model"] = build(MANIFEST["noise"])
    if "seed" in case:
        if MANIFEST["torch"].split("+")[0] != torch.__version__.split("+")[0]:
            pytest.skip(f"draws were recorded with torch {MANIFEST['torch']}, this is {torch.__version__}")
        torch.manual_seed(case["seed"])
    return model.generate(**kwargs, return_dict_in_generate=True, output_scores=True)


def test_the_decoding_files_are_those_of_the_manifest():
    for name, digest in MANIFEST["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest
    assert MANIFEST["transformers"] == "4.34.0"


@pytest.mark.parametrize("name", CASES)
def test_every_way_writes_the_tokens_and_scores_of_4_34(name: str, model: GPT2LMHeadModel):
    output = run(model, CASES[name])
    assert output.sequences.tolist() == CASES[name]["sequences"]
    scores = torch.stack(output.scores).numpy()
    np.testing.assert_allclose(scores, ARRAYS[name], rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", [name for name in CASES if "attentions" in CASES[name]])
def test_the_nested_outputs_have_the_layout_of_4_34(name: str, model: GPT2LMHeadModel):
    output = run(model, CASES[name])
    assert list(output) == ["sequences", "scores", "attentions", "hidden_states"]
    for part in ("attentions", "hidden_states"):
        nested = output[part]
        assert isinstance(nested, tuple)
        assert all(isinstance(step, tuple) for step in nested)
        assert [[list(tensor.shape) for tensor in step] for step in nested] == CASES[name][part]
        last = [step[-1].numpy() for step in nested]
        if part == "hidden_states":
            found = np.stack([state[:, -1] for state in last])
        else:
            found = np.stack([w[:, :, -1] @ np.arange(w.shape[-1], dtype=np.float32) for w in last])
        np.testing.assert_allclose(found, ARRAYS[f"{name}.{part}"], rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_transition_scores_are_those_of_4_34(name: str, normalize: bool, model: GPT2LMHeadModel):
    stem = f"transition.{name}"
    beams = ARRAYS.get(f"{stem}.beam_indices")
    found = model.compute_transition_scores(
        torch.from_numpy(ARRAYS[f"{stem}.sequences"]),
        tuple(torch.from_numpy(step) for step in ARRAYS[f"{stem}.scores"]),
        None if beams is None else torch.from_numpy(beams),
        normalize_logits=normalize,
    )
    expected = ARRAYS[f"{stem}.{'normalized' if normalize else 'plain'}"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5)  # 3 ulp of scores up to 43


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_runs_of_the_encoder_are_barred_as_in_4_34(size: int):
    ids, logits, encoder = (
        torch.from_numpy(ARRAYS[f"processors.{name}"].copy()) for name in ("ids", "logits", "encoder")
    )
    untouched = logits.clone()
    found = EncoderNoRepeatNGramLogitsProcessor(size, encoder)(ids, logits)
    np.testing.assert_array_equal(found.numpy(), ARRAYS[f"processors.encoder_ngram_{size}"])
    assert torch.equal(logits, untouched)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("k", {"top_k": 7}), ("p", {"top_p": 0.6}), ("kp", {"top_k": 11, "top_p": 0.5})],
)
def test_the_filter_keeps_what_4_34_keeps(name: str, kwargs: dict[str, Any]):
    found = top_k_top_p_filtering(torch.from_numpy(ARRAYS["processors.logits"].copy()), **kwargs)
    np.testing.assert_array_equal(found.numpy(), ARRAYS[f"processors.filter_{name}"])
