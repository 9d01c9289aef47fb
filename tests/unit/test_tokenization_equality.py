"""The slow and the fast tokenizer are equal: ids, tokens, text, whatever is asked of a call."""

from __future__ import annotations

import functools
import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gpt2kit import AddedToken, GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.errors import GPT2KitError, TokenizerError
from gpt2kit.tokenization.bpe import official_merges, vocabulary_of, write_merges, write_vocabulary

TWO = (GPT2Tokenizer, GPT2TokenizerFast)

# Pieces that tokenizers stumble over, beside any text at all.
PIECES = [
    *"ab 1'\n\t.<>|_",
    *("  ", "\r\n", "'s", "'LL", " x", "\u00a0", "\u3000", "\u0085", "\x1c", "\u180e", "\ufeff", "\x00"),
    *("é", "e\u0301", "中文", "ภาษา", "한국", "١٢", "½", "ß", "ǅ", "👩🏽‍🚀", "🇩🇪", "\U0010ffff"),
    *("<|endoftext|>", "<a>", "<a><a>", "foo", "foo bar", "swords"),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TRICKY = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
ANY = TEXT | TRICKY
ADDED = ["<a>", "foo", "foo bar", "ab", "a", "a ", " a", "<a><", "1", "é", "中", ". ", "'s", "\u0301", "word"]
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
thorough = settings(max_examples=300, deadline=None)


@functools.cache
def shared(**options):
    """Both tokenizers of gpt2, made once."""
    return tuple(kind.from_pretrained("gpt2", pad_token="<pad>", **options) for kind in TWO)


@functools.cache
def small():
    """Both tokenizers with few merges, to be copied quickly."""
    merges = official_merges()[:300]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(write_vocabulary(vocabulary_of(merges)), encoding="utf-8")
        (folder / "merges.txt").write_text(write_merges(merges), encoding="utf-8")
        return tuple(pickle.dumps(kind(folder / "vocab.json", folder / "merges.txt")) for kind in TWO)


@thorough
@given(ANY, st.booleans())
@example("It's  they'LL \t\n x\u0301 ½٣ --!?\u3000 a<|endoftext|> b", True)
def test_ids_tokens_and_text_are_equal(text, prefix):
    slow, fast = shared(add_prefix_space=prefix)
    ids = slow(text)["input_ids"]
    assert ids == fast(text)["input_ids"]
    assert slow.tokenize(text) == fast.tokenize(text) == slow.convert_ids_to_tokens(ids)
    for skip in (False, True):
        for clean in (False, True):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert slow.decode(ids, **options) == fast.decode(ids, **options)
    if not prefix:
        assert slow.decode(ids, clean_up_tokenization_spaces=False) == text


@thorough
@given(st.lists(st.integers(0, 50257), max_size=12), st.booleans(), st.booleans(), st.booleans())
def test_any_ids_decode_to_the_same_text(ids, skip, clean, spaces):
    slow, fast = shared()
    assert slow.decode(ids, skip, clean, spaces) == fast.decode(ids, skip, clean, spaces)
    assert slow.convert_ids_to_tokens(ids, skip) == fast.convert_ids_to_tokens(ids, skip)
    tokens = slow.convert_ids_to_tokens(ids)
    assert slow.convert_tokens_to_ids(tokens) == fast.convert_tokens_to_ids(tokens) == ids
    assert slow.convert_tokens_to_string(tokens) == fast.convert_tokens_to_string(tokens)


@thorough
@given(st.lists(st.integers(0, 50256).filter(lambda index: index != 50256), max_size=12))
def test_bytes_that_are_no_utf8_are_read_as_the_library_reads_them(ids):
    slow, fast = shared()
    library = fast.backend_tokenizer.decode(ids, skip_special_tokens=False)
    assert slow.decode(ids, clean_up_tokenization_spaces=False) == library


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_added_tokens_with_any_flags_are_found_alike(data):
    slow, fast = map(pickle.loads, small())
    contents = data.draw(st.lists(st.sampled_from(ADDED), max_size=5))
    special = data.draw(st.booleans())
    for content in contents:
        flags = {flag: data.draw(st.booleans()) for flag in FLAGS}
        for tokenizer in (slow, fast):
            tokenizer.add_tokens([AddedToken(content, **flags)], special_tokens=special)
    for tokenizer in (slow, fast):
        tokenizer.add_prefix_space = data.draw(st.shared(st.booleans(), key="prefix"))
        tokenizer.split_special_tokens = data.draw(st.shared(st.booleans(), key="split"))
    assert slow.get_vocab() == fast.get_vocab()
    assert slow.added_tokens_decoder == fast.added_tokens_decoder
    assert slow.special_tokens_map == fast.special_tokens_map
    assert len(slow) == len(fast)
    for text in data.draw(st.lists(TRICKY, min_size=3, max_size=7)):
        ids = slow(text)["input_ids"]
        assert ids == fast(text)["input_ids"]
        assert slow.tokenize(text) == fast.tokenize(text)
        assert slow.decode(ids) == fast.decode(ids)
        assert slow.decode(ids, skip_special_tokens=True) == fast.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("tokens", "text", "found"),
    [
        ({"ab": {}, "a": {}, "abc": {}}, "xabcab", ["x", "abc", "ab"]),  # the longest
        ({"ab": {}, "bcd": {}}, "abcd", ["ab", "c", "d"]),  # the leftmost, though it is shorter
        ({"<a>": {"normalized": False}, "x<a>": {}}, "x<a>", ["x", "<a>"]),  # those not normalized first
        ({"<a>": {"rstrip": True}, "<b>": {"lstrip": True}}, "x <a>  <b> y", ["x", "Ġ", "<a>", "<b>", "Ġy"]),
        ({"<a>": {"lstrip": True, "rstrip": True}}, "x \n<a>\u3000\ty", ["x", "<a>", "y"]),
        (
            {"<a>": {"single_word": True}},
            "<a> b<a> <a>_ (<a>)",
            ["<a>", "Ġb", "<", "a", ">", "Ġ", "<", "a", ">", "_"],
        ),
    ],
)
def test_added_tokens_are_found_by_these_rules(tokens, text, found):
    slow, fast = map(pickle.loads, small())
    for tokenizer in (slow, fast):
        tokenizer.add_tokens([AddedToken(content, **flags) for content, flags in tokens.items()])
    assert slow.tokenize(text) == fast.tokenize(text)
    assert slow.tokenize(text)[: len(found)] == found


