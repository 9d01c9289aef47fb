"""TFGPT2Tokenizer: where it comes from, what it takes, how it cuts and fills, and what it refuses."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import keras
import tensorflow as tf

import gpt2kit.tensorflow
from gpt2kit import AutoTokenizer, GPT2Tokenizer, GPT2TokenizerFast, TFGPT2Tokenizer
from gpt2kit.errors import GPT2KitError, HubError, InputError, MissingDependencyError, TokenizerError
from gpt2kit.tensorflow.noise import without_log
from gpt2kit.tokenization.bytes import BYTE_TO_CHAR

VOCAB = {char: number for number, char in enumerate(BYTE_TO_CHAR.values())} | {
    "he": 256,
    "hel": 257,
    "lo": 258,
}
MERGES = ["h e", "he l", "l o"]
BOS, PAD = 11, 7  # of the small vocabulary: any ids will do


@functools.cache
def small(**options) -> TFGPT2Tokenizer:
    return TFGPT2Tokenizer(VOCAB, MERGES, **options)


def lists(encoding) -> dict[str, list]:
    return {
        name: value.to_list() if isinstance(value, tf.RaggedTensor) else value.numpy().tolist()
        for name, value in encoding.items()
    }


def ids_of(text: str) -> list[int]:
    """The ids of a text of single bytes."""
    return [VOCAB[BYTE_TO_CHAR[byte]] for byte in text.encode()]


# --------------------------------------------------------------------------- what comes in and goes out


def test_vocabulary_and_merges_make_a_tokenizer_as_in_4_34():
    h, el, pairs = ids_of("h")[0], [257], [tuple(merge.split()) for merge in MERGES]
    for merges in (MERGES, pairs, iter(MERGES)):
        assert lists(TFGPT2Tokenizer(VOCAB, merges)(["hello", "hh"]))["input_ids"] == [[*el, 258], [h, h]]


@pytest.mark.parametrize(
    "texts",
    [
        ["hello", "", "a"],
        ("hello", "", "a"),
        np.array(["hello", "", "a"]),
        np.array(["hello", "", "a"], dtype=object),
        np.array([b"hello", b"", b"a"]),
        [b"hello", b"", b"a"],
        ["hello", b"", "a"],
    ],
    ids=repr,
)
def test_a_batch_may_be_of_any_kind_of_strings(texts):
    found = small()(texts)
    assert {value.dtype for value in found.values()} == {tf.int32}
    assert lists(found) == {
        "input_ids": [[257, 258], [], ids_of("a")],
        "attention_mask": [[1, 1], [], [1]],
    }


@pytest.mark.parametrize("text", ["hello", b"hello", np.str_("hello"), np.array("hello")], ids=repr)
def test_one_text_gives_vectors(text):
    assert lists(small()(text)) == {"input_ids": [257, 258], "attention_mask": [1, 1]}
    padded = lists(small(pad_token_id=PAD)(text, max_length=3))
    assert padded == {"input_ids": [257, 258, PAD], "attention_mask": [1, 1, 0]}


def test_no_text_at_all_gives_no_rows():
    for texts in ([], (), tf.zeros([0], tf.string), np.zeros([0], object)):
        assert lists(small()(texts)) == {"input_ids": [], "attention_mask": []}
    found = small(pad_token_id=PAD, max_length=3)(tf.zeros([0], tf.string))
    assert {tuple(value.shape) for value in found.values()} == {(0, 3)}


def test_empty_texts_give_empty_rows():
    assert lists(small()(["", ""])) == {"input_ids": [[], []], "attention_mask": [[], []]}
    assert lists(small()("")) == {"input_ids": [], "attention_mask": []}
    found = lists(small(pad_token_id=PAD, max_length=2)(["", ""]))
    assert found == {"input_ids": [[PAD] * 2] * 2, "attention_mask": [[0] * 2] * 2}


# --------------------------------------------------------------------------- lengths

TEXTS = ["abcde", "ab", ""]


def rows(length=None, pad=None):
    ids = [ids_of(text)[:length] for text in TEXTS]
    masks = [[1] * len(row) for row in ids]
    if pad is None:
        return {"input_ids": ids, "attention_mask": masks}
    return {
        "input_ids": [row + [pad] * (length - len(row)) for row in ids],
        "attention_mask": [row + [0] * (length - len(row)) for row in masks],
    }


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_max_length_cuts_and_with_a_pad_token_fills(length):
    assert lists(small()(TEXTS, max_length=length)) == rows(length)
    assert lists(small(max_length=length)(TEXTS)) == rows(length)
    assert lists(small(pad_token_id=PAD)(TEXTS, max_length=length)) == rows(length, PAD)
    assert lists(small(pad_token_id=PAD, max_length=length)(TEXTS)) == rows(length, PAD)
    assert lists(small(pad_token_id=PAD, max_length=3)(TEXTS, max_length=length)) == rows(length, PAD)
    assert lists(small(pad_token_id=0)(TEXTS, max_length=length)) == rows(length, 0)


def test_a_pad_token_without_a_length_fills_nothing_as_in_4_34():
    assert lists(small(pad_token_id=PAD)(TEXTS)) == rows()


@pytest.mark.parametrize("side", ["padding_side", "truncation_side"])
@pytest.mark.parametrize("bos", [None, BOS])
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_sides_and_the_token_before_a_text_are_those_of_the_tokenizer(length, bos, side):
    python = GPT2Tokenizer.from_pretrained(
        "gpt2", pad_token="!", add_bos_token=bos is not None, **{side: "left"}
    )
    graph = official_with(bos is not None, side)
    texts = ["a b c d e", "a b", ""]
    if bos is not None and length == 1:  # the other tokenizer refuses: no room for a text
        assert [row[0] for row in lists(graph(texts, max_length=1))["input_ids"]] == [50256] * 3
        return
    wanted = python(texts, padding="max_length", truncation=True, max_length=length)
    assert lists(graph(texts, max_length=length)) == dict(wanted)


@functools.cache
def official_with(add_bos: bool, side: str) -> TFGPT2Tokenizer:
    options = {"pad_token": "!", "add_bos_token": add_bos, side: "left"}
    return TFGPT2Tokenizer.from_pretrained("gpt2", pad_token_id=0, **options)


# --------------------------------------------------------------------------- where it comes from


def test_it_is_made_of_either_tokenizer_and_of_a_folder(tmp_path):
    texts = ["Hello world", "it's <pad> x", " a"]
    slow = GPT2Tokenizer.from_pretrained("pocket")
    slow.add_special_tokens({"pad_token": "<pad>"})
    slow.save_pretrained(tmp_path)
    wanted = [slow(text)["input_ids"] for text in texts]
    for made in (
        TFGPT2Tokenizer.from_tokenizer(slow),
        TFGPT2Tokenizer.from_tokenizer(GPT2TokenizerFast.from_slow(slow)),
        TFGPT2Tokenizer.from_tokenizer(AutoTokenizer.from_pretrained(tmp_path)),
        TFGPT2Tokenizer.from_pretrained(tmp_path),
        TFGPT2Tokenizer.from_pretrained(str(tmp_path), name="words"),
    ):
        assert lists(made(texts))["input_ids"] == wanted
        assert made.vocab == slow.get_vocab()
        assert made.merges == [" ".join(pair) for pair in slow.bpe_ranks]
    assert made.name == "words"


def test_lengths_are_given_by_place_or_by_name_as_in_4_34():
    slow = GPT2Tokenizer.from_pretrained("pocket")
    for made in (
        TFGPT2Tokenizer.from_tokenizer(slow, 3, 5),
        TFGPT2Tokenizer.from_tokenizer(slow, max_length=3, pad_token_id=5),
        TFGPT2Tokenizer.from_pretrained("pocket", 3, 5),
        TFGPT2Tokenizer.from_pretrained("pocket", max_length=3, pad_token_id=np.int64(5)),
    ):
        assert (made.max_length, made.pad_token_id) == (3, 5)
        assert made("").items().__len__() == 2
        assert made(["", "x"])["input_ids"].shape == (2, 3)


def test_options_of_the_tokenizer_are_honoured():
    made = TFGPT2Tokenizer.from_pretrained("gpt2", add_prefix_space=True)
    assert lists(made(["world", " world", ""]))["input_ids"] == [[995], [995], []]


def test_the_arguments_are_those_of_4_34_and_then_others_by_name_only():
    def of(function):
        parameters = list(inspect.signature(function).parameters.values())
        return [(each.name, each.default) for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD]

    none = inspect.Parameter.empty
    made = [("self", none), ("vocab", none), ("merges", none), ("max_length", None), ("pad_token_id", None)]
    assert of(TFGPT2Tokenizer.__init__) == made
    assert of(TFGPT2Tokenizer.call) == [("self", none), ("x", none), ("max_length", None)]
    assert of(TFGPT2Tokenizer.from_tokenizer) == [("tokenizer", none)]
    assert of(TFGPT2Tokenizer.from_pretrained) == [("pretrained_model_name_or_path", none)]
    assert of(TFGPT2Tokenizer.from_config) == [("config", none)]


def test_the_configuration_makes_an_equal_layer_and_is_json():
    slow = GPT2Tokenizer.from_pretrained("pocket", add_prefix_space=True, add_bos_token=True)
    slow.add_tokens(["<a>"])
    made = TFGPT2Tokenizer.from_tokenizer(slow, max_length=5, pad_token_id=3, name="words")
    config = json.loads(json.dumps(made.get_config()))
    again = TFGPT2Tokenizer.from_config(config)
    assert again.get_config() == made.get_config()
    texts = ["a <a> b", ""]
    assert lists(again(texts)) == lists(made(texts))
    of_4_34 = {"vocab": VOCAB, "merges": MERGES, "max_length": None, "pad_token_id": None}
    assert lists(TFGPT2Tokenizer.from_config(of_4_34)("hello"))["input_ids"] == [257, 258]


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (3, "dtype string, not int32"),
        ([1, 2], "dtype string"),
        (tf.constant([1.5]), "dtype string, not float32"),
        ([["a"], ["b"]], r"the shape \(2, 1\)"),
        (tf.zeros([1, 2, 3], tf.string), r"the shape \(1, 2, 3\)"),
        (tf.ragged.constant([["a"], []]), "RaggedTensor"),
        (["a", 3], "alone or in one list"),
        ([["a"], ["b", "c"]], "alone or in one list"),
        (None, "alone or in one list"),
    ],
    ids=repr,
)
def test_what_are_no_texts_is_refused_in_a_sentence(texts, told):
    with pytest.raises(InputError, match=told) as caught:
        small()(texts)
    assert "Arguments received" not in str(caught.value)


def test_half_a_character_is_refused_as_by_the_other_tokenizers():
    for texts in ("a\ud800", ["a", "b\udfff"], np.array(["\ud83d"], object)):
        with pytest.raises(TokenizerError, match="lone surrogate"):
            small()(texts)


def test_strings_of_unknown_rank_are_refused():
    with pytest.raises(Exception, match="no known rank"):
        tf.function(small(), input_signature=[tf.TensorSpec(None, tf.string)])(tf.constant("a"))


@pytest.mark.parametrize("length", [0, -1, 1.5, "3", True])
def test_lengths_that_cannot_be_are_refused(length):
    with pytest.raises(InputError, match=r"^max_length is a whole number from 1 on"):
        small()("a", max_length=length)
    with pytest.raises(InputError, match=r"^max_length is a whole number from 1 on"):
        TFGPT2Tokenizer(VOCAB, MERGES, max_length=length)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pad_token_id": -1}, "pad_token_id is a whole number from 0 on"),
        ({"padding_side": "top"}, "padding_side is 'right' or 'left', not 'top'"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"merges": ["h e", "hel"]}, "Merge 1 is 'hel'"),
        ({"merges": ["x y"]}, "Vocabulary and merges are of two tokenizers"),
        ({"vocab": VOCAB | {"zz": 259, "yy": 259}}, "259"),
        ({"vocab": VOCAB | {"zz": 300}}, "no token with id 259"),
        ({"vocab": {"h": 0, "e": 1, "he": 2}, "merges": ["h e"]}, "lacks 254 of the 256 bytes"),
        ({"added_tokens": [{"id": 259, "content": ""}]}, "has an id and a text"),
        ({"added_tokens": [{"content": "<a>"}]}, "has an id and a text"),
        ({"added_tokens": [{"id": -1, "content": "<a>"}]}, "whole number from 0 on"),
        ({"vocab": {"<|endoftext|>": 0}, "merges": [], "added_tokens": []}, "lacks 256 of the 256 bytes"),
    ],
)
def test_a_tokenizer_that_cannot_be_is_refused(options, told):
    with pytest.raises(GPT2KitError, match=told):
        TFGPT2Tokenizer(**{"vocab": VOCAB, "merges": MERGES, **options})


def test_unknown_arguments_and_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_lenght"):
        TFGPT2Tokenizer(VOCAB, MERGES, max_lenght=3)
    with pytest.raises(TypeError, match="max_lenght"):
        TFGPT2Tokenizer.from_pretrained("gpt2", max_lenght=3)
    with pytest.raises(HubError):
        TFGPT2Tokenizer.from_pretrained(tmp_path / "nothing")
    with pytest.raises(TokenizerError, match="not of dict"):
        TFGPT2Tokenizer.from_tokenizer({})


def test_a_tokenizer_that_changes_texts_first_is_refused():
    from tokenizers import normalizers

    fast = GPT2TokenizerFast.from_pretrained("gpt2")
    fast.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(TokenizerError, match="Lowercase"):
        TFGPT2Tokenizer.from_tokenizer(fast)


# --------------------------------------------------------------------------- how it starts

USE = (
    "import gpt2kit; print(gpt2kit.TFGPT2Tokenizer.from_pretrained('pocket')(['a', 'b'])['input_ids'].shape)"
)


def started(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    hidden = ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND")
    given = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env=given | environment)


def test_tensorflow_starts_without_a_word_and_the_environment_is_as_before():
    done = started(f"import os; before = dict(os.environ); {USE}; print(before.items() ^ os.environ.items())")
    assert (done.returncode, done.stderr) == (0, "")
    changed = done.stdout.splitlines()[-1]
    assert "TF_CPP_MIN_LOG_LEVEL" not in changed


def test_a_log_level_of_the_user_stays():
    program = "import gpt2kit.tensorflow, os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    done = started(program, TF_CPP_MIN_LOG_LEVEL="0")
    assert done.stdout == "0\n"
    assert "cpu_feature_guard" in done.stderr  # told on every machine, at this level


def test_only_the_log_is_kept_off():
    log = (
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        b"I0000 00:00:1795471394.951714   11913 port.cc:153] oneDNN custom operations are on.\n"
        b"2026-11-23 22:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.\n"
        b"To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.\n"
    )
    assert without_log(log + b"Traceback: mine\n" + log + b"half a li") == b"Traceback: mine\nhalf a li"


def test_another_backend_of_keras_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(MissingDependencyError, match="Keras computes with jax here"):
        importlib.reload(gpt2kit.tensorflow)


def test_a_layer_of_another_dtype_policy_gives_the_same_ids():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert lists(TFGPT2Tokenizer(VOCAB, MERGES)("hello"))["input_ids"] == [257, 258]
    finally:
        keras.config.set_dtype_policy(before)
