"""Keras' compile, fit, evaluate and predict: the own loss, one of the user's, labels, distribution."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import keras
import tensorflow as tf

from cases import B, T, make_inputs, random_checkpoint, tiny_config
from drivers import TFDriver
from gpt2kit.checkpoint.layout import HEADS
from gpt2kit.errors import InputError
from gpt2kit.tensorflow import TFGPT2Model

CONFIG = tiny_config()
INPUTS = make_inputs(CONFIG, padding="right").as_dict()
IDS, MASK = INPUTS["input_ids"], INPUTS["attention_mask"]
LABELS = np.where(MASK == 1, IDS, -100)


def build(cls: str = "GPT2LMHeadModel", dtype: str = "float32", **changes: Any) -> Any:
    """Make a model of random weights."""
    config = tiny_config(**changes)
    return TFDriver().build(config, random_checkpoint(config, head=HEADS[cls]), dtype, cls=cls)


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_a_step_is_that_of_the_mean_loss(how: str) -> None:
    model, plain = build(), build()
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=how == "eager", jit_compile=how == "xla")
    history = model.fit({**INPUTS, "labels": LABELS}, batch_size=B, verbose=0).history
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(plain(**INPUTS, labels=LABELS).loss)
    weights = [weight.value for weight in plain.trainable_weights]
    gradients = tape.gradient(loss, weights)
    assert history["loss"] == [pytest.approx(float(loss), rel=1e-5)]
    for mine, before, gradient in zip(model.trainable_weights, weights, gradients, strict=True):
        wanted = before - 0.1 * tf.convert_to_tensor(gradient)
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5, err_msg=mine.path)


def test_labels_come_among_the_inputs_or_as_y_from_arrays_and_from_a_dataset() -> None:
    model = build()
    model.compile("sgd", jit_compile=False)
    wanted = model.evaluate({**INPUTS, "labels": LABELS}, verbose=0)
    assert wanted == pytest.approx(float(model(**INPUTS, labels=LABELS).loss[0]), rel=1e-5)
    pairs = (
        (INPUTS, LABELS),
        (INPUTS, {"labels": LABELS}),
        (INPUTS, {"logits": LABELS}),
    )
    for x, y in pairs:
        assert model.evaluate(x, y, verbose=0) == pytest.approx(wanted, rel=1e-5)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(B)
        assert model.evaluate(data, verbose=0) == pytest.approx(wanted, rel=1e-5)
    data = tf.data.Dataset.from_tensor_slices({**INPUTS, "labels": LABELS}).batch(B)
    assert model.evaluate(data, verbose=0) == pytest.approx(wanted, rel=1e-5)


def test_a_loss_of_the_user_is_given_labels_and_scores() -> None:
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss=loss, metrics=["sparse_categorical_accuracy"], jit_compile=False)
    logits = model(**INPUTS).logits
    found = model.evaluate(INPUTS, IDS, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(float(loss(IDS, logits)), rel=1e-5)
    right = (np.asarray(logits).argmax(-1) == IDS).mean()
    assert found["sparse_categorical_accuracy"] == pytest.approx(right)
    again = model.evaluate({**INPUTS, "labels": IDS}, verbose=0, return_dict=True)
    assert again["loss"] == pytest.approx(found["loss"], rel=1e-6)


def test_a_classifier_learns_with_weights_and_metrics() -> None:
    model = build("GPT2ForSequenceClassification", num_labels=7, pad_token_id=100, n_layer=1)
    labels = np.array([3, 6])
    model.compile(keras.optimizers.Adam(0.01), metrics=["accuracy"], jit_compile=False)
    history = model.fit(INPUTS, labels, epochs=7, verbose=0).history
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    assert history["accuracy"][-1] == 1.0
    losses = model(**INPUTS, labels=labels).loss.numpy()
    weighed = model.evaluate(INPUTS, labels, sample_weight=np.array([1.0, 3.0]), verbose=0)[0]
    assert weighed == pytest.approx((losses[0] + 3 * losses[1]) / 2, rel=1e-4)


def test_a_text_labelled_minus_100_counts_for_nothing_in_the_mean() -> None:
    model = build("GPT2ForSequenceClassification", num_labels=7, pad_token_id=100, n_layer=1)
    model.compile(run_eagerly=True)
    losses = model(**INPUTS, labels=np.array([3, -100])).loss.numpy()
    assert losses[1] == 0
    assert model.evaluate(INPUTS, np.array([3, -100]), verbose=0) == pytest.approx(losses[0], rel=1e-5)


def test_two_heads_learn_from_both_labels() -> None:
    model = build("GPT2DoubleHeadsModel", num_labels=1)
    choices = np.stack([IDS, IDS[::-1]], axis=1)  # [B, C, T]
    labels = {"labels": choices, "mc_labels": np.array([0, 1])}
    model.compile("sgd", jit_compile=False)
    output = model(choices, **labels)
    wanted = float(output.loss[0]) + float(tf.reduce_mean(output.mc_loss))
    assert model.evaluate({"input_ids": choices, **labels}, verbose=0) == pytest.approx(wanted, rel=1e-5)
    assert model.evaluate(choices, labels, verbose=0) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(InputError, match="y should be a dictionary of labels, mc_labels"):
        model.evaluate(choices, choices, verbose=0)


def test_prediction_joins_batches_and_leaves_the_cache_out() -> None:
    model, ids = build(output_hidden_states=True), np.concatenate([IDS, IDS[::-1], IDS])
    model.compile(jit_compile=False)
    output = model.predict(ids, batch_size=4, verbose=0)
    assert list(output) == ["logits", "hidden_states"]
    assert type(output.logits) is np.ndarray
    np.testing.assert_allclose(output.logits, model(ids).logits, atol=1e-4)
    assert [each.shape for each in output.hidden_states] == [(6, T, 33)] * 4


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns(policy: str) -> None:
    model = build(dtype=policy, n_layer=1)  # a graph of casts takes seconds a layer to make
    model.compile(keras.optimizers.Adam(0.003), jit_compile=False)
    history = model.fit({**INPUTS, "labels": LABELS}, epochs=7, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}


ON_TWO_DEVICES = """
import numpy as np, keras, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from gpt2kit import GPT2Config, TFGPT2LMHeadModel

