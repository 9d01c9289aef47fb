"""The pieces of the algorithm: bytes as characters, words, merges, the vocabulary and its files."""

from __future__ import annotations

import hashlib
import json
import time
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2kit import GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.errors import HubError, InputError, TokenizerError
from gpt2kit.tokenization.bpe import (
    END_OF_TEXT,
    PATTERN,
    check_fit,
    merge,
    official_merges,
    read_merges,
    read_vocabulary,
    vocabulary_of,
    write_merges,
    write_vocabulary,
)
from gpt2kit.tokenization.bytes import BYTE_TO_CHAR, bytes_of, spell

# Of OpenAI's encoder.json as {token: id} sorted by id, written by json.dumps without spaces.
OFFICIAL_VOCABULARY = "a1b134a77e0a70ff8c99c6b13e6315b5515259f68c13a1f5f31be6a09579d334"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_every_byte_has_its_own_printable_character():
    assert sorted(BYTE_TO_CHAR) == list(range(256))
    assert len(set(BYTE_TO_CHAR.values())) == 256
    assert all(char.isprintable() and not char.isspace() for char in BYTE_TO_CHAR.values())
    assert {byte: BYTE_TO_CHAR[byte] for byte in (0x00, 0x0A, 0x20, 0x61, 0xAD, 0xFF)} == {
        0x00: "Ā",
        0x0A: "Ċ",
        0x20: "Ġ",
        0x61: "a",
        0xAD: "Ń",
        0xFF: "ÿ",
    }


@given(TEXT)
def test_a_text_can_be_spelled_and_read_back(text):
    assert bytes_of(spell(text)).decode() == text
    assert len(spell(text)) == len(text.encode())


@given(TEXT)
@example("it's  they'LL \t\n x\u0301 ½٣ --!?\u3000 a")
def test_the_words_of_a_text_are_the_text(text):
    assert "".join(PATTERN.findall(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello world", ["Hello", " world"]),
        ("it's they'LL", ["it", "'s", " they", "'", "LL"]),
        ("a1½ 23x", ["a", "1½", " 23", "x"]),
        ("a  b", ["a", " ", " b"]),
        ("a \n b", ["a", " \n", " b"]),
        ("a\nb", ["a", "\n", "b"]),
        ("a  ", ["a", "  "]),
        ("!? --", ["!?", " --"]),
    ],
)
def test_a_text_is_cut_into_words(text, words):
    assert PATTERN.findall(text) == words


def merge_by_looking(symbols, ranks):
    """The plainest way: find the first pair of all, join it everywhere, look again."""
    symbols = list(symbols)
    while True:
        pairs = [pair for pair in pairwise(symbols) if pair in ranks]
        if not pairs:
            return symbols
        best = min(pairs, key=ranks.__getitem__)
        joined, place = [], 0
        while place < len(symbols):
            if tuple(symbols[place : place + 2]) == best:
                joined.append("".join(best))
                place += 2
            else:
                joined.append(symbols[place])
                place += 1
        symbols = joined


@settings(max_examples=300)
@given(st.text("abc", max_size=17))
def test_merging_with_a_heap_is_merging_by_looking(word):
    ranks = {}
    for first, second in [
        ("a", "b"),
        ("b", "c"),
        ("ab", "ab"),
        ("c", "ab"),
        ("a", "a"),
        ("aa", "a"),
        ("abab", "c"),
    ]:
        ranks[first, second] = len(ranks)
    assert merge(word, ranks) == merge_by_looking(word, ranks)


@given(st.text("etaoin shrdlu", max_size=23))
@settings(max_examples=200)
def test_official_merges_on_a_heap_are_merges_by_looking(text):
    ranks = {pair: rank for rank, pair in enumerate(OFFICIAL)}
    for word in PATTERN.findall(text):
        assert merge(spell(word), ranks) == merge_by_looking(spell(word), ranks)


OFFICIAL = official_merges()


def test_a_word_of_a_million_letters_is_no_trap():
    ranks = {pair: rank for rank, pair in enumerate(OFFICIAL[:100])}
    start = time.process_time()
    assert "".join(merge("theand" * 17_000, ranks)) == "theand" * 17_000
    assert time.process_time() - start < 5


def test_the_vocabulary_that_follows_from_the_merges_is_openais():
    vocabulary = vocabulary_of(OFFICIAL)
    assert len(OFFICIAL) == 50_000
    assert len(vocabulary) == 50_257
    assert vocabulary[END_OF_TEXT] == 50_256
    assert list(vocabulary.values()) == list(range(50_257))
    written = json.dumps(vocabulary, separators=(",", ":"))
    assert hashlib.sha256(written.encode()).hexdigest() == OFFICIAL_VOCABULARY