CALLS = st.fixed_dictionaries(
    {
        "padding": st.sampled_from([False, True, "max_length", "longest", "do_not_pad"]),
        "truncation": st.sampled_from([None, False, True, "only_first", "only_second", "longest_first"]),
        "max_length": st.sampled_from([None, 0, 1, 2, 3, 5, 8, 11, 12]),
        "pad_to_multiple_of": st.sampled_from([None, None, 4]),
        "add_special_tokens": st.booleans(),
        "return_token_type_ids": st.sampled_from([None, True]),
        "return_attention_mask": st.sampled_from([None, False, True]),
        "return_special_tokens_mask": st.booleans(),
        "return_length": st.booleans(),
    }
)


def outcome(tokenizer, texts, pairs, options):
    try:
        return dict(tokenizer(texts, pairs, verbose=False, **options))
    except GPT2KitError as error:
        return type(error)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(TRICKY, TRICKY), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["left", "right"]),
    st.sampled_from(["left", "right"]),
    CALLS,
)
def test_calls_are_equal(rows, with_pairs, bos, padding_side, truncation_side, options):
    slow, fast = shared(model_max_length=7)
    for tokenizer in (slow, fast):
        tokenizer.add_bos_token = bos
        tokenizer.padding_side, tokenizer.truncation_side = padding_side, truncation_side
    texts = [text for text, _ in rows]
    pairs = [pair for _, pair in rows] if with_pairs else None
    assert outcome(slow, texts, pairs, options) == outcome(fast, texts, pairs, options)
    one = (texts[0], pairs[0] if pairs else None)
    assert outcome(slow, *one, options) == outcome(fast, *one, options)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(ANY, max_size=4), min_size=1, max_size=3))
def test_split_words_are_equal(batch):
    slow, fast = shared(add_prefix_space=True)
    options = {"is_split_into_words": True, "return_token_type_ids": True}
    assert dict(slow(batch, **options)) == dict(fast(batch, **options))
    assert dict(slow(batch, batch[::-1], **options)) == dict(fast(batch, batch[::-1], **options))
    assume(batch[0])
    assert dict(slow(batch[0], **options)) == dict(fast(batch[0], **options))


@settings(max_examples=100, deadline=None)
@given(ANY, st.integers(3, 9), st.integers(0, 2), st.sampled_from(["left", "right"]))
def test_windows_of_the_fast_one_cover_the_ids_of_the_slow_one(text, max_length, stride, side):
    slow, fast = shared()
    for tokenizer in (slow, fast):
        tokenizer.add_bos_token, tokenizer.truncation_side, tokenizer.padding_side = False, side, "right"
    ids = slow(text, verbose=False)["input_ids"]
    cut = {"truncation": True, "max_length": max_length, "stride": stride, "return_overflowing_tokens": True}
    windows = fast(text, **cut)["input_ids"]
    one = slow(text, **cut)
    assert windows[0] == one["input_ids"]
    assert one["num_truncated_tokens"] == len(ids) - max_length
    extra = stride if len(ids) > max_length else 0
    assert len(one["overflowing_tokens"]) == max(len(ids) - max_length, 0) + extra
    ordered = windows if side == "right" else windows[::-1]
    joined = list(ordered[0])
    for window in ordered[1:]:
        joined += window[stride:]
    if side == "right":
        assert joined == ids


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "ok \ud83d"])
def test_a_lone_surrogate_is_refused_by_both(text):
    slow, fast = shared()
    for tokenizer in (slow, fast):
        for call in (tokenizer, tokenizer.encode, tokenizer.tokenize, lambda text: tokenizer([text])):  # noqa: B023
            with pytest.raises(TokenizerError, match="lone surrogate"):
                call(text)
