"""The arguments of a Flax model: refused by a sentence where they can be seen, NaN where they are traced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import B, E, T, make_inputs, random_checkpoint, tiny_config
from compiled import compiled_once
from flax_builder import build_flax
from gpt2kit.errors import InputError, LengthError
from gpt2kit.flax import FlaxGPT2LMHeadModel, arguments

CONFIG = tiny_config(n_layer=1)
IDS = make_inputs(CONFIG).input_ids  # [B, T]
ENCODER = np.ones((B, E, 33), np.float32)  # [B, E, D]


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile quickly, and the same program once."""
    with compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def model() -> FlaxGPT2LMHeadModel:
    """Make the model that most tests call."""
    return build_flax(CONFIG, random_checkpoint(CONFIG))


@pytest.fixture(scope="module")
def crossed() -> FlaxGPT2LMHeadModel:
    """Make a model with cross-attention."""
    config = tiny_config("cross_attention", n_layer=1)
    return build_flax(config, random_checkpoint(config))


# --------------------------------------------------------------------------- what is refused

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "both inputs": (
        {"input_ids": IDS, "inputs_embeds": np.zeros((B, T, 33), np.float32)},
        "Both input_ids and inputs_embeds came; give one",
    ),
    "neither input": ({"input_ids": None}, "Neither input_ids nor inputs_embeds came"),
    "a list": (
        {"input_ids": IDS.tolist()},
        "input_ids should be an array of JAX or NumPy, but it is a list.*return_tensors='np'",
    ),
    "one row without its batch": (
        {"input_ids": IDS[0]},
        r"input_ids should have the shape \[batch, positions\], but it is \[5\]",
    ),
    "no tokens": ({"input_ids": IDS[:, :0]}, r"shape \[batch, positions\], but it is \[2, 0\]"),
    "ids that are no whole numbers": (
        {"input_ids": IDS * 1.0},
        "input_ids should hold ids, which are whole numbers, but its dtype is float64",
    ),
    "id too large": (
        {"input_ids": np.array([[3, 101]])},
        r"input_ids holds 101, outside 0 to 100 \(vocab_size=101\).*resize the embeddings",
    ),
    "id of JAX too large": ({"input_ids": jnp.array([[3, 101]])}, "input_ids holds 101"),
    "negative id": ({"input_ids": np.array([[3, -1]])}, "input_ids holds -1"),
    "id beyond 32 bits": ({"input_ids": np.array([[3, 2**32]])}, "input_ids holds 4294967296"),
    "narrow embeddings": (
        {"input_ids": None, "inputs_embeds": np.zeros((B, T, 32), np.float32)},
        r"inputs_embeds should have the shape \[batch, positions, 33\], but it is \[2, 5, 32\]",
    ),
    "ids as embeddings": (
        {"input_ids": None, "inputs_embeds": np.zeros((B, T, 33), int)},
        "inputs_embeds should hold floating-point numbers.*Ids go into input_ids",
    ),
    "token type outside": (
        {"input_ids": IDS, "token_type_ids": IDS + 101},
        "token_type_ids holds .* outside 0 to 100",
    ),
    "token types of another shape": (
        {"input_ids": IDS, "token_type_ids": IDS[:, :3]},
        r"token_type_ids should have the shape \[2, 5\], but it is \[2, 3\]",
    ),
    "position outside": (
        {"input_ids": IDS, "position_ids": np.arange(T)[None] + 9},
        r"position_ids holds 13, outside 0 to 12 \(n_positions=13\)",
    ),
    "positions of another shape": (
        {"input_ids": IDS, "position_ids": np.arange(3)[None]},
        r"position_ids should have the shape \[2, 5\], but it is \[1, 3\]",
    ),
    "mask of another length": (
        {"input_ids": IDS, "attention_mask": np.ones((B, 4))},
        r"attention_mask should have the shape \[2, 5\] or \[2, 5, 5\], but it is \[2, 4\]",
    ),
    "mask of another batch": (
        {"input_ids": IDS, "attention_mask": np.ones((1, T))},
        r"attention_mask should have the shape \[2, 5\]",
    ),
    "mask for other queries": (
        {"input_ids": IDS, "attention_mask": np.ones((B, 1, T))},
        r"or \[2, 5, 5\], but it is \[2, 1, 5\]",
    ),
    "mask of nothing": ({"input_ids": IDS, "attention_mask": np.array(1)}, r"but it is \[\]"),
    "mask that is a list": ({"input_ids": IDS, "attention_mask": [[1] * T] * B}, "attention_mask should be"),
    "head mask of another shape": (
        {"input_ids": IDS, "head_mask": np.ones(2)},
        r"head_mask should have the shape \[3\], \[1, 3\] or \[1, 2, 3, 5, 5\], but it is \[2\]",
    ),
    "head mask of three sizes": (
        {"input_ids": IDS, "head_mask": np.ones((1, 3, 1))},
        "head_mask should have",
    ),
    "encoder without cross-attention": (
        {"input_ids": IDS, "encoder_hidden_states": ENCODER},
        "without cross-attention; build it with add_cross_attention=True",
    ),
    "encoder mask alone": (
        {"input_ids": IDS, "encoder_attention_mask": np.ones((B, E))},
        "encoder_attention_mask came without encoder_hidden_states",
    ),
    "a number for a key": (
        {"input_ids": IDS, "dropout_rng": 7},
        r"dropout_rng should be a key, such as jax\.random\.PRNGKey\(0\) makes, but it is 7",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_honoured_are_refused_in_a_sentence(
    model: FlaxGPT2LMHeadModel, name: str
) -> None:
    given, sentence = REFUSED[name]
    with pytest.raises(InputError, match=sentence):
        model(**given)


CROSS_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "narrow states": (
        {"encoder_hidden_states": ENCODER[..., :32]},
        r"encoder_hidden_states should have the shape \[2, positions, 33\], but it is \[2, 7, 32\]",
    ),
    "states of another batch": ({"encoder_hidden_states": ENCODER[[0, 0, 0]]}, r"but it is \[3, 7, 33\]"),
    "no states": ({"encoder_hidden_states": ENCODER[:, :0]}, r"but it is \[2, 0, 33\]"),
    "whole numbers": ({"encoder_hidden_states": ENCODER.astype(int)}, "should hold floating-point numbers"),
    "mask of another length": (
        {"encoder_hidden_states": ENCODER, "encoder_attention_mask": np.ones((B, 6))},
        r"encoder_attention_mask should have the shape \[2, 7\] or \[2, 5, 7\], but it is \[2, 6\]",
    ),
    "mask for other queries": (
        {"encoder_hidden_states": ENCODER, "encoder_attention_mask": np.ones((B, 3, E))},
        r"but it is \[2, 3, 7\]",
    ),
    "head mask over keys of which there are two kinds": (
        {"encoder_hidden_states": ENCODER, "head_mask": np.ones((1, B, 3, T, T))},
        r"or \[1, 2, 3, 5, 1\], but it is \[1, 2, 3, 5, 5\]",
    ),
}


