"""The arguments of a call in TensorFlow: formats that the page names, what is honoured, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import keras
import tensorflow as tf

from cases import B, E, T, make_inputs, random_checkpoint, tiny_config
from drivers import TFDriver
from gpt2kit.errors import InputError, LengthError
from gpt2kit.tensorflow.cache import FixedCache

CONFIG = tiny_config()
INPUTS = make_inputs(CONFIG, padding="left", token_types=True).as_dict()
IDS, MASK, TYPES = (INPUTS[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
STATES = np.linspace(-1, 1, B * E * 33, dtype=np.float32).reshape(B, E, 33)  # [B, E, D]


@pytest.fixture(scope="module")
def model() -> Any:
    """Make the model that most tests call."""
    return TFDriver().build(CONFIG, random_checkpoint(CONFIG), "float32")


@pytest.fixture(scope="module")
def crossed() -> Any:
    """Make a model with cross-attention."""
    config = tiny_config("cross_attention")
    return TFDriver().build(config, random_checkpoint(config), "float32")


@pytest.fixture(scope="module")
def program(model: Any) -> Any:
    """Make a program of a call, compiled by XLA."""
    return tf.function(lambda **given: model(given).logits, jit_compile=True)


def same(mine: Any, other: Any) -> None:
    """See that two calls computed the same, number by number."""
    assert bool(tf.reduce_all(mine.logits == other.logits))


# --------------------------------------------------------------------------------------------- formats


def test_arguments_come_by_name_by_place_in_a_list_or_in_a_mapping(model: Any) -> None:
    wanted = model(input_ids=IDS, attention_mask=MASK, token_type_ids=TYPES)
    same(model(IDS, None, MASK, TYPES), wanted)
    same(model([IDS, None, MASK, TYPES]), wanted)
    same(model((tf.constant(IDS), None, tf.constant(MASK), TYPES), training=False), wanted)
    same(model({"token_type_ids": TYPES, "input_ids": IDS, "attention_mask": MASK}), wanted)
    same(model({"input_ids": IDS, "token_type_ids": TYPES, "use_cache": False}, attention_mask=MASK), wanted)
    same(model([IDS], attention_mask=MASK, token_type_ids=TYPES), wanted)
    same(model.call(IDS, attention_mask=MASK, token_type_ids=TYPES), wanted)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_whole_numbers_may_be_of_any_width(model: Any, dtype: str) -> None:
    wanted = model(IDS, attention_mask=MASK)
    same(model(IDS.astype(dtype), attention_mask=MASK.astype(dtype)), wanted)
    same(model(tf.constant(IDS, dtype), attention_mask=tf.constant(MASK, tf.float32)), wanted)


@pytest.mark.parametrize("value", [2, -1, 0.5, float("nan"), -1e9])
def test_a_mask_of_other_numbers_than_one_and_zero_is_refused(model: Any, crossed: Any, value: float) -> None:
    mask = np.where(MASK == 0, value, 1)
    with pytest.raises(InputError, match=r"^attention_mask should hold 1 .* and 0 .*, but it holds "):
        model(IDS, attention_mask=mask)
    seen = np.full((B, E), value)
    with pytest.raises(InputError, match=r"encoder_attention_mask should hold 1 .* but it holds "):
        crossed(IDS, encoder_hidden_states=STATES, encoder_attention_mask=seen)


@pytest.mark.parametrize("name", ["attention_mask", "head_mask"])
def test_a_mask_of_strings_is_refused(model: Any, name: str) -> None:
    mask = np.full((B, T) if name == "attention_mask" else (3,), "1")
    with pytest.raises(InputError, match=f"{name} should hold numbers, but its dtype is string"):
        model(IDS, **{name: mask})


def test_ragged_rows_are_refused_with_the_way_to_dense_ones(model: Any) -> None:
    with pytest.raises(InputError, match=r"input_ids has rows of different lengths.*to_tensor"):
        model(tf.ragged.constant([[2, 3], [5]]))


def test_booleans_make_a_mask(model: Any) -> None:
    same(model(IDS, attention_mask=MASK == 1), model(IDS, attention_mask=MASK))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda m: m({"input_id": IDS}), "The mapping has the unknown key 'input_id'"),
        (lambda m: m(IDS, attn_mask=MASK), "The call has the unknown key 'attn_mask'"),
        (lambda m: m([IDS] * 17), "holds 17 arrays, and there are only 16 arguments"),
        (lambda m: m(*[IDS] * 17), "17 arguments came, and there are only 16"),
        (lambda m: m([IDS, None, MASK], attention_mask=MASK), "attention_mask came twice"),
        (lambda m: m({"input_ids": IDS, "labels": IDS}, labels=IDS), "labels came twice"),
        (lambda m: m([[2, 3, 5]]), "input_ids is a list of numbers. Make an array"),
        (lambda m: m(input_ids="text"), "input_ids should be a tensor of TensorFlow or an array of NumPy"),
        (lambda m: m(IDS, attention_mask=[[1] * T] * B), "attention_mask should be a tensor"),
        (lambda m: m([IDS, MASK]), "past_key_values should have the keys and values of 3 layers"),
        (lambda m: m(), "Neither input_ids nor inputs_embeds came"),
        (lambda m: m(IDS, inputs_embeds=STATES), "Both input_ids and inputs_embeds came"),
    ],
)
def test_a_call_in_another_form_is_refused_by_name(model: Any, given: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        given(model)
    assert said in str(caught.value)
    assert "Arguments received by" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("outside", [101, -1])
@pytest.mark.parametrize("name", ["input_ids", "token_type_ids"])
def test_ids_outside_the_vocabulary_are_refused(model: Any, name: str, outside: int) -> None:
    ids = IDS.copy()
    ids[1, 3] = outside
    with pytest.raises(InputError, match=rf"{name} holds {outside}, outside 0 to 100 \(vocab_size=101\)"):
        model(**{"input_ids": IDS, name: ids})


def test_places_beyond_those_of_the_model_are_refused(model: Any) -> None:
    places = np.arange(T)[None] + 9
    with pytest.raises(InputError, match=r"position_ids holds 13, outside 0 to 12 \(n_positions=13\)"):
        model(IDS, position_ids=places)
    assert model(IDS, position_ids=places - 1).logits.shape == (B, T, 101)


def test_more_positions_than_the_model_has_are_refused_in_graphs_too(model: Any) -> None:
    ids = np.zeros((1, 14), np.int32)
    for call in (model, tf.function(model.call)):
        with pytest.raises(LengthError, match="14 positions were given, and the model has n_positions=13"):
            call(ids)
    past = model(ids[:, :9]).past_key_values
    with pytest.raises(LengthError, match=r"14 positions were given \(9 in past_key_values and 5 new\)"):
        model(ids[:, :5], past_key_values=past)


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("input_ids", 101),
        ("input_ids", -1),
        ("token_type_ids", 101),
        ("position_ids", 13),
        ("position_ids", -1),
    ],
)
def test_what_is_outside_a_table_is_nan_in_a_compiled_program(program: Any, name: str, outside: int) -> None:
    given = {"input_ids": IDS, "token_type_ids": TYPES, "position_ids": np.tile(np.arange(T), (B, 1))}
    given[name] = given[name].copy()
    assert np.isfinite(program(**given)).all()
    given[name][1, 3] = outside
    found = np.isnan(program(**given))
    assert not found[0].any()
    assert found[1].all()  # of the whole row: where a weight is 0, NaN stays NaN


def test_padding_beyond_the_positions_of_the_model_costs_none(model: Any) -> None:
    ids, mask = np.zeros((1, 17), np.int32), np.zeros((1, 17), np.int32)
    ids[0, 13:], mask[0, 13:] = IDS[0, :4], 1
    found = model(ids, attention_mask=mask).logits[:, 13:]
    np.testing.assert_allclose(found, model(IDS[:1, :4]).logits, atol=1e-4)


# ---------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"input_ids": IDS[0]}, "input_ids should have the shape [batch, positions], but it is [5]"),
        ({"input_ids": IDS[:, :0]}, "input_ids should have the shape [batch, positions], but it is [2, 0]"),
        ({"input_ids": IDS * 1.0}, "input_ids should hold ids, which are whole numbers, but its dtype is"),
        ({"inputs_embeds": STATES[..., :32]}, "inputs_embeds should have the shape [batch, positions, 33]"),
        ({"inputs_embeds": STATES.astype(int)}, "inputs_embeds should hold floating-point numbers"),
        ({"input_ids": IDS, "attention_mask": MASK[:, :4]}, "should have the shape [2, 5], but it is [2, 4]"),
        ({"input_ids": IDS, "attention_mask": MASK[0]}, "attention_mask should have the shape [2, 5]"),
        ({"input_ids": IDS, "token_type_ids": IDS[:, :4]}, "token_type_ids should have the shape [2, 5]"),
        ({"input_ids": IDS, "position_ids": IDS[0, :4]}, "position_ids should have the shape [2, 5]"),
        ({"input_ids": IDS, "head_mask": np.ones(2)}, "head_mask should have the shape [3], [3, 3] or"),
        ({"input_ids": IDS, "head_mask": np.ones((2, 3))}, "[3, 2, 3, 5, 5], but it is [2, 3]"),
        ({"input_ids": IDS, "encoder_hidden_states": STATES}, "given to a model without cross-attention"),
        ({"input_ids": IDS, "encoder_attention_mask": MASK}, "came without encoder_hidden_states"),
    ],
)
def test_a_shape_that_fits_nothing_is_refused(model: Any, given: dict[str, Any], said: str) -> None:
    for call in (model, tf.function(model.call)):
        with pytest.raises(InputError) as caught:
            call(**given)
        assert said in str(caught.value)


def test_a_mask_without_the_past_is_refused(model: Any) -> None:
    past = model(IDS[:, :3]).past_key_values
    with pytest.raises(
        InputError, match=r"\[2, 5\] \(3 in past_key_values and 2 new: give ones for the past"
    ):
        model(IDS[:, 3:], past_key_values=past, attention_mask=MASK[:, 3:])


@pytest.mark.parametrize(
    "change",
    [
        lambda past: past[:2],
        lambda past: past[0],
        lambda past: "past",
        lambda past: tuple(layer[:, :1] for layer in past),
        lambda past: tuple(layer[:1] for layer in past),
        lambda past: tuple(layer[..., :7] for layer in past),
        lambda past: tuple(tf.cast(layer, tf.int32) for layer in past),
        lambda past: (past[0], past[1][..., 1:, :], past[2]),
        lambda past: ((past[0][0], past[0][1][..., 1:, :]), *past[1:]),
        lambda past: FixedCache(past[:1], tf.constant(3)),
    ],
)
def test_a_past_that_is_none_of_this_model_is_refused(model: Any, change: Any) -> None:
    past = model(IDS[:, :3]).past_key_values
    with pytest.raises(InputError, match="past_key_values"):
        model(IDS[:, 3:], past_key_values=change(past))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"encoder_hidden_states": STATES[..., :32]}, "encoder_hidden_states should have the shape [2, pos"),
        ({"encoder_hidden_states": STATES.astype(int)}, "encoder_hidden_states should hold floating-point"),
        (
            {"encoder_hidden_states": STATES, "encoder_attention_mask": MASK},
            "encoder_attention_mask should have the shape [2, 7] or [2, 5, 7], but it is [2, 5]",
        ),
    ],
)
def test_an_encoder_that_fits_nothing_is_refused(crossed: Any, given: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        crossed(IDS, **given)
    assert said in str(caught.value)


def test_one_encoder_serves_every_row(crossed: Any) -> None:
    both = np.repeat(STATES[:1], B, axis=0)
    same(crossed(IDS, encoder_hidden_states=STATES[:1]), crossed(IDS, encoder_hidden_states=both))


def test_a_mask_for_each_query_shows_what_it_says(model: Any) -> None:
    by_query = np.repeat(MASK[:, None], T, axis=1)  # [B, T, S]
    found, wanted = model(IDS, attention_mask=by_query), model(IDS, attention_mask=MASK)
    seen = MASK == 1
    np.testing.assert_allclose(found.logits[seen], wanted.logits[seen], atol=1e-4)
    by_query[:, 4, 2] = 0
    changed = model(IDS, attention_mask=by_query, output_attentions=True)
    assert not changed.attentions[1].numpy()[:, :, 4, 2].any()
    seen[:, 4] = False
    assert bool(tf.reduce_all(changed.logits[seen] == found.logits[seen]))


@pytest.mark.parametrize("shape", [(3,), (1,), (3, 3), (3, 1), (3, 2, 3, 5, 5), (3, 1, 3, 1, 1)])
def test_a_head_mask_of_any_shape_multiplies_the_weights(model: Any, shape: tuple[int, ...]) -> None:
    factors = np.random.default_rng(3).uniform(0.2, 1.7, shape).astype(np.float32)
    full = factors if len(shape) == 5 else factors.reshape(-1, 1, shape[-1], 1, 1)  # [L, B, H, T, S]
    plain = model(IDS, output_attentions=True).attentions[0]
    masked = model(IDS, head_mask=factors, output_attentions=True).attentions[0]
    np.testing.assert_allclose(masked, plain * np.broadcast_to(full, (3, 2, 3, 5, 5))[0], rtol=1e-6)


@pytest.mark.parametrize("flag", ["output_attentions", "output_hidden_states"])
def test_a_flag_of_a_call_and_of_the_configuration_do_the_same(model: Any, flag: str) -> None:
    names = list(model(IDS, **{flag: True}))
    other = TFDriver().build(tiny_config(**{flag: True}), random_checkpoint(CONFIG), "float32")
    assert list(other(IDS)) == names
    assert list(other(IDS, **{flag: False})) == list(model(IDS)) == ["logits", "past_key_values"]
    assert list(model(IDS, use_cache=False)) == ["logits"]


def test_a_function_of_tensorflow_refuses_with_the_same_class(model: Any) -> None:
    for function in (tf.function(model), tf.function(lambda ids: model(ids))):
        with pytest.raises(InputError, match="float32"):
            function(tf.ones([2, 3]))


@pytest.mark.parametrize(
    "flag", ["use_cache", "output_attentions", "output_hidden_states", "return_dict", "training"]
)
def test_a_flag_that_is_neither_true_nor_false_is_refused(model: Any, flag: str) -> None:
    for value in ("no", 1, tf.constant(1)):
        for call in (model, model.transformer):
            with pytest.raises(InputError, match=rf"^{flag} should be True or False, but it is "):
                call(IDS, **{flag: value})
    model(IDS, **{flag: np.False_})


# --------------------------------------------------------------------------- what only a graph's run tells


@pytest.fixture(scope="module")
def unsized(model: Any) -> Any:
    """Make graphs of sizes unknown, without XLA and with it: (given, jit_compile) -> logits."""
    ids, five = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([2, None, 3, None, 11], tf.float32)
    names = ("attention_mask", "token_type_ids", "position_ids", "past_key_values", "input_ids")
    kept: dict[Any, Any] = {}

    def run(given: dict[str, Any], jit_compile: bool) -> Any:
        key = (*(name in given for name in names), jit_compile)
        if key not in kept:
            specs = {name: (five,) * 3 if name == "past_key_values" else ids for name in given}
            kept[key] = tf.function(
                lambda given: model(given).logits, input_signature=[specs], jit_compile=jit_compile
            )
        return kept[key](given)

    return run


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sizes_that_do_not_fit_end_the_run_of_a_graph_that_did_not_know_them(
    model: Any, unsized: Any, jit_compile: bool
) -> None:
    ids, mask, types = (tf.constant(each[:, :B], tf.int32) for each in (IDS, MASK, TYPES))  # [B, B] each
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    np.testing.assert_allclose(unsized(given, jit_compile), model(given).logits, atol=1e-4)
    for name, wrong in (
        ("attention_mask", mask[:1]),
        ("attention_mask", mask[:, :1]),
        ("token_type_ids", types[:, :1]),
    ):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            unsized({**given, name: wrong}, jit_compile)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_mask_without_the_past_ends_the_run_of_a_graph(model: Any, unsized: Any, jit_compile: bool) -> None:
    past = model(tf.constant(IDS), attention_mask=MASK).past_key_values
    given = {
        "input_ids": tf.constant(IDS[:, :1]),
        "position_ids": tf.constant(IDS[:, :1] * 0 + T),
        "past_key_values": past,
        "attention_mask": tf.concat([tf.constant(MASK, tf.int32), tf.ones([B, 1], tf.int32)], axis=1),
    }
    given["input_ids"] = tf.cast(given["input_ids"], tf.int32)
    given["position_ids"] = tf.cast(given["position_ids"], tf.int32)
    np.testing.assert_allclose(unsized(given, jit_compile), model(given).logits, atol=1e-4)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        unsized({**given, "attention_mask": tf.ones([B, 1], tf.int32)}, jit_compile)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_mask_of_other_numbers_is_nan_in_a_graph(model: Any, jit_compile: bool) -> None:
    run = tf.function(lambda mask: model(IDS, attention_mask=mask).logits, jit_compile=jit_compile)
    mask = MASK.copy()
    mask[1, -1] = 2
    wrong = np.arange(B) == 1  # [B]
    logits = run(tf.constant(mask))  # [B, T, V]
    assert np.isnan(logits).all(axis=(1, 2)).tolist() == wrong.tolist()
    assert np.isfinite(logits).all(axis=(1, 2)).tolist() == (~wrong).tolist()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_fixed_cache_that_is_full_gives_nan_in_a_graph(model: Any, jit_compile: bool) -> None:
    empty = tf.zeros([B, 3, 5, 11])  # [B, H, S, K]
    layers = tuple((empty, empty) for _ in range(3))

    def call(filled: tf.Tensor) -> Any:
        return model(IDS[:, :2], past_key_values=FixedCache(layers, filled)).logits  # [B, T, V]

    run = tf.function(call, jit_compile=jit_compile)
    np.testing.assert_allclose(run(tf.constant(3)), call(tf.constant(3)), atol=1e-4)
    assert np.isnan(run(tf.constant(4))).all()


def test_embeddings_that_carry_a_mask_of_keras_want_an_attention_mask(model: Any) -> None:
    embedding = keras.layers.Embedding(CONFIG.vocab_size, CONFIG.n_embd, mask_zero=True)
    embeds = embedding(tf.constant(IDS * MASK))
    for call in (model, model.transformer):
        with pytest.raises(InputError, match=r"mask of Keras.*attention_mask=embedding\.compute_mask"):
            call(inputs_embeds=embeds)
    shown = embedding.compute_mask(tf.constant(IDS * MASK))
    same(
        model(inputs_embeds=embeds, attention_mask=shown),
        model(inputs_embeds=embeds.numpy(), attention_mask=MASK),
    )
    ids = keras.Input([None], dtype="int32")
    with pytest.raises(InputError, match="mask of Keras"):
        keras.Model(ids, model(inputs_embeds=embedding(ids)).logits)(tf.constant(IDS * MASK))
