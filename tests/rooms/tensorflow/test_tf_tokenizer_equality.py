"""Ids from the graph are the ids of GPT2Tokenizer: any text, any bytes, any merges, any added tokens."""

from __future__ import annotations

import functools
import json
import os
import random
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from gpt2kit import AddedToken, GPT2Tokenizer, GPT2TokenizerFast, TFGPT2Tokenizer
from gpt2kit.tensorflow import added, merges
from gpt2kit.tensorflow.character import IN_WORD, KIND, LETTER, NUMBER, OTHER, SPACE, kinds
from gpt2kit.tensorflow.words import Words
from gpt2kit.tokenization.added import WORD
from gpt2kit.tokenization.bpe import (
    PATTERN,
    merge,
    official_merges,
    vocabulary_of,
    write_merges,
    write_vocabulary,
)
from gpt2kit.tokenization.bytes import BYTE_TO_CHAR

GOLDEN = Path(__file__).parents[2] / "golden" / "tokenization"
PIECES = [
    *"abdst 1'\n\t.<>|_",
    *(
        "  ",
        "\r\n",
        " \n ",
        "\n\n",
        "\u00a0",
        "\u3000",
        "\u0085",
        "\x1c",
        "\u180e",
        "\u2028",
        "\u200b",
        "\ufeff",
        "\x00",
    ),
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'LL", "''", " '", "'é", "sre", "'v", "'l", "'r"),
    *(
        "é",
        "e\u0301",
        "中文",
        "ภาษา",
        "한국",
        "١٢",
        "½",
        "ß",
        "ǅ",
        "Ⅷ",
        "👩🏽‍🚀",
        "🇩🇪",
        "\U0010ffff",
        "\ue000",
    ),
    *("<|endoftext|>", "<|endoftext|", "<a>", "<a><a>", "foo", "foo bar", "swords"),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TRICKY = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
WHITE = st.text(st.sampled_from(" \t\n\r\x0b\x0c\x1c\u0085\u00a0\u2003\u3000a1.'"), max_size=20)
BATCH = st.lists(TEXT | TRICKY | WHITE, max_size=8)
BYTES = st.lists(
    st.binary(max_size=6)
    | st.sampled_from([b"\xed\xa0\x80", b"\xf0\x9f", b"\xe2\x82", b"\xc0\xaf", b"a", b" ", b"\xff"])
).map(b"".join)
thorough = settings(max_examples=100, deadline=None)


@functools.cache
def official() -> tuple[GPT2Tokenizer, TFGPT2Tokenizer]:
    tokenizer = GPT2Tokenizer.from_pretrained("gpt2")
    return tokenizer, TFGPT2Tokenizer.from_tokenizer(tokenizer)


def ids_of(tokenizer: GPT2Tokenizer, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text, verbose=False)["input_ids"] for text in texts]


def check(texts: list[str]) -> None:
    """Compare a batch, and each text by itself."""
    python, graph = official()
    wanted = ids_of(python, texts)
    found = graph(texts)
    assert found["input_ids"].to_list() == wanted
    assert found["attention_mask"].to_list() == [[1] * len(row) for row in wanted]
    if texts:
        assert graph(texts[0])["input_ids"].numpy().tolist() == wanted[0]


# --------------------------------------------------------------------------- texts


@thorough
@given(BATCH)
@example(["It's  they'LL \t\n x\u0301 ½٣ --!?\u3000 a<|endoftext|> b", "", " ", "  "])
@example(["'s's 's\n's'so 'so", "'", "'l", "l'll", "'lll", "''ll"])
@example([])
@example(["", ""])
@example(["\x00", "a\x00 b", "\x00\x00 "])
def test_a_batch_of_texts_has_the_ids_of_the_slow_tokenizer(texts):
    check(texts)


@thorough
@given(st.lists(BYTES, max_size=6))
@example(
    [
        b"\xed\xa0\x80",
        b"\xed\xa0\xbd\xed\xb8\x80",
        b"\xf4\x90\x80\x80",
        b"\xef\xbb\xbfa",
        b"a\xc3",
        b"\xf0\x9f\x98",
    ]
)
def test_bytes_that_are_no_utf8_are_read_as_replacement_characters(rows):
    python, graph = official()
    wanted = ids_of(python, [row.decode("utf-8", errors="replace") for row in rows])
    assert graph(tf.constant(rows, tf.string))["input_ids"].to_list() == wanted


