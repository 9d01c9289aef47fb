"""What users of 4.34's TensorFlow models touch besides calls, files and fit: data sets, losses, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import keras
import tensorflow as tf

from cases import make_inputs, random_checkpoint, tiny_config
from drivers import TFDriver
from gpt2kit import GPT2Tokenizer
from gpt2kit.checkpoint.layout import HEADS
from gpt2kit.errors import InputError

CONFIG = tiny_config()
INPUTS = make_inputs(CONFIG).as_dict()
IDS = INPUTS["input_ids"]  # [B, T]
ARRAYS = np.load(Path(__file__).parents[2] / "golden" / "decoding" / "arrays.npz")
FLOAT64 = 1e-12  # of the same sums in another order
TRANSITIONS = sorted({name.split(".")[1] for name in ARRAYS if name.startswith("transition.")})
TEXTS = ("To be", "or", "not to be that", "is the question", "now")


def build(cls: str = "GPT2LMHeadModel", dtype: str = "float32", **changes: Any) -> Any:
    """Make a model of random weights."""
    config = tiny_config(**changes)
    return TFDriver().build(config, random_checkpoint(config, head=HEADS[cls]), dtype, cls=cls)


@pytest.fixture(scope="module")
def tokenizer() -> GPT2Tokenizer:
    made = GPT2Tokenizer.from_pretrained("pocket")
    made.pad_token = made.eos_token
    return made


# --------------------------------------------------------------------------- data sets


class Rows:
    """What of a datasets.Dataset is used: columns that can be taken away, and rows by several numbers."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.column_names = rows, list(rows[0])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        raise AssertionError("rows are read several at a time")

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        return [self.rows[place] for place in places]

    def remove_columns(self, names: list[str]) -> Rows:
        return Rows([{name: row[name] for name in row if name not in names} for row in self.rows])


def labelled(tokenizer: GPT2Tokenizer) -> list[dict[str, Any]]:
    """Tokenize texts of several lengths, with a label and a column that no model takes."""
    return [{**tokenizer(text), "label": len(text) % 2, "text": text} for text in TEXTS]


@pytest.mark.parametrize("kind", [list, Rows])
def test_rows_are_padded_by_the_tokenizer_and_labels_stand_apart(kind: Any, tokenizer: Any) -> None:
    model, rows = build("GPT2ForSequenceClassification"), labelled(tokenizer)
    batches = list(model.prepare_tf_dataset(kind(rows), 2, shuffle=False, tokenizer=tokenizer))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    wanted = [tokenizer(list(TEXTS[start : start + 2]), padding=True) for start in (0, 2, 4)]
    for (inputs, labels), each, start in zip(batches, wanted, (0, 2, 4), strict=True):
        assert sorted(inputs) == ["attention_mask", "input_ids"]
        assert inputs["input_ids"].dtype == labels.dtype == tf.int64
        for name in inputs:
            assert inputs[name].numpy().tolist() == each[name]
        assert labels.numpy().tolist() == [len(text) % 2 for text in TEXTS[start : start + 2]]


def test_each_epoch_has_every_row_once_in_another_order_and_full_batches_only_by_default() -> None:
    rows = [{"input_ids": np.array([number, number])} for number in range(20)]
    model = build()
    tf.random.set_seed(3)
    data = model.prepare_tf_dataset(rows, batch_size=4, prefetch=False)
    epochs = [[int(row[0]) for batch in data for row in batch] for _ in range(2)]  # ids alone are no mapping
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert epochs[0] != epochs[1]
    assert epochs[0] != list(range(20))
    assert len(model.prepare_tf_dataset(rows, batch_size=8)) == 2
    assert data.element_spec.shape.as_list() == [4, None]
    kept = model.prepare_tf_dataset(rows, batch_size=8, drop_remainder=False)
    assert len(kept) == 3