@pytest.mark.parametrize("name", CROSS_REFUSED)
def test_an_encoder_that_does_not_fit_is_refused(crossed: FlaxGPT2LMHeadModel, name: str) -> None:
    given, sentence = CROSS_REFUSED[name]
    with pytest.raises(InputError, match=sentence):
        crossed(IDS, **given)


def test_what_shapes_tell_is_refused_in_a_program_too(model: FlaxGPT2LMHeadModel) -> None:
    for given, sentence in (REFUSED[name] for name in ("no tokens", "mask of another length")):
        with pytest.raises(InputError, match=sentence):
            jax.jit(lambda arrays: model(**arrays))(given)
    with pytest.raises(LengthError, match="14 positions were given, and the model has n_positions=13"):
        jax.jit(model)(np.zeros((1, 14), int))


def test_more_positions_than_the_model_has_are_refused_with_both_numbers(model: FlaxGPT2LMHeadModel) -> None:
    def shape(ids: Any, **given: Any) -> Any:
        return jax.eval_shape(lambda: model(ids, **given)).logits.shape  # computes nothing

    assert shape(np.zeros((1, 13), int)) == (1, 13, 101)
    with pytest.raises(
        LengthError, match=r"^14 positions were given, and the model has n_positions=13\. Shorten"
    ):
        model(np.zeros((1, 14), int))
    mask = np.ones((1, 17), int)
    mask[:, :4] = 0
    assert shape(np.zeros((1, 17), int), attention_mask=mask) == (1, 17, 101)  # 13 of them count
    mask[:, 3] = 1
    with pytest.raises(LengthError, match="14 positions were given"):
        model(np.zeros((1, 17), int), attention_mask=mask)