@pytest.mark.parametrize("plane", [0, 1, 2, 3, 14, 16])  # the others have no characters, or private ones
def test_every_character_is_of_the_kind_that_python_says(plane):
    """After a letter, before a number, and after a space: the words tell which of the kinds it is."""
    texts = [
        "".join(f"a{chr(code)}1 {chr(code)}" for code in range(start, start + 0x100))
        for start in range(plane << 16, (plane + 1) << 16, 0x100)
        if not 0xD800 <= start < 0xE000
    ]
    words, number = tf.function(Words().cut)(tf.constant(texts), tf.zeros([len(texts)], tf.bool))
    wanted = [PATTERN.findall(text) for text in texts]
    assert words.numpy().tolist() == [word.encode() for row in wanted for word in row]
    assert number.numpy().tolist() == [place for place, row in enumerate(wanted) for _ in row]


def test_the_table_has_the_kind_of_every_character():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for kind, pattern in (
        (LETTER, r"\p{L}"),
        (NUMBER, r"\p{N}"),
        (SPACE, r"\s"),
        (OTHER, r"[^\s\p{L}\p{N}]"),
    ):
        places = [match.start() for match in regex.finditer(pattern, every)]
        assert np.flatnonzero(kinds() & KIND == kind).tolist() == places


def test_the_expressions_for_white_space_and_word_characters_have_all_of_them():
    codes = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    chars = tf.constant([chr(code) for code in codes])
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for expression, pattern, table in (
        (added._IN_WORD, WORD, kinds() & IN_WORD > 0),
        (added._SPACE, r"\s", kinds() & KIND == SPACE),
    ):
        wanted = np.zeros(len(every), bool)
        wanted[[match.start() for match in regex.finditer(pattern, every)]] = True
        np.testing.assert_array_equal(table, wanted)
        np.testing.assert_array_equal(tf.strings.regex_full_match(chars, expression).numpy(), wanted[codes])


def vectors():
    whole = json.loads((GOLDEN / "vectors.json").read_text(encoding="utf-8"))
    return [vector for part in whole.values() for vector in part["vectors"]]


def test_vectors_of_llama_cpp_and_tiktoken():
    _, graph = official()
    texts = [vector["text"] for vector in vectors()]
    assert len(texts) > 50
    assert graph(texts)["input_ids"].to_list() == [vector["ids"] for vector in vectors()]


BULK = json.loads((GOLDEN / "bulk_counts.json").read_text(encoding="utf-8"))["files"]


@pytest.mark.parametrize("name", BULK)
def test_whole_files_are_encoded_as_by_tiktoken(name):
    folder = os.environ.get("GPT2KIT_MATERIAL")
    if not folder:
        pytest.skip("GPT2KIT_MATERIAL names no folder with the texts that tiktoken has encoded")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    ids = official()[1](path.read_bytes())["input_ids"].numpy()
    assert len(ids) == BULK[name]["tokens"]
    assert sha256(ids.astype("<u2").tobytes()).hexdigest() == BULK[name]["sha256"]


# --------------------------------------------------------------------------- merges


def table_of(pairs):
    """Vocabulary of the bytes and of what the merges make."""
    tokens = [*BYTE_TO_CHAR.values(), *(first + second for first, second in pairs)]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def drawn(seed: int, *, trained: bool):
    """Merges over two letters. Trained ones come after what they are made of, and make what is new."""
    draw = random.Random(seed)
    letters, pairs = ["a", "b"], []
    while len(pairs) < 23:
        first, second = draw.choice(letters), draw.choice(letters)
        is_new = first + second not in letters
        if (first, second) in pairs or len(first + second) > 11 or (trained and not is_new):
            continue
        pairs.append((first, second))
        letters += [first + second] if is_new else []
    if not trained:
        draw.shuffle(pairs)
    return pairs


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_any_merges_join_any_words_as_one_word_at_a_time(seed, trained):
    """The words are of up to many blocks; where merges are not trained, some rank falls."""
    pairs = drawn(seed, trained=trained)
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    assert merges.never_falls(ranks) == trained
    vocab = table_of(pairs)
    part = merges.Merges(vocab, pairs, None)
    draw = random.Random(seed + 100)
    words = ["".join(draw.choices("ab", (draw.random(), 0.3), k=draw.randint(1, 23))) for _ in range(300)]
    words += ["".join(draw.choices("ab", (share, 1), k=7 * part._block + 5)) for share in (1, 5, 50)]
    words += ["a" * (5 * part._block + 3), "b" + "a" * 299, "ab" * 151, "aab" * 97, ""]
    encode = tf.function(part.encode, autograph=False)
    found = encode(tf.constant(words), tf.fill([len(words)], -1)).to_list()
    assert found == [[vocab[token] for token in merge(word, ranks)] for word in words]


