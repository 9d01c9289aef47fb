"""Texts from the graph are the texts of GPT2Tokenizer.decode: any ids, any bytes, any added tokens."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from gpt2kit import AddedToken, GPT2Tokenizer, GPT2TokenizerFast, TFGPT2Tokenizer
from gpt2kit.errors import InputError, TokenizerError

ADDED = [
    AddedToken("<é>", special=True, lstrip=True),
    AddedToken("two words", special=False, rstrip=True),
    AddedToken(" .", special=False),
]


@functools.cache
def official() -> tuple[GPT2Tokenizer, TFGPT2Tokenizer]:
    """The official tokenizer with added tokens, one of them a token of the vocabulary already."""
    tokenizer = GPT2Tokenizer.from_pretrained("gpt2", pad_token="a")
    tokenizer.add_tokens(ADDED)
    return tokenizer, TFGPT2Tokenizer.from_tokenizer(tokenizer)


@functools.cache
def in_graph(skip: bool, clean: bool) -> Any:
    decode = functools.partial(
        official()[1].decode, skip_special_tokens=skip, clean_up_tokenization_spaces=clean
    )
    return tf.function(decode, input_signature=[tf.RaggedTensorSpec([None, None], tf.int64)], autograph=False)


def texts_of(found: Any) -> list[str]:
    return [text.decode() for text in found.numpy()]


# Bytes alone are ids 0 to 255, so that most rows of those are no UTF-8; 50256 on are the added ones.
ID = st.integers(0, 255) | st.integers(0, 50259) | st.sampled_from([50256, 50257, 50258, 50259, 64, 13, 764])
ROWS = st.lists(st.lists(ID, max_size=12), max_size=6)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.booleans(), st.booleans())
@example([], False, False)
@example([[], []], True, True)
@example([[50256, 50256], [], [64]], True, False)
@example([[447, 247], [447], [247], [447, 50256, 247]], True, False)  # one character in two tokens
def test_rows_of_any_ids_have_the_texts_of_the_slow_tokenizer(rows, skip, clean):
    python, graph = official()
    wanted = python.batch_decode(rows, skip, clean)
    flat = tf.constant([index for row in rows for index in row], tf.int64)  # [N]
    ragged = tf.RaggedTensor.from_row_lengths(flat, [len(row) for row in rows])  # [B, (T)]
    assert texts_of(in_graph(skip, clean)(ragged)) == wanted
    assert texts_of(graph.decode(ragged, skip, clean)) == wanted
    for row, text in zip(rows, wanted, strict=True):
        assert graph.decode(row, skip, clean).numpy().decode() == text
    dense = np.array([row[:2] for row in rows if len(row) > 1], np.int32).reshape(-1, 2)  # [B, 2]
    assert texts_of(graph.decode(dense, skip, clean)) == python.batch_decode(dense.tolist(), skip, clean)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=6))
@example(["\x00", "It's  <|endoftext|> .", " \n\u3000", "👩🏽‍🚀\ufeff"])
def test_what_was_encoded_comes_back_as_it_was(texts):
    layer = plain()
    assert texts_of(layer.decode(layer(texts)["input_ids"])) == texts


@functools.cache
def plain() -> TFGPT2Tokenizer:
    return TFGPT2Tokenizer.from_pretrained("gpt2")


def test_every_single_token_has_its_text():
    python, graph = official()
    ids = np.arange(len(python))[:, None]  # [V, 1]
    for skip in (False, True):
        assert texts_of(graph.decode(ids, skip)) == python.batch_decode(ids.tolist(), skip, False)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=8))
@example([b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98\xff", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x80"])
def test_bytes_that_are_no_utf_8_are_read_as_python_reads_them(rows):
    python, graph = official()
    of_byte = {python.token_bytes(index): index for index in range(256)}
    ids = tf.ragged.constant([[of_byte[bytes([byte])] for byte in row] for row in rows], tf.int64, 1)
    assert texts_of(graph.decode(ids)) == [row.decode("utf-8", errors="replace") for row in rows]


def test_a_layer_of_a_fast_tokenizer_and_a_copy_of_a_layer_decode_alike():
    python, graph = official()
    fast = GPT2TokenizerFast.from_pretrained("gpt2", pad_token="a")
    fast.add_tokens(ADDED)
    rows = [[50256, 64, 50257, 50258, 15496], [50259, 13]]
    layers = [graph, TFGPT2Tokenizer.from_tokenizer(fast), TFGPT2Tokenizer.from_config(graph.get_config())]
    for layer in layers:
        assert texts_of(layer.decode(rows, True)) == python.batch_decode(rows, True, False)


REFUSED = {
    "fractions": ([1.5], "not of dtype float32"),
    "texts": (["a"], "not of dtype string"),
    "truth values": ([True], "not of dtype bool"),
    "one id": (5, r"these have the shape \(\)"),
    "a cube": ([[[1]]], r"the shape \(1, 1, 1\)"),
    "rows and ids": ([[1], 2], "in one row or several"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_are_no_rows_of_ids_is_refused(case: str):
    ids, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        official()[1].decode(ids)


@pytest.mark.parametrize("index", [-100, -1, 50260, 2**40])
def test_an_id_without_a_token_is_refused_at_once_and_in_a_graph(index: int):
    _, graph = official()
    with pytest.raises(TokenizerError, match=rf"There are ids without a token.* {index}\."):
        graph.decode([[1, 2], [3, index]])
    rows = tf.ragged.constant([[1, 2], [index]], tf.int64)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"ids without a token.*\[{index}\]"):
        in_graph(False, False)(rows)


def test_xla_has_no_strings():
    with pytest.raises(InputError, match=r"jit_compile=True cannot make texts\. Decode outside it"):
        tf.function(official()[1].decode, jit_compile=True)(tf.constant([[1, 2]]))
