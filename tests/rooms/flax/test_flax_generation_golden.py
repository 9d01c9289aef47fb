"""`generate` in Flax against the texts of transformers 4.34.0's PyTorch classes, recorded by tools/.

The loop runs in Python here, with all rules in it, so that a case costs no compilation; some are compiled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cases import random_checkpoint, tiny_config
from compiled import compiled_once
from flax_builder import build_flax
from gpt2kit.errors import InputError
from gpt2kit.flax import FlaxGPT2LMHeadModel
from gpt2kit.flax.generation import logits

FOLDER = Path(__file__).parents[2] / "golden" / "generation"
CASES = json.loads((FOLDER / "cases.json").read_text())
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
PROCESSORS = np.load(FOLDER / "processors.npz")
ARGUMENTS = json.loads(str(PROCESSORS["arguments"]))

NOT_SERVED = {"past"}  # the cache of a program begins with the prompt
GREEDY = [name for name, case in CASES.items() if "seed" not in case and name not in NOT_SERVED]
# One program each, with many rules, padding, several ends; then without a cache.
COMPILED = ["together", "left_padded_eos", "left_padded_no_cache"]


@pytest.fixture(scope="module", autouse=True)
def programs_are_compiled_quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def model() -> FlaxGPT2LMHeadModel:
    config = tiny_config(**MANIFEST["model"])
    model = build_flax(config, random_checkpoint(config, MANIFEST["weights_seed"]))
    model.generation_config.eos_token_id = None  # as the recorder does
    return model


def arguments_of(case: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in case["kwargs"].items() if k not in ("output_attentions", "output_hidden_states")}
    kwargs = {"input_ids": None, **kept}
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in case:
            kwargs[name] = np.array(case[name])
    if "embeds_seed" in case:
        noise = np.random.default_rng(case["embeds_seed"]).normal(size=(2, 5, 33))
        kwargs["inputs_embeds"] = noise.astype(np.float32) * 0.7
    return kwargs


def assert_texts_are(case: dict[str, Any], found: Any) -> None:
    """Compare with what was recorded; where all rows ended early, Flax fills up to the full length."""
    expected = np.array(case["sequences"])
    T = expected.shape[1]
    assert found[:, :T].tolist() == expected.tolist()
    pad = case["kwargs"]["pad_token_id"]
    assert set(found[:, T:].ravel().tolist()) <= {49 if pad is None else pad}


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_texts_are_those_of_4_34(name: str, model: FlaxGPT2LMHeadModel):
    case = CASES[name]
    assert_texts_are(case, np.asarray(model.generate(**arguments_of(case), trace=False).sequences))


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_texts_are_those_of_4_34(name: str, model: FlaxGPT2LMHeadModel):
    case = CASES[name]
    assert_texts_are(case, np.asarray(model.generate(**arguments_of(case)).sequences))


def test_a_past_is_refused_with_the_way_out(model: FlaxGPT2LMHeadModel):
    with pytest.raises(InputError, match=r"past_key_values.*Pass the whole text"):
        model.generate(np.array([[3, 5]]), past_key_values=model.init_cache(1, 7))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_processor_does_to_fixed_scores_what_4_34_does(name: str):
    scores, ids = PROCESSORS["logits"].copy(), PROCESSORS["input_ids"]
    if name == "InfNanRemoveLogitsProcessor":
        scores[0, 3], scores[1, 5], scores[1, 7] = float("nan"), float("inf"), -float("inf")
    if name.startswith("ForcedBOS"):
        ids = ids[:, :1]
    cur_len = ids.shape[1]
    text = np.concatenate([ids, np.full((2, 3), 5)], axis=1)  # what stands behind the text is not looked at
    rule = getattr(logits, f"Flax{name}")(*ARGUMENTS[name])
    found = jax.jit(lambda rule, text, scores, n: rule(text, scores, n))(rule, text, scores, cur_len)
    np.testing.assert_allclose(found, PROCESSORS[name], rtol=0, atol=1e-6)  # 4 ulp at 2.4
