"""What `generate` in TensorFlow may be given: arguments of the model, dtypes, graphs; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from cases import random_checkpoint, tiny_config
from gpt2kit.errors import InputError, LengthError
from gpt2kit.tensorflow import TFGPT2LMHeadModel
from gpt2kit.tensorflow.cache import FixedCache
from tf_builder import build_tf

IDS = np.array([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])


def build(dtype: str = "float32", **changes: Any) -> TFGPT2LMHeadModel:
    config = tiny_config(
        **{"n_positions": 37, "n_layer": 1, "eos_token_id": None, "pad_token_id": 1, **changes}
    )
    return build_tf(config, random_checkpoint(config, 5), dtype)


@pytest.fixture(scope="module")
def model() -> TFGPT2LMHeadModel:
    return build()


def texts(model: TFGPT2LMHeadModel, ids: Any = IDS, **options: Any) -> list[list[int]]:
    found: list[list[int]] = model.generate(ids, **({"max_new_tokens": 5} | options)).numpy().tolist()
    return found


def greedily(model: TFGPT2LMHeadModel, new: int, **given: Callable[[Any], Any]) -> list[list[int]]:
    """Write on by reading the whole text anew for each token."""
    text = IDS
    for _ in range(new):
        logits = model(text, **{name: make(text) for name, make in given.items()}).logits[:, -1].numpy()
        text = np.concatenate([text, logits.argmax(-1)[:, None]], axis=1)
    return text.tolist()


# ---------------------------------------------------------------------- arguments of the model


def test_types_places_encoder_and_head_mask_are_read_at_every_step_compiled_too():
    model = build(add_cross_attention=True)
    draw = np.random.default_rng(3)
    encoder = draw.normal(size=(2, 7, 33)).astype(np.float32)
    seen = np.array([[1, 1, 1, 1, 1, 0, 0], [1] * 7])
    head_mask, types = np.array([0.5, 1.0, 0.0], np.float32), np.array([[1, 1, 2, 2, 3], [7, 5, 5, 7, 11]])
    places = np.array([[2, 3, 5, 7, 8], [0, 1, 2, 3, 4]])
    given = {
        "encoder_hidden_states": encoder,
        "encoder_attention_mask": seen,
        "head_mask": head_mask,
        "token_type_ids": types,
        "position_ids": places,
    }
    expected = greedily(
        model,
        5,
        encoder_hidden_states=lambda text: encoder,
        encoder_attention_mask=lambda text: seen,
        head_mask=lambda text: head_mask,
        token_type_ids=lambda text: np.pad(types, [[0, 0], [0, text.shape[1] - 5]], mode="edge"),
        position_ids=lambda text: np.concatenate(
            [places, places[:, -1:] + 1 + np.arange(text.shape[1] - 5)], axis=1
        ),
    )
    assert texts(model, **given) == expected
    assert texts(model, **given, use_cache=False) == expected
    assert texts(model, **given, jit_compile=True) == expected
    for name in given:  # each of them matters
        if name != "encoder_hidden_states":
            assert (
                model(IDS, **given).logits.numpy().tolist()
                != model(IDS, **{other: given[other] for other in given if other != name})
                .logits.numpy()
                .tolist()
            )
    beams = {"num_beams": 2, "max_new_tokens": 3}
    assert texts(model, **given, **beams) == texts(model, **given, **beams, use_cache=False)


@pytest.mark.parametrize("dtype", ["float64", "mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_every_dtype_writes_what_its_model_finds_likeliest(dtype: str):
    model = build(dtype)
    kept = {"return_dict_in_generate": True, "output_scores": True}
    output = model.generate(IDS, max_new_tokens=5, **kept)
    assert {scores.dtype for scores in output.scores} == {tf.float64 if dtype == "float64" else tf.float32}
    found = output.sequences.numpy()
    logits = model(found).logits[:, 4:-1]  # [B, 5, V]
    likeliest = tf.cast(logits, tf.float64).numpy()
    written = np.take_along_axis(likeliest, found[:, 5:, None], axis=-1)[..., 0]
    # A text read step by step and at once differs by roundings: of scores up to 43, 0.25 with 8 bits.
    slack = {"float64": 0, "mixed_float16": 0.05}.get(dtype, 0.5)
    assert (likeliest.max(-1) - written <= slack).all()
    if dtype == "float64":
        assert texts(model, jit_compile=True) == found.tolist()
        assert texts(model, penalty_alpha=0.9, top_k=3)[0][:5] == IDS[0].tolist()


@pytest.mark.parametrize("way", [{"penalty_alpha": 0.9, "top_k": 3}, {"num_beams": 2}])
@pytest.mark.parametrize("dtype", ["mixed_float16", "bfloat16"])
def test_beams_and_contrast_compute_in_lower_precision(dtype: str, way: dict[str, Any]):
    output = build(dtype).generate(
        IDS, max_new_tokens=3, return_dict_in_generate=True, output_scores=True, **way
    )
    assert output.sequences.shape == (2, 8)
    assert all(scores.dtype == tf.float32 for scores in output.scores)
    assert all(np.isfinite(scores).all() for scores in output.scores)


# ---------------------------------------------------------------------- several texts, graphs, programs


def test_the_texts_of_one_prompt_come_one_after_the_other(model: TFGPT2LMHeadModel):
    drawn = {"do_sample": True, "num_return_sequences": 3, "temperature": 3.0, "seed": [5, 7]}
    found = np.array(texts(model, **drawn))
    assert found[:, :5].tolist() == np.repeat(IDS, 3, axis=0).tolist()
    assert len({tuple(row) for row in found.tolist()}) == 6
    assert texts(model, **drawn, jit_compile=True) == found.tolist()
    best = texts(model, num_beams=3)
    several = texts(model, num_beams=3, num_return_sequences=2)
    assert several[::2] == best
    assert several[1] != several[0]
    assert [row[:5] for row in several] == np.repeat(IDS, 2, axis=0).tolist()


def test_beams_are_a_part_of_the_callers_graph_and_one_program_serves_a_bucket(model: TFGPT2LMHeadModel):
    beams = {"num_beams": 2, "eos_token_id": 80}
    expected = texts(model, **beams)
    program = tf.function(lambda ids: model.generate(ids, max_new_tokens=5, **beams), autograph=False)
    in_graph = program(tf.constant(IDS)).numpy()
    assert in_graph.shape == (2, 10)
    assert in_graph[:, : len(expected[0])].tolist() == expected
    traced = model.programs.traced
    assert texts(model, **beams, jit_compile=True) == expected
    assert texts(model, IDS[:, :3], **beams, jit_compile=True) == texts(model, IDS[:, :3], **beams)
    other = {"length_penalty": 0.3, "eos_token_id": 5, "max_new_tokens": 7}
    assert texts(model, **(beams | other), jit_compile=True) == texts(model, **(beams | other))
    assert model.programs.traced == traced + 1


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (IDS[None], r"integers of shape \[batch, tokens\], but are int64 of shape \[1, 2, 5\]"),
        (IDS[0], r"integers of shape \[batch, tokens\]"),
        (IDS * 1.0, r"integers of shape \[batch, tokens\], but are float64"),
        ("Hello", r"should hold numbers, but it is 'Hello'\. A tokenizer"),
        (tf.constant([["a", "b"]]), r"should hold numbers, but it is string of shape \[1, 2\]"),
        ([[17, 3], [5]], r"rows of `input_ids` should be of one length\. Pad them on the left"),
        (tf.ragged.constant([[17, 3], [5]]), r"should be of one length"),
        ({"input_ids": IDS}, r"is a dict of \['input_ids'\].*generate\(\*\*batch\)"),
        (np.zeros((2, 0), int), r"hold no token \(shape \[2, 0\]\)"),
        ([], r"hold no token"),
        ([[5, -1]], r"input_ids hold -1, which is outside 0 to 100"),
        ([[2**40 + 5]], r"input_ids hold 1099511627781"),
    ],
)
def test_prompts_of_another_kind_are_refused(model: TFGPT2LMHeadModel, ids: Any, said: str):
    with pytest.raises(InputError, match=said):
        texts(model, ids)


def test_prompts_that_leave_no_room_are_refused(model: TFGPT2LMHeadModel):
    for tokens in (37, 38, 53):
        with pytest.raises(LengthError, match=rf"prompt of {tokens} token.*n_positions=37"):
            texts(model, np.full((1, tokens), 5))
    with pytest.raises(LengthError, match=r"20 token.*max_length is 10"):
        texts(model, np.full((1, 20), 5), max_length=10, max_new_tokens=None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attention_mask": np.ones((2, 4))}, r"attention_mask should have the shape \[2, 5\].*\[2, 4\]"),
        ({"attention_mask": np.ones((2, 5, 5))}, r"attention_mask should have the shape"),
        ({"attention_mask": [["a"] * 5] * 2}, r"`attention_mask` should hold numbers"),
        ({"attention_mask": np.full((2, 5), np.nan)}, r"attention_mask holds NaN"),
        ({"position_ids": np.full((2, 5), 37)}, r"position_ids hold 37.*n_positions=37"),
        ({"position_ids": np.zeros((2, 5))}, r"position_ids have to be integers"),
        ({"position_ids": np.zeros((2, 4), int)}, r"position_ids should have the shape \[2, 5\]"),
        ({"token_type_ids": np.zeros((2, 5))}, r"token_type_ids have to be integers"),
        ({"token_type_ids": np.zeros((2, 1), int)}, r"token_type_ids should have the shape of the tokens"),
        ({"head_mask": np.ones(4)}, r"head_mask should have the shape \[3\]"),
        ({"encoder_hidden_states": np.ones((2, 3, 33), np.float32)}, r"without cross-attention"),
        ({"inputs_embeds": np.ones((2, 5, 32), np.float32)}, r"inputs_embeds should have the shape"),
        ({"inputs_embeds": np.ones((2, 0, 33), np.float32)}, r"inputs_embeds should have the shape"),
        ({"past_key_values": 5}, r"keys and values of 1 layers, but has a int"),
        ({"past_key_values": FixedCache((), 0)}, r"of a fixed size"),
        ({"past_key_values": (np.ones((2, 2, 3, 5, 11), np.float32),)}, r"hold 5 position\(s\)"),
        ({"logits_processor": [5]}, r"has to be a callable.*int came"),
        ({"logits_processor": max}, r"Put it into a list"),
        ({"generation_config": {"max_length": 9}}, r"GenerationConfig, but is a dict"),
        ({"labels": IDS}, r"not used by the model: \['labels'\]"),
        ({"prng_key": 1}, r"not used by the model: \['prng_key'\]"),
        ({"seed": [1.5, 2]}, r"two integers"),
        ({"assistant_model": 1}, r"`assistant_model` cannot be followed"),
        ({"negative_prompt_ids": IDS}, r"`negative_prompt_ids` cannot be followed: guidance"),
        ({"prefix_allowed_tokens_fn": max}, r"`prefix_allowed_tokens_fn`.*Write a TFLogitsProcessor"),
        ({"stopping_criteria": [max]}, r"`stopping_criteria`.*eos_token_id"),
        ({"synced_gpus": True}, r"`synced_gpus`.*Leave it out"),
        ({"tokenizer": 1}, r"`tokenizer`.*Leave it out"),
        ({"num_return_sequences": 3}, r"greedy search always writes the same text"),
    ],
)  # fmt: skip
def test_arguments_that_fit_nothing_are_refused_by_name(
    model: TFGPT2LMHeadModel, options: dict[str, Any], said: str
):
    with pytest.raises(InputError, match=said):
        texts(model, **options)


def test_keys_and_values_may_come_in_pairs(model: TFGPT2LMHeadModel):
    past = model(IDS[:, :3], use_cache=True).past_key_values
    pairs = tuple((layer[0].numpy(), layer[1]) for layer in past)
    assert texts(model, past_key_values=pairs) == texts(model, past_key_values=past) == texts(model)


def test_a_graph_is_refused_what_a_call_is(model: TFGPT2LMHeadModel):
    for ids, said in ((tf.constant([1, 2]), "int32 of shape"), (tf.constant([[1.0]]), "float32 of shape")):
        with pytest.raises(InputError, match=said):
            tf.function(model.generate, autograph=False)(ids)