config = GPT2Config(
    vocab_size=101, n_positions=13, n_embd=33, n_layer=1, n_head=3, bos_token_id=0, eos_token_id=0,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)
ids = np.arange(10).reshape(2, 5)
single = TFGPT2LMHeadModel(config)
single.compile(keras.optimizers.SGD(1.0), jit_compile=False)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    both = TFGPT2LMHeadModel(config)
    both.compile(keras.optimizers.SGD(1.0), jit_compile=False)
both.set_weights(single.get_weights())
given = {"input_ids": ids, "labels": ids}
losses = [model.fit(given, batch_size=2, verbose=0).history["loss"] for model in (single, both)]
np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
for mine, other in zip(single.get_weights(), both.get_weights(), strict=True):
    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
print(both.distribute_strategy.num_replicas_in_sync, "replicas agree")
"""


def test_two_devices_take_the_step_of_one() -> None:
    done = subprocess.run([sys.executable, "-c", ON_TWO_DEVICES], capture_output=True, text=True, check=False)
    assert done.stdout == "2 replicas agree\n", done.stderr


@pytest.mark.parametrize(
    ("x", "y", "weight", "said"),
    [
        (INPUTS, None, None, "There are no labels to learn from. Give 'labels' among the inputs or as y"),
        (INPUTS, {"label": LABELS}, None, "y has the unknown key 'label'"),
        ({"input_id": IDS}, LABELS, None, "The mapping has the unknown key 'input_id'"),
        (INPUTS, LABELS, np.ones(B), "sample_weight has a weight for each text"),
    ],
)
def test_data_that_teaches_nothing_is_refused(x: Any, y: Any, weight: Any, said: str) -> None:
    model = build()
    model.compile("sgd", jit_compile=False)
    with pytest.raises(InputError, match=said):
        model.fit(x, y, sample_weight=weight, verbose=0)


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(InputError, match="loss_weights weigh losses that are given"):
        build().compile("sgd", loss_weights=[1.0])
    body = TFGPT2Model(CONFIG)
    body.compile("sgd", jit_compile=False)
    with pytest.raises(InputError, match="TFGPT2Model has no loss of its own"):
        body.fit(IDS, verbose=0)


def test_programs_are_made_again_after_a_change_of_the_vocabulary() -> None:
    model = build()
    model.compile("sgd", jit_compile=False)
    assert model.predict(IDS, verbose=0).logits.shape == (B, T, 101)
    model.resize_token_embeddings(103)
    assert model.predict(IDS + 2, verbose=0).logits.shape == (B, T, 103)
