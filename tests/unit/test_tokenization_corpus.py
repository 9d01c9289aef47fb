"""Large files: pieces whose tokens are those of the whole, in bounded memory, refusals."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2kit import AddedToken, GPT2TokenizerFast
from gpt2kit.errors import HubError, InputError, TokenizerError
from gpt2kit.tokenization.bpe import official_merges, vocabulary_of, write_merges, write_vocabulary
from gpt2kit.tokenization.corpus import read_pieces

PIECES = [
    *"ab 1'\n\t.<>|_",
    *(
        "  ",
        "\r\n",
        "'s",
        " x",
        "\u00a0",
        "\u3000",
        "\x85",
        "\x1c",
        "é",
        "e\u0301",
        "中",
        "中。",
        "あ、",
        "ภาษา",
        "👩🏽‍🚀",
    ),
    *("<|endoftext|>", "<a>", "<a><a>", "foo", "foo bar"),
]
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
    "中。",
    ". ",
    "x\n",
    "'s",
    "\n",
    "  ",
]
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tokenizer with few merges, to be copied quickly."""
    folder = tmp_path_factory.mktemp("small")
    merges = official_merges()[:300]
    (folder / "vocab.json").write_text(write_vocabulary(vocabulary_of(merges)), encoding="utf-8")
    (folder / "merges.txt").write_text(write_merges(merges), encoding="utf-8")
    return pickle.dumps(GPT2TokenizerFast(folder / "vocab.json", folder / "merges.txt"))


@pytest.fixture(scope="module")
def fast():
    return GPT2TokenizerFast.from_pretrained("gpt2")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("text") / "text.txt"


def joined(chunks):
    return [int(index) for chunk in chunks for index in chunk]


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    chunk=st.sampled_from([1, 2, 3, 7, 20]),
    prefix=st.booleans(),
    tokens=st.lists(
        st.tuples(st.sampled_from(ADDED), st.fixed_dictionaries(dict.fromkeys(FLAGS, st.booleans()))),
        max_size=3,
    ),
)
@example("a foo bar b foo bar c" * 3, 1, False, [("foo bar", {})])
@example("x<a>  y <a> z" * 3, 1, False, [("<a>", {"rstrip": True})])
@example("a \n<a>b c\n\nd" * 3, 1, True, [("<a>", {"lstrip": True})])
@example("<|endoftext|> a<|endoftext|>\nb" * 3, 2, False, [])
def test_the_ids_of_a_file_are_those_of_its_text(small, path, text, chunk, prefix, tokens):
    tokenizer = pickle.loads(small)
    tokenizer.add_prefix_space = prefix
    for content, flags in tokens:
        tokenizer.add_tokens([AddedToken(content, **flags)])
    path.write_bytes(text.encode())
    whole = tokenizer.encode(text, add_special_tokens=False)
    assert joined(tokenizer.encode_file(path, chunk_bytes=chunk, workers=2)) == whole


def test_a_text_is_cut_often_enough(path, fast):
    """Otherwise the test above would prove nothing, and the memory would not be bounded."""
    english = "It's the end, they said.\n\nHe didn't  answer <|endoftext|> " * 97
    chinese = "我们今天去公园，天气很好。她说、好的。" * 97
    for text in (english, chinese):
        path.write_bytes(text.encode())
        pieces = list(read_pieces(path, 101, ("<|endoftext|>",)))
        assert "".join(pieces) == text
        assert max(len(piece.encode()) for piece in pieces) < 303
    path.write_bytes(english.encode())
    pieces = list(read_pieces(path, 5, ("<|endoftext|>",)))  # read in bits shorter than the added token
    assert max(map(len, pieces)) < 37
    path.write_bytes(b"a" * 10_007)
    assert len(list(read_pieces(path, 101))) == 1  # one word cannot be cut
    assert joined(fast.encode_file(path, chunk_bytes=101)) == fast.encode("a" * 10_007, verbose=False)


def test_a_mistake_in_the_cuts_would_be_seen(path, small, monkeypatch):
    monkeypatch.setattr("gpt2kit.tokenization.corpus._touches", lambda *_: False)
    tokenizer = pickle.loads(small)
    tokenizer.add_tokens(["foo bar"])
    path.write_bytes(b"a foo bar b " * 7)
    whole = tokenizer.encode("a foo bar b " * 7, add_special_tokens=False)
    assert any(joined(tokenizer.encode_file(path, chunk_bytes=size)) != whole for size in range(1, 20))


def test_ids_come_in_the_smallest_type_that_holds_them(path, fast, small):
    path.write_bytes(b"Hello world")
    (chunk,) = fast.encode_file(path)
    assert (chunk.dtype, chunk.tolist()) == (np.uint16, [15496, 995])
    wide = pickle.loads(small)
    wide.add_tokens([f"<{number}>" for number in range(2**16)])
    path.write_bytes(b"a<65535>")
    (chunk,) = wide.encode_file(path)
    assert (chunk.dtype, chunk.tolist()) == (np.uint32, [64, len(wide) - 1])


def test_an_empty_file_has_no_ids(path, fast):
    path.write_bytes(b"")
    assert list(fast.encode_file(path)) == []


def test_line_ends_and_marks_are_kept(path, fast):
    text = "\ufeffa\r\nb\rc\u2028d"
    path.write_bytes(text.encode())
    assert fast.decode(joined(fast.encode_file(path)), clean_up_tokenization_spaces=False) == text


def test_memory_does_not_grow_with_the_file(path, fast):
    path.write_bytes(b"some words of a line\n" * 100_000)  # 2 MB
    tracemalloc.start()
    tokens = sum(len(chunk) for chunk in fast.encode_file(path, chunk_bytes=2**14, workers=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tokens == 600_000
    assert peak < 1_000_000


def test_whoever_stops_early_gets_no_error(path, fast):
    path.write_bytes(b"some words of a line\n" * 10_000)
    chunks = fast.encode_file(path, chunk_bytes=1000, workers=2)
    assert len(next(chunks)) > 0
    chunks.close()


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"abc\xff", 3),
        (b"a" * 10 + b"\xe2\x82", 10),
        (b"a" * 7 + b"\xe2\x82A", 7),
        (b"\x80", 0),
        (b"a" * 8 + b"\xc0\xaf", 8),
    ],
)
def test_a_file_that_is_not_utf8_is_refused_with_the_place(path, fast, data, place):
    path.write_bytes(data)
    for chunk in (1, 3, 4, 100):
        with pytest.raises(TokenizerError, match=f"not UTF-8: byte {place} "):
            list(fast.encode_file(path, chunk_bytes=chunk))


def test_what_cannot_be_done_is_refused(path, tmp_path, small):
    tokenizer = pickle.loads(small)
    with pytest.raises(HubError, match="cannot be read"):
        list(tokenizer.encode_file(tmp_path / "nothing.txt"))
    for options in ({"workers": 0}, {"chunk_bytes": 0}):
        with pytest.raises(InputError, match="1 or more"):
            tokenizer.encode_file(path, **options)
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    with pytest.raises(TokenizerError, match="Encode it whole"):
        tokenizer.encode_file(path)