@pytest.mark.parametrize("loss", ["auto", None])
def test_a_function_of_the_user_makes_batches_and_the_model_learns_from_them(loss: Any) -> None:
    rows = [{"input_ids": row.tolist(), "text": "left out"} for row in IDS]

    def collate(rows: list[dict[str, Any]], hidden: int) -> dict[str, Any]:
        assert [list(row) for row in rows] == [["input_ids"]] * len(rows)
        ids = np.array([row["input_ids"] for row in rows], np.int32)  # [B, T]
        return {"input_ids": ids, "labels": np.where(ids == hidden, -100, ids)}

    model, hidden = build(), int(IDS[0, 2])
    data = model.prepare_tf_dataset(
        rows, len(IDS), shuffle=False, collate_fn=collate, collate_fn_args={"hidden": hidden}
    )
    model.compile("sgd", loss=loss, jit_compile=False)
    labels = np.where(hidden == IDS, -100, IDS)
    wanted = float(model(IDS, labels=labels).loss[0])
    assert model.evaluate(data, verbose=0) == pytest.approx(wanted, rel=1e-5)
    assert model.fit(data, verbose=0, shuffle=False).history["loss"] == [pytest.approx(wanted, rel=1e-5)]


def test_labels_of_a_model_with_two_kinds_are_a_mapping() -> None:
    rows = [{"input_ids": [[2, 3], [5, 7]], "mc_token_ids": [1, 0], "mc_labels": 1}] * 2
    data = build("GPT2DoubleHeadsModel").prepare_tf_dataset(rows, 2)
    inputs, labels = next(iter(data))
    assert {name: value.shape.as_list() for name, value in inputs.items()} == {
        "input_ids": [2, 2, 2],
        "mc_token_ids": [2, 2],
    }
    assert {name: value.numpy().tolist() for name, value in labels.items()} == {"mc_labels": [1, 1]}


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ([], {}, "no rows"),
        ([{"text": "a"}], {}, "No column of the data set is an argument"),
        ([{"input_ids": [2, 3]}], {"batch_size": 0}, "batch_size should be a positive whole number"),
        ([{"input_ids": [2, 3]}], {"collate_fn_args": {"a": 1}}, "keywords of a collate_fn"),
        ([{"input_ids": [2, 3]}, {"input_ids": [2]}], {}, "rows of input_ids have different shapes"),
        ([[2, 3]], {}, "A row should have names and values, but it is a list"),
        ({"input_ids": [[2, 3]]}, {}, "a sequence of rows, but it is a dict"),
        (tf.data.Dataset.range(3), {}, "given to fit\\(\\) as it is"),
    ],
)
def test_what_makes_no_batches_is_refused(rows: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        build().prepare_tf_dataset(rows, **options)


# --------------------------------------------------------------------------- losses


@pytest.mark.parametrize("legacy", [False, True])
def test_the_loss_of_a_call_is_that_of_its_scores_shifted_by_hand(legacy: bool) -> None:
    model = build(dtype="float64", tf_legacy_loss=legacy)
    labels = np.where(IDS % 5 == 0, -100, IDS)
    output = model(IDS, labels=labels)
    by_hand = model.hf_compute_loss(labels[:, 1:], output.logits[:, :-1])
    np.testing.assert_allclose(by_hand, output.loss, rtol=FLOAT64, atol=FLOAT64)
    assert by_hand.shape == ([int((labels[:, 1:] != -100).sum())] if legacy else [1])


def test_the_loss_of_texts_is_that_of_a_call() -> None:
    model = build("GPT2ForSequenceClassification")
    labels = np.array([1, 0, 1])[: len(IDS)]
    output = model(IDS, attention_mask=np.ones_like(IDS), labels=labels)
    np.testing.assert_array_equal(model.hf_compute_loss(labels, output.logits), output.loss)


# --------------------------------------------------------------------------- heads, tables, serving


def test_pruned_heads_are_gone_as_if_they_were_masked() -> None:
    model = build(dtype="float64", add_cross_attention=False)
    before = model.config
    mask = np.ones((CONFIG.n_layer, CONFIG.n_head))  # [L, H]
    mask[0, 1] = mask[2, 0] = mask[2, 2] = 0
    wanted = model(IDS, head_mask=mask).logits
    paths = [weight.path for weight in model.weights]
    model.prune_heads({0: [1], 2: [2]})
    model.prune_heads({2: [0, 2]})
    np.testing.assert_allclose(model(IDS).logits, wanted, rtol=FLOAT64, atol=FLOAT64)
    assert [weight.path for weight in model.weights] == paths
    assert model.config.pruned_heads == {0: [1], 2: [0, 2]}
    assert before.pruned_heads == {}
    again = type(model)(model.config, dtype="float64")
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        ({0: [1], 7: [0]}, "no layer 7: layers are numbered 0 to 2"),
        ({0: [5]}, "no head 5: heads are numbered 0 to 2"),
        ({0: [0, 1, 2]}, "would leave layer 0 without any head"),
    ],
)
def test_heads_that_cannot_be_pruned_are_refused_before_any_is(heads: Any, told: str) -> None:
    model = build()
    with pytest.raises(InputError, match=told):
        model.prune_heads(heads)
    assert model.config.pruned_heads == {}
    assert model.transformer.h[0].attn.n_head == 3