def test_the_files_of_a_vocabulary_are_read_as_they_were_written(tmp_path):
    merges = OFFICIAL[:37]
    (tmp_path / "merges.txt").write_text(write_merges(merges), encoding="utf-8")
    (tmp_path / "vocab.json").write_text(write_vocabulary(vocabulary_of(merges)), encoding="utf-8")
    assert read_merges(tmp_path / "merges.txt") == merges
    assert read_vocabulary(tmp_path / "vocab.json") == vocabulary_of(merges)


def test_merges_without_a_version_line_and_with_windows_lines_are_read(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_bytes(b"# #\r\na b\r\n")
    assert read_merges(path) == [("#", "#"), ("a", "b")]


def write_pair(folder, vocabulary, merges):
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text(write_merges(merges), encoding="utf-8")
    return folder / "vocab.json", folder / "merges.txt"


BYTES = {char: index for index, char in enumerate(BYTE_TO_CHAR.values())}


@pytest.mark.parametrize("tokenizer", [GPT2Tokenizer, GPT2TokenizerFast])
@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        (BYTES, [("a", "b")], "needs the token 'ab'"),
        ({**BYTES, "ab": 256}, [("a", "b"), ("ab", "zz")], "needs the token 'zz'"),
        ({**BYTES, "ab": 3}, [("a", "b")], "gives the id 3 to"),
        ({**BYTES, "ab": 258}, [("a", "b")], "no token with id 256"),
        ({**BYTES, "ab": -1}, [("a", "b")], "no token with id 256|Ids must be"),
    ],
)
def test_a_vocabulary_and_merges_that_do_not_fit_are_refused(
    tmp_path, tokenizer, vocabulary, merges, message
):
    with pytest.raises(TokenizerError, match=message):
        tokenizer(*write_pair(tmp_path, vocabulary, merges))


@pytest.mark.parametrize("tokenizer", [GPT2Tokenizer, GPT2TokenizerFast])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", b"{", "is not JSON"),
        ("vocab.json", b"[1]", "is no object"),
        ("vocab.json", b'{"a": "b"}', "is no object"),
        ("vocab.json", b'{"a": true}', "is no object"),
        ("vocab.json", b"\xff", "is not UTF-8"),
        ("merges.txt", b"#version: 0.2\na b\nabc\n", "Line 3 .* 'abc'"),
        ("merges.txt", b"a b c\n", "Line 1"),
        ("merges.txt", b"#version: 0.2\n\xff\xfe \xff\n", "is not UTF-8 .byte 14"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, tokenizer, name, content, message):
    files = write_pair(tmp_path, {**BYTES, "ab": 256}, [("a", "b")])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        tokenizer(*files)


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(HubError, match=r"no\.json cannot be read"):
        GPT2Tokenizer(tmp_path / "no.json", tmp_path / "no.txt")
    with pytest.raises(OSError, match=r"no\.json cannot be read"):
        GPT2TokenizerFast(tmp_path / "no.json", tmp_path / "no.txt")


@pytest.mark.parametrize("arguments", [{}, {"vocab_file": "a"}, {"merges_file": "a"}])
def test_half_a_vocabulary_is_refused(arguments):
    with pytest.raises(InputError, match="vocab_file and merges_file"):
        GPT2TokenizerFast(**arguments)
    with pytest.raises(InputError, match="vocab_file and merges_file"):
        GPT2Tokenizer(**{"vocab_file": None, "merges_file": None, **arguments})


def test_added_tokens_may_fill_the_holes_of_a_vocabulary():
    check_fit({"a": 0, "b": 2}, [], added=[1])
    with pytest.raises(TokenizerError, match="no token with id 1"):
        check_fit({"a": 0, "b": 2}, [])


def test_a_vocabulary_that_lacks_bytes_needs_an_unknown_token(tmp_path):
    files = write_pair(tmp_path, {"a": 0, "b": 1, "ab": 2, "<unk>": 3}, [("a", "b")])
    for tokenizer in (GPT2Tokenizer, GPT2TokenizerFast):
        made = tokenizer(*files, unk_token="<unk>", bos_token="<unk>", eos_token="<unk>")
        assert made("abxab")["input_ids"] == [2, 3, 2]
        made = tokenizer(*files)  # <|endoftext|> is added, but is no token of the vocabulary
        with pytest.raises(TokenizerError, match="unk_token"):
            made("x")
