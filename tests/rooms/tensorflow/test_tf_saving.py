"""Keras' own files, and graphs that are served without gpt2kit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the room that is tested")

import keras
import tensorflow as tf

from cases import tiny_config
from gpt2kit.errors import InputError
from gpt2kit.tensorflow import (
    TFGPT2DoubleHeadsModel,
    TFGPT2ForSequenceClassification,
    TFGPT2LMHeadModel,
    TFGPT2Model,
    TFGPT2Tokenizer,
)
from gpt2kit.tokenization import GPT2Tokenizer

# Keras 3.15 hands its variables to NumPy 2 in the older way when it writes them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

CLASSES = [TFGPT2Model, TFGPT2LMHeadModel, TFGPT2DoubleHeadsModel, TFGPT2ForSequenceClassification]
IDS = np.array([[2, 3, 5, 7, 11], [13, 17, 19, 23, 29]], np.int32)
# A graph and eager calls round differently: measured 2.4e-7 of logits up to 1.
TOLERANCE = {"rtol": 1e-5, "atol": 3e-6}

SERVED = """
import os, sys
sys.modules["gpt2kit"] = sys.modules["transformers"] = None  # as where they are not installed
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
came = {}
for key, value in np.load(sys.argv[2]).items():
    signature, name = key.split(":")
    for name, value in served.signatures[signature](**{name: tf.constant(value)}).items():
        came[name] = value.numpy().astype("S") if value.dtype == tf.string else value.numpy()
np.savez(sys.argv[3], **came)
"""


def ids_of(model: Any) -> np.ndarray[Any, Any]:
    return IDS[:, None] if isinstance(model, TFGPT2DoubleHeadsModel) else IDS


def inputs_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return arrays for everything that a served model is called with."""
    inputs = {name: np.ones_like(ids_of(model)) for name in model.input_signature}
    inputs["input_ids"] = ids_of(model)
    if "mc_token_ids" in inputs:
        inputs["mc_token_ids"] = np.array([[4], [2]], np.int32)
    return inputs