def test_a_misspelt_keyword_is_refused(model: FlaxGPT2LMHeadModel) -> None:
    with pytest.raises(TypeError, match="atention_mask"):
        model(IDS, atention_mask=np.ones((B, T)))
    with pytest.raises(TypeError, match="seeed"):
        FlaxGPT2LMHeadModel(CONFIG, seeed=3)


# --------------------------------------------------------------------------- what is NaN in a program

OUTSIDE: dict[str, tuple[str, Any, Any]] = {
    "id too large": ("input_ids", IDS, 101),
    "id far too large": ("input_ids", IDS, 2**30),
    "negative id": ("input_ids", IDS, -1),
    "token type too large": ("token_type_ids", IDS, 101),
    "negative token type": ("token_type_ids", IDS, -101),
    "position too large": ("position_ids", np.arange(T)[None].repeat(B, 0), 13),
    "negative position": ("position_ids", np.arange(T)[None].repeat(B, 0), -1),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_values_outside_a_table_are_nan_in_a_program_and_never_those_of_its_end(
    model: FlaxGPT2LMHeadModel, name: str
) -> None:
    argument, values, outside = OUTSIDE[name]
    program = jax.jit(lambda arrays: model(**arrays).logits)
    inside = {"input_ids": IDS, argument: values}
    assert jnp.isfinite(program(inside)).all()
    wrong = values.copy()
    wrong[0, 2] = outside
    logits = program(inside | {argument: wrong})
    assert jnp.isnan(logits[0]).all(axis=-1)[2:].all()
    assert jnp.isfinite(logits[1]).all()  # the other row has nothing to do with it


def test_positions_counted_from_a_traced_mask_are_nan_beyond_the_model(model: FlaxGPT2LMHeadModel) -> None:
    program = jax.jit(lambda mask: model(np.zeros((1, 17), int), attention_mask=mask).logits)
    mask = np.ones((1, 17), int)
    mask[:, :4] = 0
    assert jnp.isfinite(program(mask)).all()
    mask[:, :3] = 1
    assert jnp.isnan(program(mask)[:, -1]).all()


# --------------------------------------------------------------------------- positions


def test_positions_are_counted_from_the_mask_unless_they_are_given(model: FlaxGPT2LMHeadModel) -> None:
    mask = np.array([[0, 1, 1, 1, 1], [1, 1, 0, 1, 1]])  # [B, T]
    counted = np.array(
        [[1, 0, 1, 2, 3], [0, 1, 1, 2, 3]]
    )  # [B, T]; padding stands at 1, as in 4.34's generate
    derived = model(IDS, attention_mask=mask).logits
    assert jnp.array_equal(derived, model(IDS, attention_mask=mask, position_ids=counted).logits)
    traced = jax.jit(lambda mask: model(IDS, attention_mask=mask).logits)(mask)
    np.testing.assert_allclose(traced, derived, rtol=1e-4, atol=1e-4)
    plain = model(IDS, attention_mask=mask, position_ids=np.arange(T)).logits  # one row serves all
    assert jnp.abs(plain - derived).max() > 1e-2


def test_positions_of_a_mask_by_query_count_what_each_query_sees(model: FlaxGPT2LMHeadModel) -> None:
    mask = np.tri(T, dtype=int)[None].repeat(B, 0)  # [B, T, S]
    mask[0, 3, 1:3] = 0
    mask[1, 2] = 0
    seen = np.array([[0, 1, 2, 1, 4], [0, 1, 0, 3, 4]])  # [B, T]
    derived = model(IDS, attention_mask=mask).logits
    assert jnp.array_equal(derived, model(IDS, attention_mask=mask, position_ids=seen).logits)
    later = mask.copy()
    later[:, 0, 3] = 1  # a position after the query is neither seen nor counted
    assert jnp.array_equal(model(IDS, attention_mask=later).logits, derived)


def test_a_model_of_one_position_takes_a_padded_token() -> None:
    config = tiny_config(n_layer=1, n_positions=1)
    one = build_flax(config, random_checkpoint(config))
    assert jnp.isfinite(one(IDS[:, :1], attention_mask=np.array([[0], [1]])).logits).all()


def test_values_are_looked_at_only_where_they_are_there() -> None:
    seen = []
    jax.vmap(lambda row: seen.append(arguments.is_readable(row)) or row)(jnp.asarray(IDS))
    jax.eval_shape(lambda ids: seen.append(arguments.is_readable(ids)) or ids, IDS)
    assert seen == [False, False]
    assert arguments.is_readable(IDS)
    assert arguments.is_readable(jnp.asarray(IDS))
