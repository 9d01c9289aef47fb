"""`generate` with beams against transformers 4.34.0: what tools/record_beams.py found."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cases import random_checkpoint, tiny_config
from gpt2kit.torch import BeamSampleDecoderOnlyOutput, BeamSearchDecoderOnlyOutput, GPT2LMHeadModel

FOLDER = Path(__file__).parents[2] / "golden" / "beams"
CASES = json.loads((FOLDER / "cases.json").read_text())
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
ARRAYS = np.load(FOLDER / "arrays.npz")

# The largest difference over all cases, 3.8e-5 (sums of up to 11 log-probabilities in float32), times ten.
SCORE_TOLERANCE = 3.8e-4


@pytest.fixture(scope="module")
def models() -> dict[bool, GPT2LMHeadModel]:
    made = {}
    for cross in (False, True):
        config = tiny_config(**MANIFEST["model"], add_cross_attention=cross)
        weights = random_checkpoint(config, MANIFEST["weights_seed"])
        state = {name: torch.from_numpy(array) for name, array in weights.items()}
        made[cross] = GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state).eval()
        made[cross].generation_config.eos_token_id = None  # as the recorder does
    return made


def generated(models: dict[bool, GPT2LMHeadModel], case: dict[str, Any], **more: Any) -> Any:
    kwargs = dict(case["kwargs"]) | more
    for name in ("input_ids", "attention_mask", "token_type_ids", "encoder_attention_mask"):
        if name in case:
            kwargs[name] = torch.tensor(case[name])
    for name, argument in (("embeds_seed", "inputs_embeds"), ("encoder_seed", "encoder_hidden_states")):
        if name in case:
            noise = np.random.default_rng(case[name]).normal(size=(2, 5, 33)).astype(np.float32) * 0.7
            kwargs[argument] = torch.from_numpy(noise)
    if case.get("halves"):
        kwargs["prefix_allowed_tokens_fn"] = lambda row, ids: list(range(row % 2, 101, 2))
    if "seed" in case:
        if MANIFEST["torch"].split("+")[0] != torch.__version__.split("+")[0]:
            pytest.skip(f"draws were recorded with torch {MANIFEST['torch']}, this is {torch.__version__}")
        torch.manual_seed(case["seed"])
    return models["encoder_seed" in case].generate(**kwargs)


def with_the_first_end(sequences: torch.Tensor, case: dict[str, Any]) -> list[list[int]]:
    """Return texts as 4.34 does: whichever token ends one, it writes the first of the list."""
    ends = case["kwargs"]["eos_token_id"]
    length = len(case.get("input_ids", [[2]])[0])
    texts = sequences.tolist()
    for text in texts if isinstance(ends, list) else []:
        for place in range(length, len(text)):
            text[place] = ends[0] if text[place] in ends else text[place]
    return texts


def test_the_files_are_those_of_the_manifest():
    for name, digest in MANIFEST["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest
    assert MANIFEST["transformers"] == "4.34.0"


@pytest.mark.parametrize("name", CASES)
def test_texts_and_scores_are_those_of_4_34(name: str, models: dict[bool, GPT2LMHeadModel]):
    case = CASES[name]
    output = generated(models, case, return_dict_in_generate=True, output_scores=True)
    assert type(output) is (BeamSampleDecoderOnlyOutput if "seed" in case else BeamSearchDecoderOnlyOutput)
    assert with_the_first_end(output.sequences, case) == case["sequences"]
    scores = torch.stack(output.scores).numpy()[..., :: MANIFEST["columns"]]
    np.testing.assert_allclose(scores, ARRAYS[name], rtol=0, atol=SCORE_TOLERANCE)
    assert output.sequences_scores.dtype == torch.float32
    wanted = ARRAYS[f"{name}.sequences_scores"]
    np.testing.assert_allclose(output.sequences_scores.numpy(), wanted, rtol=0, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_alone_are_the_same(name: str, models: dict[bool, GPT2LMHeadModel]):
    case = CASES[name]
    kept = dict.fromkeys(("output_attentions", "output_hidden_states"), False)
    assert with_the_first_end(generated(models, case, **kept), case) == case["sequences"]


# In 4.34 the rows of groups are counted within each group and mixed up between prompts (docs/differences.md).
# Where tokens are drawn, beams that are equal may be named in another order.
ROWS = [name for name in CASES if f"{name}.beam_indices" in ARRAYS and "group" not in name]


@pytest.mark.parametrize("name", [name for name in ROWS if "seed" not in CASES[name]])
def test_the_rows_that_tokens_came_from_are_those_of_4_34(name: str, models: dict[bool, GPT2LMHeadModel]):
    output = generated(models, CASES[name], return_dict_in_generate=True, output_scores=True)
    assert output.beam_indices.tolist() == ARRAYS[f"{name}.beam_indices"].tolist()


@pytest.mark.parametrize("name", [name for name in CASES if "attentions" in CASES[name]])
def test_attentions_and_states_are_those_of_4_34(name: str, models: dict[bool, GPT2LMHeadModel]):
    case = CASES[name]
    output = generated(models, case, return_dict_in_generate=True)
    parts = ["attentions", "hidden_states"]
    assert list(output) == ["sequences", *parts, *(["cross_attentions"] if "encoder_seed" in case else [])]
    for part in parts:
        nested = output[part]
        assert [[list(tensor.shape) for tensor in step] for step in nested] == case[part]
        last = [step[-1].numpy() for step in nested]
        if part == "hidden_states":
            found = np.stack([state[:, -1] for state in last])
        else:
            found = np.stack([w[:, :, -1] @ np.arange(w.shape[-1], dtype=np.float32) for w in last])
        np.testing.assert_allclose(found, ARRAYS[f"{name}.{part}"], rtol=0, atol=SCORE_TOLERANCE)