def call_elsewhere(graph: Path, **given: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Call signatures of a SavedModel, of one argument each, in a fresh process that has no gpt2kit.

    Args:
        graph: The SavedModel.
        **given: Signature -> name and value of its argument.
    """
    sent, came = graph.parent / "sent.npz", graph.parent / "came.npz"
    np.savez(sent, **{f"{signature}:{name}": value for signature, (name, value) in given.items()})
    command = [sys.executable, "-P", "-c", SERVED, str(graph), str(sent), str(came)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=graph.parent)
    assert run.returncode == 0, run.stderr
    return dict(np.load(came))


@pytest.mark.parametrize("cls", CLASSES)
def test_a_keras_file_gives_the_same_model(tmp_path: Path, cls: type[Any]) -> None:
    model = cls(tiny_config(n_layer=1, pad_token_id=0, num_labels=3), name="mine")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is cls
    assert (again.name, again.config.to_dict()) == ("mine", model.config.to_dict())
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for ours, theirs in zip(model(ids_of(model)).values(), again(ids_of(model)).values(), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)


def test_weights_alone_are_saved_and_loaded(tmp_path: Path) -> None:
    model, other = (TFGPT2LMHeadModel(tiny_config(n_layer=1)) for _ in range(2))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_compiled_model_goes_on_training_as_it_was(tmp_path: Path) -> None:
    model = TFGPT2LMHeadModel(tiny_config(n_layer=1))
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    data = {"input_ids": IDS, "labels": IDS}
    model.fit(data, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, again):
        each.config.resid_pdrop = 0.0
    assert again.optimizer.iterations.numpy() == model.optimizer.iterations.numpy() == 1
    np.testing.assert_allclose(again.evaluate(data, verbose=0), model.evaluate(data, verbose=0), rtol=1e-6)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_saved_model_computes_as_the_model(tmp_path: Path, cls: type[Any]) -> None:
    model = cls(tiny_config(n_layer=2 if cls is TFGPT2Model else 1, pad_token_id=0, num_labels=3))
    model.save_pretrained(tmp_path, saved_model=True, version=7)
    given = {name: tf.constant(value) for name, value in inputs_of(model).items()}
    served = tf.saved_model.load(str(tmp_path / "saved_model" / "7"))
    came, wanted = served.signatures["serving_default"](**given), model.serving(given)
    assert came.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(came[name], values, **TOLERANCE)
    assert "past_key_values" in came
    assert (tmp_path / "model.safetensors").exists()  # beside it lie the weights as always


def test_export_and_tensorflows_own_save_write_the_same_signatures(tmp_path: Path) -> None:
    model = TFGPT2LMHeadModel(tiny_config(n_layer=1, output_hidden_states=True, output_attentions=True))
    model.export(tmp_path / "a")
    tf.saved_model.save(model, str(tmp_path / "b"), signatures=model.serving_signatures())
    given = {name: values.astype(np.int64) for name, values in inputs_of(model).items()}
    wanted = model.serving({name: tf.constant(value) for name, value in given.items()})
    assert wanted["hidden_states"].shape == (2, *IDS.shape, model.config.n_embd)
    for name in "ab":
        served = tf.saved_model.load(str(tmp_path / name))
        came = served.signatures["int64_serving"](**{key: tf.constant(value) for key, value in given.items()})
        assert came.keys() == wanted.keys()
        for key, values in wanted.items():
            np.testing.assert_allclose(came[key], values, **TOLERANCE)


ONES, LONG = np.ones_like(IDS), np.ones((1, 14), np.int32)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another dtype": ({"input_ids": IDS.astype(np.float32)}, "expected to be a int32 tensor but is a float"),
    "another integer": (
        {"attention_mask": ONES.astype(np.int64)},
        "expected to be a int32 tensor but is a int64",
    ),
    "texts": ({"input_ids": np.array([["a"]])}, "expected to be a int32 tensor but is a string tensor"),
    "one row": ({"input_ids": IDS[0]}, r"Shape of tensor input_ids \[5\] is not compatible with .*\[\?,\?\]"),
    "an axis more": (
        {"token_type_ids": ONES[None]},
        r"Shape of tensor token_type_ids \[1,2,5\] is not compat",
    ),
    "another length": (
        {"attention_mask": ONES[:, :3]},
        r"attention_mask should have the shape of input_ids\. The two shapes:\] \[2 3\] \[2 5\]",
    ),
    "other rows": ({"token_type_ids": ONES[:1]}, r"token_type_ids should have the shape .* \[1 5\] \[2 5\]"),
    "outside": ({"input_ids": IDS + 72}, r"input_ids should be from 0 to 100 .* not:\] \[101\]"),
    "below 0": ({"token_type_ids": ONES - 2}, r"token_type_ids should be from 0 to 100 .* \[-1 -1 -1"),
    "too long": (
        {"input_ids": LONG, "attention_mask": LONG, "token_type_ids": LONG},
        r"A text has more tokens than the 13 positions of the model .* of each:\] \[14\]",
    ),
    "no tokens": (
        {"input_ids": LONG[:, :0], "attention_mask": LONG[:, :0], "token_type_ids": LONG[:, :0]},
        r"input_ids hold no token\. Their shape:\] \[1 0\]",
    ),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("served")
    TFGPT2LMHeadModel(tiny_config(n_layer=1)).export(folder)
    return tf.saved_model.load(str(folder))


@pytest.mark.parametrize("case", WRONG)
def test_a_served_model_says_what_is_wrong_with_what_it_is_called_with(served: Any, case: str) -> None:
    given, sentence = WRONG[case]
    inputs = {"input_ids": IDS, "attention_mask": ONES, "token_type_ids": ONES} | given
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        served.signatures["serving_default"](**{name: tf.constant(each) for name, each in inputs.items()})


def test_padding_takes_no_positions_of_a_served_model(served: Any) -> None:
    ids = np.concatenate([ONES, ONES, IDS], axis=1)
    mask = np.concatenate([0 * ONES, 0 * ONES, ONES], axis=1)
    called = served.signatures["serving_default"]
    padded = called(
        input_ids=tf.constant(ids), attention_mask=tf.constant(mask), token_type_ids=tf.constant(ids)
    )
    plain = called(
        input_ids=tf.constant(IDS), attention_mask=tf.constant(ONES), token_type_ids=tf.constant(IDS)
    )
    np.testing.assert_allclose(padded["logits"][:, 10:], plain["logits"], **TOLERANCE)


def test_own_signatures_take_the_place_of_the_usual_ones(tmp_path: Path) -> None:
    model = TFGPT2LMHeadModel(tiny_config(n_layer=1))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def last(input_ids: Any) -> dict[str, Any]:
        return {"last": model(input_ids).logits[:, -1]}

    model.save_pretrained(tmp_path, saved_model=True, signatures=last)
    served = tf.saved_model.load(str(tmp_path / "saved_model" / "1"))
    assert list(served.signatures) == ["serving_default"]
    came = served.signatures["serving_default"](input_ids=tf.constant(IDS))["last"]
    np.testing.assert_allclose(came, model(IDS).logits[:, -1], **TOLERANCE)


def test_layers_that_do_not_stack_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    model = TFGPT2LMHeadModel(tiny_config(n_layer=2, pruned_heads={1: [0]}))
    with pytest.raises(InputError, match="past_key_values have different shapes, because heads were pruned"):
        model.export(tmp_path / "pruned")
    model.config.use_cache = False
    model.export(tmp_path / "pruned")


class Writer(tf.Module):
    """A server: the scores of texts, and what prompts go on with, four at a time."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {"padding_side": "left", "truncation_side": "left"}
        self.tokenizer = TFGPT2Tokenizer.from_pretrained("pocket", 13, pad_token_id=0, **options)
        # Such weights have opinions, and write words that are no words.
        config = tiny_config(
            n_layer=1, vocab_size=2048, n_positions=29, initializer_range=0.3, eos_token_id=0
        )
        keras.utils.set_random_seed(7)
        self.model = TFGPT2LMHeadModel(config)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")], autograph=False)
    def read(self, texts: Any) -> dict[str, Any]:
        return {"logits": self.model(dict(self.tokenizer(texts))).logits}

    def write_four(self, prompts: Any) -> Any:
        encoding = self.tokenizer(prompts)  # [4, 13]
        assert encoding["input_ids"].shape == (4, 13)
        ids = self.model.generate(**encoding, max_new_tokens=7, pad_token_id=0)  # [4, 20]
        return self.tokenizer.decode(ids[:, 13:], skip_special_tokens=True)  # [4]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="prompts")], autograph=False)
    def write(self, prompts: Any) -> dict[str, Any]:
        count = tf.size(prompts)
        prompts = tf.concat([prompts, tf.fill([-count % 4], "")], axis=0)  # [4 n]
        prompts = tf.where(prompts == "", "<|endoftext|>", prompts)
        texts = tf.map_fn(self.write_four, tf.reshape(prompts, [-1, 4]))  # [n, 4]
        return {"texts": tf.reshape(texts, [-1])[:count]}


def test_a_served_model_goes_from_text_to_scores_and_from_text_to_text_without_gpt2kit(
    tmp_path: Path,
) -> None:
    writer = Writer()
    signatures = {"read": writer.read, "write": writer.write}
    tf.saved_model.save(writer, str(tmp_path / "graph"), signatures=signatures)
    texts = np.array([b"One day", b"a small cat went home"])
    prompts = ["One day", "a small cat went home and", "x" * 90, "", "\u00e9t\u00e9 <|endoftext|>"]
    given = np.array([prompt.encode() for prompt in prompts])
    came = call_elsewhere(tmp_path / "graph", read=("texts", texts), write=("prompts", given))
    wanted = writer.model(dict(writer.tokenizer(tf.constant(texts)))).logits
    np.testing.assert_allclose(came["logits"], wanted, rtol=1e-4, atol=1e-4)
    assert len(set(came["texts"].tolist())) > 3
    python = GPT2Tokenizer.from_pretrained("pocket")
    for prompt, text in zip(prompts, came["texts"].tolist(), strict=True):
        ids = python(prompt)["input_ids"][-13:] or [python.eos_token_id]
        written = writer.model.generate([ids], max_new_tokens=7, pad_token_id=0)[0, len(ids) :]  # [n]
        assert text.decode() == python.decode(written, True, clean_up_tokenization_spaces=False)