def test_tables_and_served_calls_have_the_names_that_4_34_has_for_them() -> None:
    model = build()
    table = model.transformer.get_input_embeddings()
    assert table is model.get_input_embeddings()
    np.testing.assert_array_equal(table.embeddings, table.weight)
    np.testing.assert_array_equal(model(inputs_embeds=table(IDS)).logits, model(IDS).logits)
    served = model.eager_serving({"input_ids": tf.constant(IDS)})
    np.testing.assert_array_equal(served["logits"], model(IDS).logits)
    assert served["past_key_values"].shape.rank == 6


def test_a_model_is_a_layer_of_functional_models_and_of_those_of_the_user() -> None:
    body = build("GPT2Model")
    ids, mask = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    dense = keras.layers.Dense(2)
    states = body({"input_ids": ids, "attention_mask": mask}).last_hidden_state
    functional = keras.Model([ids, mask], dense(states[:, -1]))

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.dense = body, dense

        def call(self, inputs: Any, training: bool = False) -> Any:
            return self.dense(self.body(inputs, training=training).last_hidden_state[:, -1])

    wanted = dense(body(IDS, attention_mask=np.ones_like(IDS)).last_hidden_state[:, -1])
    np.testing.assert_allclose(functional([IDS, np.ones_like(IDS)]), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(Own()({"input_ids": IDS}), wanted, rtol=1e-5, atol=1e-5)
    assert len(functional.trainable_weights) == len(body.trainable_weights) + 2


# --------------------------------------------------------------------------- scores of what was written


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", TRANSITIONS)
def test_transition_scores_are_those_of_4_34(name: str, normalize: bool) -> None:
    stem = f"transition.{name}"
    beams = ARRAYS.get(f"{stem}.beam_indices")
    found = build().compute_transition_scores(
        ARRAYS[f"{stem}.sequences"], tuple(ARRAYS[f"{stem}.scores"]), beams, normalize_logits=normalize
    )
    expected = ARRAYS[f"{stem}.{'normalized' if normalize else 'plain'}"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)  # 3 ulp of scores up to 43


def test_transition_scores_of_beams_add_up_to_those_of_the_texts() -> None:
    model = build()
    output = model.generate(
        IDS[:, :3], max_new_tokens=3, num_beams=2, pad_token_id=0, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    found = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
    # The length that scores are divided by counts the prompt.
    wanted = np.asarray(output.sequences_scores) * output.sequences.shape[1]
    np.testing.assert_allclose(tf.reduce_sum(found, axis=1), wanted, rtol=1e-5)


def test_scores_that_were_not_kept_are_asked_for() -> None:
    with pytest.raises(InputError, match="output_scores=True and return_dict_in_generate=True"):
        build().compute_transition_scores(IDS, None)
    with pytest.raises(InputError, match=r"pass output\.beam_indices too"):
        build().compute_transition_scores(IDS, [np.zeros([2 * len(IDS), 101], np.float32)])
