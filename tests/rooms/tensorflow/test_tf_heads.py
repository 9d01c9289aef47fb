"""The heads of the TensorFlow room: losses, their shapes, labels, and what is refused; in graphs too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from cases import B, T, make_inputs, random_checkpoint, tiny_config
from drivers import TFDriver
from gpt2kit.checkpoint.layout import HEADS
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.tensorflow import TFGPT2DoubleHeadsModel, TFGPT2ForSequenceClassification

C, N = 2, 7
IDS = make_inputs(tiny_config()).input_ids  # [B, T]
MASK = make_inputs(tiny_config(), padding="right").attention_mask  # [B, T]
CHOICES = np.stack([IDS, IDS[::-1]], axis=1)  # [B, C, T]
LABELS = np.where(np.arange(T) < 2, -100, IDS)  # [B, T]


def build(cls: str, **changes: Any) -> Any:
    """Make a model of random weights."""
    config = tiny_config(**changes)
    return TFDriver().build(config, random_checkpoint(config, head=HEADS[cls]), "float32", cls=cls)


@pytest.fixture(scope="module")
def language() -> Any:
    """Make a language model."""
    return build("GPT2LMHeadModel")


@pytest.fixture(scope="module")
def double() -> Any:
    """Make a model with two heads."""
    return build("GPT2DoubleHeadsModel", num_labels=1)


@pytest.fixture(scope="module")
def classifier() -> Any:
    """Make a classifier of seven labels."""
    return build("GPT2ForSequenceClassification", num_labels=N, pad_token_id=100)


# ------------------------------------------------------------------------------------------- next tokens


def test_the_loss_is_a_mean_or_with_tf_legacy_loss_that_of_each_label(language: Any) -> None:
    output = language(IDS, labels=LABELS)
    log_p = tf.nn.log_softmax(output.logits).numpy()
    each = [-log_p[row, place - 1, LABELS[row, place]] for row in range(B) for place in range(2, T)]
    assert output.loss.shape == (1,)
    np.testing.assert_allclose(output.loss, [np.mean(each)], rtol=1e-5)
    language.config.tf_legacy_loss = True
    try:
        legacy = language(IDS, labels=LABELS).loss
        in_graph = tf.function(language.call)(IDS, labels=LABELS).loss
    finally:
        language.config.tf_legacy_loss = False
    assert legacy.shape == (6,)
    np.testing.assert_allclose(legacy, each, rtol=1e-5)
    np.testing.assert_allclose(in_graph, legacy, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_loss_in_a_graph_is_the_same(language: Any, jit_compile: bool) -> None:
    program = tf.function(language.call, jit_compile=jit_compile)
    found = program(tf.constant(IDS), labels=tf.constant(LABELS)).loss
    np.testing.assert_allclose(found, language(IDS, labels=LABELS).loss, rtol=1e-5)


def test_only_the_last_logits_are_made_on_request(language: Any) -> None:
    wanted = language(IDS).logits
    np.testing.assert_allclose(language(IDS, logits_to_keep=2).logits, wanted[:, -2:], atol=1e-5)
    for given in ({"logits_to_keep": 2, "labels": LABELS}, {"logits_to_keep": -1}, {"logits_to_keep": True}):
        with pytest.raises(InputError, match="logits_to_keep"):
            language(IDS, **given)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint32", "uint64", "int64"])
def test_labels_may_be_whole_numbers_of_any_width(language: Any, classifier: Any, dtype: str) -> None:
    wanted = language(IDS, labels=IDS).loss
    np.testing.assert_array_equal(language(IDS, labels=IDS.astype(dtype)).loss, wanted)
    classes = np.array([6, 0])
    wanted = classifier(IDS, attention_mask=MASK, labels=classes).loss
    found = classifier(IDS, attention_mask=MASK, labels=classes.astype(dtype)).loss
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS[:, :4], r"labels should have the shape \[2, 5\], but it is \[2, 4\]"),
        (LABELS * 1.0, "labels should hold whole numbers, but its dtype is float64"),
        (
            np.where(LABELS == IDS, 101, -100),
            r"labels holds 101, which is outside 0 to 100 \(vocab_size=101\)",
        ),
        ([1, 2], "labels should be a tensor of TensorFlow or an array of NumPy"),
    ],
)
def test_labels_that_fit_nothing_are_refused(language: Any, labels: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        language(IDS, labels=labels)


# ----------------------------------------------------------------------------------------------- choices


def test_two_heads_score_tokens_and_choices(double: Any) -> None:
    places = np.array([[4, 2], [1, 3]])
    output = double(CHOICES, mc_token_ids=places, labels=CHOICES, mc_labels=np.array([1, 0]))
    assert list(output) == ["logits", "mc_logits", "past_key_values", "loss", "mc_loss"]  # 4.34's come first
    shapes = [output[name].shape for name in ("logits", "mc_logits", "loss", "mc_loss")]
    assert shapes == [(B, C, T, 101), (B, C), (1,), (B,)]
    one = double(CHOICES[0], mc_token_ids=places[0], mc_labels=np.array(1))
    np.testing.assert_allclose(one.logits, output.logits[0], atol=1e-4)
    np.testing.assert_allclose(one.mc_logits, output.mc_logits[0], atol=1e-4)
    assert one.mc_loss.shape == ()
    np.testing.assert_allclose(one.mc_loss, output.mc_loss[0], rtol=1e-4)


def test_embeddings_of_choices_stand_for_their_ids(double: Any) -> None:
    embeds = tf.gather(double.transformer.wte.weight, CHOICES)  # [B, C, T, D]
    found, wanted = double(inputs_embeds=embeds, output_hidden_states=True), double(CHOICES)
    np.testing.assert_allclose(found.mc_logits, wanted.mc_logits, atol=1e-5)
    assert [each.shape.rank for each in found.hidden_states] == [3, 3, 3, 4]


def test_choices_of_any_number_in_one_graph(double: Any) -> None:
    spec = double.input_signature

    @tf.function(input_signature=[spec])
    def program(given: dict[str, tf.Tensor]) -> Any:
        return double(given).mc_logits

    for count in (1, 3):
        ids = np.repeat(CHOICES[:1, :1], count, axis=1).astype(np.int32)  # [1, C, T]
        places = np.full((1, count), 3, np.int32)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "mc_token_ids": places}
        np.testing.assert_allclose(program(given), double(given).mc_logits, atol=1e-4)
    assert double(double.dummy_inputs).mc_logits.shape == (1, 2)


def test_a_place_beyond_the_sequence_is_nan_in_a_compiled_program(double: Any) -> None:
    program = tf.function(lambda **given: double(given).mc_logits, jit_compile=True)
    places = np.array([[4, 2], [1, 3]])
    found = program(input_ids=CHOICES, mc_token_ids=places)
    np.testing.assert_allclose(found, double(CHOICES, mc_token_ids=places).mc_logits, atol=1e-4)
    for outside in (T, -1):
        places[1, 0] = outside
        found = program(input_ids=CHOICES, mc_token_ids=places)
        assert np.isnan(found).tolist() == [[False, False], [True, False]]


def test_a_place_that_is_not_read_is_told_of(caplog: Any) -> None:
    model = build("GPT2DoubleHeadsModel", num_labels=1, summary_type="first")
    model(CHOICES, mc_token_ids=np.ones((B, C), np.int32))
    assert "mc_token_ids are not read, because summary_type='first'" in caplog.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mc_token_ids": np.full((B, C), T)}, "mc_token_ids holds 5, which is outside the sequence: its 5"),
        ({"mc_token_ids": np.ones((B,), int)}, r"mc_token_ids should have the shape \[2, 2\]"),
        ({"mc_labels": np.array([0, 2])}, r"mc_labels holds 2, which is outside 0 to 1 \(2 choices\)"),
        ({"mc_labels": np.array([[0, 1]])}, r"mc_labels should have the shape \[2\]"),
        ({"labels": IDS}, r"labels should have the shape \[2, 2, 5\]"),
    ],
)
def test_choices_that_are_not_there_are_refused(double: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        double(CHOICES, **given)


def test_an_undefined_summary_is_refused() -> None:
    with pytest.raises(ConfigError, match="summary_type='attn' was never defined"):
        TFGPT2DoubleHeadsModel(tiny_config(summary_type="attn"))


# ---------------------------------------------------------------------------------------- classification


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mask_tells_the_last_token(classifier: Any, side: str) -> None:
    given = make_inputs(tiny_config(), padding=side).as_dict()
    mask, ids = given["attention_mask"], given["input_ids"]
    found = classifier(**given).logits
    for row in range(B):
        alone = classifier(ids[row][mask[row] == 1][None]).logits
        np.testing.assert_allclose(found[row], alone[0], atol=1e-4)


def test_the_padding_token_tells_the_last_token(classifier: Any, caplog: Any) -> None:
    ids = np.where(MASK == 1, IDS % 97, 100)
    wanted = [classifier(row[row != 100][None]).logits[0] for row in ids]
    np.testing.assert_allclose(classifier(ids).logits, wanted, atol=1e-4)
    program = tf.function(classifier.call, jit_compile=True)
    np.testing.assert_allclose(program(tf.constant(ids)).logits, wanted, atol=1e-4)
    embeds = np.zeros((B, T, 33), np.float32)
    for _ in range(2):
        classifier(inputs_embeds=embeds)
    assert caplog.text.count("Padding cannot be seen in inputs_embeds") == 1


def test_each_text_has_its_loss(classifier: Any) -> None:
    output = classifier(IDS, attention_mask=MASK, labels=np.array([3, 6]))
    log_p = tf.nn.log_softmax(output.logits).numpy()
    np.testing.assert_allclose(output.loss, [-log_p[0, 3], -log_p[1, 6]], rtol=1e-5)
    shares = np.random.default_rng(5).uniform(size=(B, N)).astype(np.float32)
    several = classifier(IDS, attention_mask=MASK, labels=shares)
    p = tf.sigmoid(several.logits).numpy()
    wanted = -(shares * np.log(p) + (1 - shares) * np.log(1 - p)).mean(1)
    np.testing.assert_allclose(several.loss, wanted, rtol=1e-4)
    assert classifier.config.problem_type is None


def test_one_label_makes_a_regression() -> None:
    model = build("GPT2ForSequenceClassification", num_labels=1, pad_token_id=100)
    wanted = np.array([0.5, -2.0], np.float32)
    for labels in (wanted, wanted[:, None]):
        output = model(IDS, labels=labels)
        np.testing.assert_allclose(output.loss, (output.logits[:, 0] - wanted) ** 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "labels", "said"),
    [
        ({}, np.array([1, 7]), r"labels holds 7, which is outside 0 to 6 \(num_labels=7\)"),
        (
            {},
            np.array([1, 2, 3]),
            r"shape \[2\], but it is \[3\]\. problem_type='single_label_classification'",
        ),
        ({}, np.full((B, N), 2.0), "labels holds 2, and each should say from 0 to 1"),
        (
            {"num_labels": 1, "problem_type": "single_label_classification"},
            np.array([0, 0]),
            "leaves nothing",
        ),
        ({"problem_type": "ranking"}, np.array([0, 0]), "config.problem_type='ranking' was not understood"),
    ],
)
def test_labels_of_another_kind_are_refused(changes: dict[str, Any], labels: Any, said: str) -> None:
    model = TFGPT2ForSequenceClassification(
        tiny_config(num_labels=changes.pop("num_labels", N), pad_token_id=100)
    )
    model.config.problem_type = changes.get("problem_type")
    with pytest.raises(InputError, match=said):
        model(IDS, labels=labels)


def test_a_batch_whose_last_tokens_nothing_tells_is_refused(classifier: Any) -> None:
    model = TFGPT2ForSequenceClassification(tiny_config(num_labels=N))
    with pytest.raises(InputError, match="Which token is the last in each of 2 rows"):
        model(IDS)
    assert model(IDS[:1]).logits.shape == (1, N)
    with pytest.raises(InputError, match="attention_mask hides all of a row"):
        model(IDS, attention_mask=MASK * np.array([[1], [0]]))
    with pytest.raises(InputError, match=r"input_ids should have the shape \[batch, positions\]"):
        classifier(CHOICES)


def test_no_head_warns_when_all_is_given(classifier: Any, double: Any, caplog: Any) -> None:
    classifier(IDS, attention_mask=MASK)
    double(CHOICES, mc_token_ids=np.ones((B, C), np.int32))
    assert not caplog.text
