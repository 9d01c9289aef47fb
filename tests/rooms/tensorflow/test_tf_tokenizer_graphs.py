"""TFGPT2Tokenizer in graphs: tf.function, tf.data, Keras models, and files of models."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import keras
import tensorflow as tf

from gpt2kit import GPT2Tokenizer, TFGPT2Tokenizer
from gpt2kit.errors import InputError

TEXTS = ["It's <|endoftext|> a\u3000 test", "", "antidisestablishmentarianism 中文", " \n\n x"]


@functools.cache
def python() -> GPT2Tokenizer:
    return GPT2Tokenizer.from_pretrained("gpt2")


@functools.cache
def ragged() -> TFGPT2Tokenizer:
    return TFGPT2Tokenizer.from_tokenizer(python())


@functools.cache
def padded() -> TFGPT2Tokenizer:
    return TFGPT2Tokenizer.from_tokenizer(python(), max_length=5, pad_token_id=50256)


def wanted(texts: list[str] = TEXTS) -> list[list[int]]:
    return [python()(text)["input_ids"] for text in texts]


def wanted_padded() -> np.ndarray:
    return np.array([(ids + [50256] * 5)[:5] for ids in wanted()])


def test_it_runs_in_a_function_of_any_batch_and_of_one_text():
    function = tf.function(ragged(), input_signature=[tf.TensorSpec([None], tf.string)])
    assert function(tf.constant(TEXTS))["input_ids"].to_list() == wanted()
    assert function(tf.constant(TEXTS[:1]))["input_ids"].to_list() == wanted(TEXTS[:1])
    assert function(tf.zeros([0], tf.string))["input_ids"].to_list() == []
    one = tf.function(ragged(), input_signature=[tf.TensorSpec([], tf.string)])
    assert one(tf.constant(TEXTS[0]))["input_ids"].numpy().tolist() == wanted()[0]
    known = tf.function(padded()).get_concrete_function(tf.TensorSpec([None], tf.string)).structured_outputs
    assert {tuple(value.shape) for value in known.values()} == {(None, 5)}


def test_it_runs_in_tf_data_before_and_after_batching():
    texts = tf.data.Dataset.from_tensor_slices(TEXTS)
    rows = texts.batch(3).map(ragged()).unbatch()
    assert [row["input_ids"].numpy().tolist() for row in rows] == wanted()
    rows = texts.map(lambda text: ragged()(text)["input_ids"], num_parallel_calls=2)
    assert [row.numpy().tolist() for row in rows] == wanted()
    (batch,) = texts.map(padded()).batch(4)
    np.testing.assert_array_equal(batch["input_ids"], wanted_padded())


def test_xla_has_no_strings_and_the_layer_says_so_before_xla_sees_one():
    texts = tf.constant(TEXTS)
    functions = [
        tf.function(padded(), jit_compile=True),
        tf.function(lambda x: tf.function(padded())(x), jit_compile=True),
    ]
    for function in functions:
        with pytest.raises(InputError, match="XLA has no strings"):
            function(texts)
    assert not padded().supports_jit


def model_of(layer: TFGPT2Tokenizer) -> keras.Model:
    """A model from strings to numbers, as users build it."""
    texts = keras.Input(shape=(), dtype="string")
    encoding = layer(texts)
    states = keras.layers.Embedding(50257, 3)(encoding["input_ids"])
    mask = keras.layers.Reshape((-1, 1))(keras.ops.cast(encoding["attention_mask"], "float32"))
    return keras.Model(texts, keras.layers.GlobalAveragePooling1D()(states * mask))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn:DeprecationWarning")  # of Keras itself
def test_a_keras_model_of_strings_is_saved_and_loaded_whole(tmp_path):
    model = model_of(padded())
    out = model.predict(tf.constant(TEXTS), verbose=0)
    (weights,) = model.get_weights()
    is_text = np.array([[1.0] * min(len(row), 5) + [0.0] * (5 - min(len(row), 5)) for row in wanted()])
    np.testing.assert_allclose(out, (weights[wanted_padded()] * is_text[..., None]).mean(1), atol=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(tf.constant(TEXTS), verbose=0), out)
    (layer,) = (layer for layer in again.layers if isinstance(layer, TFGPT2Tokenizer))
    assert layer.get_config() == padded().get_config()
    copy = keras.models.clone_model(model)
    assert copy.predict(tf.constant(TEXTS), verbose=0).shape == out.shape


LOADED = """
import sys
import numpy as np
import tensorflow as tf
texts = TEXTS
folder = sys.argv[1]
served = tf.saved_model.load(folder + "/served")
print(served.signatures["serving_default"](tf.constant(texts))["logits"].numpy().tolist())
ragged = tf.saved_model.load(folder + "/ragged")
print(ragged(tf.constant(texts))["input_ids"].to_list())
exported = tf.saved_model.load(folder + "/exported")
print(exported.serve(tf.constant(texts)).numpy().tolist())
assert not any(name.startswith("gpt2kit.") for name in sys.modules)
"""


class Served(tf.Module):
    """From strings to logits of the last tokens, by a table in the place of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = padded()
        self.table = tf.Variable(tf.range(50257, dtype=tf.float32))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def serve(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.gather(self.table, self.tokenizer(texts)["input_ids"])}


class Ragged(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = ragged()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts: tf.Tensor) -> dict[str, tf.RaggedTensor]:
        return self.tokenizer(texts)


def test_a_saved_model_goes_from_strings_to_ids_where_gpt2kit_is_not(tmp_path: Path):
    served = Served()
    tf.saved_model.save(served, str(tmp_path / "served"), signatures=served.serve)
    tf.saved_model.save(Ragged(), str(tmp_path / "ragged"))
    model = model_of(padded())
    model.export(tmp_path / "exported", verbose=False)
    program = f"import sys\nsys.modules['gpt2kit'] = None\nTEXTS = {TEXTS!r}\n{LOADED}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    logits, ids, pooled = (eval(line) for line in done.stdout.splitlines())
    assert logits == wanted_padded().astype(float).tolist()
    assert ids == wanted()
    np.testing.assert_allclose(pooled, model.predict(tf.constant(TEXTS), verbose=0), atol=1e-6)


def test_a_saved_model_refuses_what_are_no_strings(tmp_path: Path):
    served = Served()
    tf.saved_model.save(served, str(tmp_path), signatures=served.serve)
    loaded = tf.saved_model.load(str(tmp_path))
    with pytest.raises((TypeError, ValueError), match="string"):
        loaded.serve(tf.constant([1, 2]))