LONG = {
    "letters": "".join(random.Random(1).choices("etaoinshrdlu", k=20_011)),
    "one letter": "a" * 20_011,
    "two letters": "ab" * 10_007,
    "spaces": " " * 20_011 + "a",
    "newlines": "\n" * 20_011,
    "marks": "".join(random.Random(2).choices("!?.-=_", k=20_011)),
    "Chinese": "".join(random.Random(3).choices("的一是不了人我在有他", k=7_001)),
}


@pytest.mark.parametrize("name", LONG)
def test_a_word_of_many_thousand_letters_is_merged_exactly(name):
    check([LONG[name], "a short one beside it"])


def test_the_time_of_a_long_word_grows_with_its_length_only():
    _, graph = official()
    draw = random.Random(5)
    seconds = []
    for count in (10_000, 80_000):
        text = tf.constant("".join(draw.choices("etaoinshrdlu", k=count)))
        graph(text)
        start = time.process_time()
        graph(text)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 8 * 3 * seconds[0]  # quadratic would be 64


def test_a_vocabulary_without_a_byte_has_the_unknown_token_for_it():
    vocab = {char: number for number, char in enumerate(BYTE_TO_CHAR.values()) if number < 200}
    vocab["<|endoftext|>"] = 200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(write_vocabulary(vocab), encoding="utf-8")
        (folder / "merges.txt").write_text(write_merges([]), encoding="utf-8")
        python = GPT2Tokenizer(folder / "vocab.json", folder / "merges.txt")
    texts = ["a b\n", "é", "\x00"]
    assert 200 in ids_of(python, texts)[0]
    assert TFGPT2Tokenizer.from_tokenizer(python)(texts)["input_ids"].to_list() == ids_of(python, texts)
    assert TFGPT2Tokenizer(vocab, [])(texts)["input_ids"].to_list() == ids_of(python, texts)


# --------------------------------------------------------------------------- added tokens and options

ADDED = [
    "<a>",
    "foo",
    "foo bar",
    "ab",
    "a",
    "a ",
    " a",
    "<a><",
    "1",
    "é",
    "中",
    ". ",
    "'s",
    "\u0301",
    "word",
    "  ",
    "\x00",
]
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


@functools.cache
def few_merges() -> tuple[Path, Path]:
    folder = Path(tempfile.mkdtemp())
    pairs = official_merges()[:50]
    (folder / "vocab.json").write_text(write_vocabulary(vocabulary_of(pairs)), encoding="utf-8")
    (folder / "merges.txt").write_text(write_merges(pairs), encoding="utf-8")
    return folder / "vocab.json", folder / "merges.txt"


def random_texts(draw: random.Random, count: int) -> list[str]:
    pieces = [*PIECES, *ADDED]
    return ["".join(draw.choices(pieces, k=draw.randint(0, 12))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(7))
def test_added_tokens_with_any_flags_are_found_as_by_both_tokenizers(seed):
    draw = random.Random(seed)
    options = {
        name: draw.random() < 0.4 for name in ("add_prefix_space", "split_special_tokens", "add_bos_token")
    }
    python = GPT2Tokenizer(*few_merges(), **options)
    for content in draw.sample(ADDED, draw.randint(0, 6)):
        flags = {flag: draw.random() < 0.4 for flag in FLAGS}
        python.add_tokens([AddedToken(content, **flags)], special_tokens=draw.random() < 0.4)
    texts = random_texts(draw, 500)
    wanted = ids_of(python, texts)
    source = GPT2TokenizerFast.from_slow(python) if seed % 3 == 0 else python
    assert TFGPT2Tokenizer.from_tokenizer(source)(texts)["input_ids"].to_list() == wanted


def test_end_of_text_in_a_text_is_one_token():
    _, graph = official()
    assert graph("a<|endoftext|> b<|endoftext|>")["input_ids"].numpy().tolist() == [64, 50256, 275, 50256]
