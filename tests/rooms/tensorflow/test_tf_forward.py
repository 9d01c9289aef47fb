"""The forward pass of the TensorFlow models: eager, in graphs, by XLA; cache, dtypes, embeddings, Keras."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import keras
import tensorflow as tf

from cases import B, T, make_inputs, random_checkpoint, tiny_config
from drivers import TFDriver
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.reference import gpt2
from gpt2kit.tensorflow import TFGPT2LMHeadModel, TFGPT2MainLayer, TFGPT2Model
from gpt2kit.tensorflow.cache import FixedCache
from gpt2kit.tensorflow.layers import TFEmbedding
from gpt2kit.tensorflow.outputs import TFCausalLMOutputWithCrossAttentions

CONFIG = tiny_config()
WEIGHTS = random_checkpoint(CONFIG)
INPUTS = make_inputs(CONFIG, padding="left", token_types=True, head_mask=True).as_dict()
# Two ways of computing the same in float32: |a - b| / (1 + |b|) was 6.0e-6 at most in all tests here, times
# more than ten.
CLOSE = 1e-4


def build(config: Any = CONFIG, dtype: str = "float32", cls: str = "GPT2LMHeadModel") -> Any:
    """Make a model of random weights."""
    return TFDriver().build(config, random_checkpoint(config), dtype, cls=cls)


@pytest.fixture(scope="module")
def model() -> Any:
    """Make the model that most tests call."""
    return build()


@pytest.fixture(scope="module")
def wanted() -> Any:
    """Compute what the equations say of the inputs."""
    return gpt2(CONFIG, WEIGHTS, **INPUTS)


def is_close(mine: Any, other: Any, tolerance: float = CLOSE) -> None:
    """See that two arrays are the same but for rounding."""
    np.testing.assert_allclose(np.asarray(mine), np.asarray(other), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_graph_and_a_compiled_program_compute_the_same(model: Any, wanted: Any, jit_compile: bool) -> None:
    @tf.function(jit_compile=jit_compile)
    def program(given: dict[str, tf.Tensor]) -> Any:
        return model(given, output_attentions=True, output_hidden_states=True)

    output = program({name: tf.constant(value) for name, value in INPUTS.items()})
    assert type(output) is TFCausalLMOutputWithCrossAttentions
    is_close(output.logits, wanted.logits)
    is_close(tf.stack(output.attentions), wanted.attentions)
    is_close(tf.stack(output.hidden_states), wanted.hidden_states)
    is_close(tf.stack(output.past_key_values), wanted.past_key_values)


def test_one_graph_serves_every_batch_and_length(model: Any) -> None:
    spec = tf.TensorSpec([None, None], tf.int32)

    @tf.function(input_signature=[spec, spec])
    def program(ids: tf.Tensor, mask: tf.Tensor) -> Any:
        return model(ids, attention_mask=mask, use_cache=False).logits

    for batch, length in ((1, 1), (3, 7)):
        given = make_inputs(CONFIG, 7, batch=batch, length=length, padding="left").as_dict()
        mask = given["attention_mask"]
        found = program(tf.constant(given["input_ids"], tf.int32), tf.constant(mask, tf.int32))
        is_close(found, gpt2(CONFIG, WEIGHTS, **given).logits)


def test_a_keras_model_of_inputs_can_be_made_with_it(model: Any) -> None:
    ids = keras.Input([T], dtype="int32")
    states = model.transformer(ids).last_hidden_state
    outer = keras.Model(ids, keras.layers.Dense(2)(states))
    assert outer(INPUTS["input_ids"]).shape == (B, T, 2)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
def test_a_keras_model_of_inputs_is_saved_and_cloned_with_the_body_in_it(tmp_path: Any) -> None:
    ids = keras.Input([None], dtype="int32")
    outer = keras.Model(ids, TFGPT2MainLayer(CONFIG, dtype="float64")(ids).last_hidden_state)
    outer.save(tmp_path / "outer.keras")
    again = keras.models.load_model(tmp_path / "outer.keras")
    assert bool(tf.reduce_all(again(INPUTS["input_ids"]) == outer(INPUTS["input_ids"])))
    fresh = keras.models.clone_model(outer)
    assert fresh(INPUTS["input_ids"]).dtype == tf.float64
    assert not bool(tf.reduce_any(fresh(INPUTS["input_ids"]) == outer(INPUTS["input_ids"])))


def test_the_cache_is_that_of_4_34_and_goes_on_in_a_graph(model: Any, wanted: Any) -> None:
    ids, mask, types = (tf.constant(INPUTS[n]) for n in ("input_ids", "attention_mask", "token_type_ids"))
    first = model(ids[:, :3], attention_mask=mask[:, :3], token_type_ids=types[:, :3])
    assert [layer.shape for layer in first.past_key_values] == [(2, B, 3, 3, 11)] * 3

    @tf.function
    def go_on(ids: tf.Tensor, past: Any, types: tf.Tensor) -> Any:
        return model(ids, past_key_values=past, attention_mask=mask, token_type_ids=types)

    output = go_on(ids[:, 3:], first.past_key_values, types[:, 3:])
    whole = model(ids, attention_mask=mask, token_type_ids=types)
    is_close(output.logits, whole.logits[:, 3:])
    sighted = slice(2, None)  # before it a row sees padding only, and what follows as well
    is_close(
        tf.stack(output.past_key_values)[..., sighted, :], tf.stack(whole.past_key_values)[..., sighted, :]
    )


@pytest.mark.parametrize("counts", [(3, 2), (1, 1, 1, 1, 1)])
def test_a_cache_of_fixed_size_holds_the_same(model: Any, counts: tuple[int, ...]) -> None:
    ids, mask = tf.constant(INPUTS["input_ids"]), tf.constant(INPUTS["attention_mask"])
    whole = model(ids, attention_mask=mask)
    empty = tf.zeros([B, 3, 7, 11])  # [B, H, max_length, K]
    past, logits, start = FixedCache(((empty, empty),) * 3, tf.constant(0)), [], 0
    for count in counts:
        output = model(ids[:, start : start + count], past_key_values=past, attention_mask=mask)
        past, start = output.past_key_values, start + count
        assert isinstance(past, FixedCache)
        logits.append(output.logits)
    assert int(past.filled) == T
    is_close(tf.concat(logits, 1)[0, 1:], whole.logits[0, 1:])  # the first sees padding only
    is_close(past.layers[2][0][:, :, 2:T], whole.past_key_values[2][0][:, :, 2:])
    with pytest.raises(InputError, match="7 places and 5 are filled, and 3 new positions came"):
        model(ids[:, :3], past_key_values=past)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_lower_precision_hides_what_is_hidden_and_gives_no_nan(policy: str) -> None:
    model = build(dtype=policy)
    ids, mask = INPUTS["input_ids"].copy(), INPUTS["attention_mask"]
    output = model(ids, attention_mask=mask, output_attentions=True)
    assert output.logits.dtype == model.compute_dtype
    assert model.transformer.wte.weight.dtype == ("float32" if policy.startswith("mixed") else "bfloat16")
    assert np.isfinite(np.asarray(tf.cast(output.logits, tf.float32))).all()
    assert not np.asarray(tf.cast(output.attentions[0], tf.float32))[0, :, 1:, 0].any()
    ids[mask == 0] = 3
    changed = model(ids, attention_mask=mask).logits
    assert bool(tf.reduce_all(changed[mask == 1] == output.logits[mask == 1]))


def test_every_layer_takes_the_policy_of_the_model() -> None:
    model = TFGPT2LMHeadModel(tiny_config("untied"), dtype="float64")
    assert {weight.dtype for weight in model.weights} == {"float64"}
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float64"}


def test_weights_are_there_without_a_call_under_their_official_names() -> None:
    model = TFGPT2Model(CONFIG, name="body")
    assert model.built
    assert model.num_parameters() == sum(value.size for value in WEIGHTS.values())
    assert model.weights[4].path == "body/transformer/h_._0/attn/c_attn/weight"
    for weight in model.weights:
        if weight.path.endswith("ln_1/weight"):
            assert bool(tf.reduce_all(weight == 1.0))
    assert float(tf.math.reduce_std(model.transformer.wte.weight)) == pytest.approx(0.02, rel=0.1)


def test_dropout_is_applied_in_training_only() -> None:
    config = tiny_config(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    model, ids = build(config), INPUTS["input_ids"]
    calm = model(ids).logits
    is_close(calm, build()(ids).logits)
    assert bool(tf.reduce_all(model(ids, training=False).logits == calm))
    first, second = model(ids, training=True).logits, model(ids, training=True).logits
    assert not bool(tf.reduce_any(first == second))


def test_a_configuration_makes_the_model_again() -> None:
    model = TFGPT2LMHeadModel(tiny_config("untied", n_inner=47), name="mine", dtype="mixed_bfloat16")
    again = TFGPT2LMHeadModel.from_config(model.get_config())
    assert again.config.to_dict() == model.config.to_dict()
    assert (again.name, again.compute_dtype) == ("mine", "bfloat16")
    assert [w.path for w in again.weights] == [w.path for w in model.weights]
    assert TFGPT2LMHeadModel.from_config(model.config).config is model.config
    assert TFGPT2LMHeadModel.from_config(model.config.to_dict()).config.n_inner == 47
    with pytest.raises(ConfigError, match="needs a GPT2Config, but a dict came"):
        TFGPT2LMHeadModel(model.config.to_dict())


def test_a_subclass_may_add_layers_of_its_own() -> None:
    class Own(TFGPT2LMHeadModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.extra = keras.layers.Dense(2)

    assert Own(CONFIG).layers[-1].name.startswith("dense")


@pytest.mark.parametrize("case", ["default", "untied"])
@pytest.mark.parametrize("size", [103, 97])
def test_tokens_are_added_and_taken_away(case: str, size: int) -> None:
    config = tiny_config(case)
    model, ids = build(config), np.array([[2, 3, 5]])
    before = model(ids).logits
    made = model.resize_token_embeddings(size)
    kept = min(size, 101)
    assert made is model.get_input_embeddings()
    assert (model.config.vocab_size, config.vocab_size) == (size, 101)
    assert model(ids).logits.shape == (1, 3, size)
    is_close(model(ids).logits[..., :kept], before[..., :kept])
    assert model(np.array([[size - 1]])).logits.shape == (1, 1, size)
    with pytest.raises(InputError, match=f"outside 0 to {size - 1}"):
        model(np.array([[size]]))
    count = sum(layer is model.get_output_embeddings() for layer in (made, model.lm_head))
    assert count == 1
    assert len(model.weights) == len(TFGPT2LMHeadModel(config).weights)


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "7"])
def test_a_number_of_tokens_that_is_none_is_refused(model: Any, size: Any) -> None:
    with pytest.raises(InputError, match="positive whole number"):
        model.resize_token_embeddings(size)


def test_embeddings_are_put_in_and_taken_out() -> None:
    model, ids = build(), INPUTS["input_ids"]
    table = WEIGHTS["transformer.wte.weight"] * 2
    model.set_input_embeddings(table)
    is_close(model.get_input_embeddings().weight, table)
    layer = TFEmbedding(101, 33)
    layer.build()
    model.set_output_embeddings(layer)
    assert model.get_output_embeddings() is layer
    assert any(weight is layer.weight for weight in model.weights)
    assert model(ids).logits.shape == (B, T, 101)
    with pytest.raises(InputError, match=r"shape \[101, 33\], but they are \[101, 32\]"):
        model.set_input_embeddings(table[:, :32])
    untied = build(tiny_config("untied"))
    untied.set_output_embeddings(table)
    is_close(untied.lm_head.weight, table)
    assert (model.get_bias(), model.get_lm_head()) == (None, None)
    assert TFGPT2Model(CONFIG).get_output_embeddings() is None


def test_an_output_is_a_tree_to_tensorflow_and_to_keras(model: Any) -> None:
    output = model(INPUTS["input_ids"], output_hidden_states=True)
    for tree in (tf.nest, keras.tree):
        doubled = tree.map_structure(lambda x: x * 2, output)
        assert type(doubled) is type(output)
        assert list(doubled) == list(output)
        is_close(doubled.logits, output.logits * 2)
        assert type(doubled.hidden_states) is tuple
    assert type(copy.copy(output)) is type(output)
    plain = model(INPUTS["input_ids"], output_hidden_states=True, return_dict=False)
    assert [type(each) for each in plain[1:]] == [tuple, tuple]
    is_close(plain[0], output[0])
