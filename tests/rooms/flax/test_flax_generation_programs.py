"""What `generate` in Flax compiles: one program for many calls, no array longer than needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from cases import random_checkpoint, tiny_config
from compiled import compiled_once
from flax_builder import build_flax, params_of
from gpt2kit.flax import FlaxGPT2LMHeadModel
from gpt2kit.flax.generation.bucket import bucket
from gpt2kit.flax.generation.parts import plan_of
from gpt2kit.flax.generation.prompt import make_prompt
from gpt2kit.generation import GenerationConfig

SWITCHES = {"n_positions": 61, "n_layer": 1, "eos_token_id": None, "pad_token_id": 1}
CONFIG = tiny_config(**SWITCHES)
# Every number that may change from call to call.
OPTIONS: dict[str, Any] = {
    "do_sample": True,
    "max_new_tokens": 5,
    "temperature": 0.8,
    "top_p": 0.9,
    "min_p": 0.01,
    "typical_p": 0.9,
    "repetition_penalty": 1.2,
    "bad_words_ids": [[3, 5], [7]],
    "suppress_tokens": [2, 4],
    "eos_token_id": [97, 98],
    "min_new_tokens": 2,
}
OTHERS: dict[str, Any] = {
    "temperature": 1.7,
    "top_p": 0.5,
    "min_p": 0.1,
    "typical_p": 0.5,
    "repetition_penalty": 0.9,
    "bad_words_ids": [[11, 13], [17]],
    "suppress_tokens": [6, 8],
    "eos_token_id": [50, 51],
    "min_new_tokens": 4,
    "max_new_tokens": 7,
    "pad_token_id": 3,
}


@pytest.fixture(scope="module", autouse=True)
def programs_are_compiled_quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def model() -> FlaxGPT2LMHeadModel:
    return build_flax(CONFIG, random_checkpoint(CONFIG, 5))


def prompt_of(length: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(2, 101, (2, length))  # 1 is padding


def test_other_numbers_lengths_keys_masks_and_parameters_compile_nothing(model: FlaxGPT2LMHeadModel):
    model.generate(prompt_of(5), **OPTIONS)
    others = params_of(CONFIG, random_checkpoint(CONFIG, 7))
    key = jax.random.PRNGKey(9)
    traced, events = model.programs.traced, []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    try:
        for name, value in OTHERS.items():
            model.generate(prompt_of(5), **(OPTIONS | {name: value}))
        model.generate(prompt_of(8, seed=3), **OPTIONS)
        model.generate(prompt_of(5), params=others, prng_key=key, **OPTIONS)
        mask = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
        model.generate(prompt_of(5), attention_mask=mask, **OPTIONS)
    finally:
        jax.monitoring.clear_event_listeners()
    assert model.programs.traced == traced
    assert not [name for name in events if "compile" in name or "trace" in name]


@pytest.mark.parametrize("change", [{"top_k": 7}, {"no_repeat_ngram_size": 3}, {"renormalize_logits": True}])
def test_other_rules_are_another_program(model: FlaxGPT2LMHeadModel, change: dict[str, Any]):
    traced = model.programs.traced
    shaped = jax.make_jaxpr(lambda ids: model.generate(ids, **(OPTIONS | change)).sequences)(prompt_of(5))
    assert model.programs.traced == traced  # within a program of the caller's, none of the model's is made
    assert shaped.out_avals[0].shape == (2, 10)


def test_a_change_of_the_configuration_is_compiled_anew():
    model = build_flax(tiny_config(**SWITCHES), random_checkpoint(CONFIG, 5))
    options = {"max_new_tokens": 3, "pad_token_id": 1}
    first = np.asarray(model.generate(prompt_of(5), **options).sequences)
    model.config.layer_norm_epsilon = 30.0
    second = np.asarray(model.generate(prompt_of(5), **options).sequences)
    changed = tiny_config(**SWITCHES, layer_norm_epsilon=30.0)
    fresh = build_flax(changed, random_checkpoint(CONFIG, 5)).generate(prompt_of(5), **options)
    assert (second == np.asarray(fresh.sequences)).all()
    assert (first != second).any()


@pytest.mark.parametrize(("length", "new"), [(1, 1), (15, 2), (16, 1), (17, 9), (24, 37), (37, 24), (60, 1)])
def test_in_buckets_the_text_is_that_of_exact_lengths(model: FlaxGPT2LMHeadModel, length: int, new: int):
    ids = prompt_of(length, seed=length)
    options = {"max_new_tokens": new, "trace": False, "pad_token_id": 1}
    found = np.asarray(model.generate(ids, **options).sequences)
    assert found.shape == (2, length + new)
    logits = jax.jit(lambda ids: model(ids).logits)(np.pad(found, ((0, 0), (0, 61 - length - new))))
    chosen = np.asarray(logits.argmax(-1))[:, length - 1 : length + new - 1]
    assert (found[:, length:] == chosen).all()


def test_no_array_is_longer_than_the_model_or_shorter_than_the_text(model: FlaxGPT2LMHeadModel):
    for length in range(1, 61):
        prompt = make_prompt(model, prompt_of(length), {})
        for new in range(1, 62 - length):
            plan = plan_of(model, GenerationConfig(max_new_tokens=new, pad_token_id=1), prompt)
            laid, places, cache = prompt.laid_out(plan, exact=False)
            assert length + new <= places <= 61
            assert laid.ids.shape[1] == laid.position_ids.shape[1] <= cache
            assert laid.mask.shape[1] == cache
            assert length + new - 1 <= cache <= max(16, (length + new - 1) * 3 // 2)
            exact, places, cache = prompt.laid_out(plan, exact=True)
            assert (exact.ids.shape[1], places, cache) == (length, length + new, length + new - 1)


def test_there_are_two_sizes_to_a_doubling():
    sizes = sorted({bucket(length, 1024) for length in range(1, 1025)})
    assert sizes == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(length <= bucket(length, 61) <= 61 for length in range(1, 62))
    assert bucket(99, 61) == 99


def test_logits_are_made_for_the_last_position_alone(model: FlaxGPT2LMHeadModel):
    program = str(jax.make_jaxpr(lambda ids: model.generate(ids, **OPTIONS).sequences)(prompt_of(5)))
    assert "f32[2,1,101]" in program
    assert "f32[2,5,101]" not in program
    assert "f32[2,9,1,33]" not in program  # nor are keys and values turned round
    assert program.count("while[") == 1
