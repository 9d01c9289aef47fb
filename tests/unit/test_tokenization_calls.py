"""Calls: what is refused and with which words, what is logged, special tokens, ids, copies."""

from __future__ import annotations

import copy
import logging
import pickle
import threading

import pytest

from gpt2kit import AddedToken, BatchEncoding, GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.errors import InputError, LengthError, TokenizerError

KINDS = [GPT2Tokenizer, GPT2TokenizerFast]
LOADED = {kind: kind.from_pretrained("gpt2") for kind in KINDS}
PADDED = {kind: kind.from_pretrained("gpt2", pad_token="<pad>") for kind in KINDS}


@pytest.fixture(params=KINDS, ids=["slow", "fast"])
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(kind):
    """One that a test may change."""
    return copy.deepcopy(LOADED[kind])


# ---- what is refused


@pytest.mark.parametrize(
    "text", [None, 5, b"bytes", 1.5, {"a": 1}, ["a", None], ["a", 5], [b"x"], [1, 2], [[1]]]
)
def test_what_is_no_text_is_refused(kind, text):
    with pytest.raises(TokenizerError, match="text"):
        LOADED[kind](text)


@pytest.mark.parametrize("text", [None, 5, b"bytes", [1, "a"], [b"x"], [True]])
def test_encode_refuses_what_is_no_text_nor_ids(kind, text):
    with pytest.raises(TokenizerError, match="text"):
        LOADED[kind].encode(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncate": True}, "no argument 'truncate'. It is `truncation`"),
        ({"pad_to_max_length": True}, "padding='max_length'"),
        ({"return_tensor": "pt"}, "no argument 'return_tensor'"),
        ({"padding": "longst"}, "padding='longst' is unknown"),
        ({"padding": None}, "padding=None is unknown"),
        ({"truncation": "first"}, "truncation='first' is unknown"),
        ({"max_length": -1}, "max_length is -1"),
        ({"max_length": 2.5}, "max_length is 2.5"),
        ({"max_length": True}, "max_length is True"),
        ({"max_length": "two"}, "max_length is 'two'"),
        ({"max_length": float("inf")}, "max_length is inf"),
        ({"stride": -1}, "stride is -1"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"return_tensors": "torch"}, "return_tensors='torch' is unknown"),
        (
            {"truncation": True, "max_length": 4, "stride": 4},
            "stride=4 must be less than the room for tokens, 4",
        ),
        ({"text_pair": ["b"]}, "must be a list of 2 too"),
        ({"text_pair": "b"}, "must be a list of 2 too"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused(kind, options, message):
    with pytest.raises(InputError, match=message):
        PADDED[kind](["a b c d e f", "g"], **options)


def test_an_unknown_argument_of_the_constructor_is_refused(kind):
    with pytest.raises(TypeError, match="no argument 'lowercase'"):
        kind.from_pretrained("gpt2", lowercase=True)
    with pytest.raises(InputError, match="padding_side is 'top'"):
        kind.from_pretrained("gpt2", padding_side="top")


@pytest.mark.parametrize("name", ["padding_side", "truncation_side"])
def test_a_side_that_is_none_is_refused_where_it_is_used(tokenizer, name):
    setattr(tokenizer, name, "top")
    with pytest.raises(InputError, match=f"{name} is 'top'"):
        tokenizer("a b c", truncation=True, max_length=2)
    with pytest.raises(InputError, match=f"{name} is 'top'"):
        tokenizer.pad({"input_ids": [[1], [2, 3]]})


def test_an_empty_special_token_is_refused_and_as_a_role_of_the_constructor_none(kind, tokenizer):
    for roles in ({"pad_token": ""}, {"pad_token": AddedToken("")}, {"additional_special_tokens": [""]}):
        with pytest.raises(InputError, match="special token is empty"):
            tokenizer.add_special_tokens(roles)
    assert tokenizer("a b")["input_ids"] == [64, 275]
    without = kind.from_pretrained("gpt2", pad_token="", sep_token=AddedToken(""))
    assert (without.pad_token, without.sep_token) == (None, None)
    assert without("a b")["input_ids"] == [64, 275]


def test_padding_without_a_token_says_how_to_get_one(kind):
    with pytest.raises(
        ValueError, match=r"Asking to pad .* `pad_token` `\(tokenizer.pad_token = tokenizer.eos_token"
    ):
        LOADED[kind](["a", "b c"], padding=True)


def test_truncation_that_cannot_be_done_is_refused(kind):
    for strategy in ("only_first", "only_second"):
        with pytest.raises(LengthError, match=strategy):
            LOADED[kind]("a b", "c d", truncation=strategy, max_length=2)
    with pytest.raises(LengthError, match="second"):
        LOADED[kind]("a b c", truncation="only_second", max_length=2)


def test_a_max_length_below_the_special_tokens_is_refused(kind):
    tokenizer = kind.from_pretrained("gpt2", add_bos_token=True)
    with pytest.raises(LengthError, match="max_length=1 is less than the 2 special tokens"):
        tokenizer("a", "b", truncation=True, max_length=1)
    assert tokenizer("a", "b", truncation=True, max_length=2)["input_ids"] == [50256, 50256]


def test_ids_without_a_token_are_refused(kind):
    for ids in (50257, [0, 60000], [-100], [-1], [2**32], [2**64]):
        with pytest.raises(TokenizerError, match="has no token"):
            LOADED[kind].decode(ids)
    assert LOADED[kind].convert_ids_to_tokens([0, 2**32]) == ["!", None]
    with pytest.raises(InputError, match="batch_decode"):
        LOADED[kind].decode([[1, 2]])
    assert LOADED[kind].batch_decode([[1, 2], []]) == ['"#', ""]


@pytest.mark.parametrize(
    "length",
    [3.0, 2**65, 10**30, 1e30],
    ids=["a whole float", "beyond a machine word", "no limit", "no limit as float"],
)
def test_a_max_length_is_any_whole_number(kind, length):
    ids = LOADED[kind]("a b c d", truncation=True, max_length=length)["input_ids"]
    assert ids == [64, 275, 269, 288][: int(length)]


@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
def test_a_stride_beyond_the_room_that_a_pair_leaves_is_refused(strategy):
    texts = ("a b c d e f", "x y z") if strategy == "only_first" else ("x y z", "a b c d e f")
    options = {"truncation": strategy, "max_length": 4, "return_overflowing_tokens": True}
    fast = LOADED[GPT2TokenizerFast]
    with pytest.raises(InputError, match="stride=1 must be less than the room"):
        fast(*texts, stride=1, **options)
    assert len(fast(*texts, stride=0, **options)["input_ids"]) == 6


def test_errors_decide_about_bytes_that_are_no_text(kind):
    for errors, text in (
        ("replace", "a\ufffd\ufffdb"),
        ("ignore", "ab"),
        ("backslashreplace", "a\\xe2\\x82b"),
    ):
        tokenizer = kind.from_pretrained("gpt2", errors=errors)
        assert tokenizer.decode([64, 158, 224, 65]) in (text, text.replace("\ufffd\ufffd", "\ufffd"))
    with pytest.raises(TokenizerError, match="no UTF-8"):
        kind.from_pretrained("gpt2", errors="strict").decode([158])
    for errors in ("replce", None, "xmlcharrefreplace"):
        with pytest.raises(InputError, match="is no way to decode bytes"):
            kind.from_pretrained("gpt2", errors=errors)


def test_what_only_the_fast_one_can_do_is_refused_by_the_slow_one():
    slow, fast = LOADED[GPT2Tokenizer], LOADED[GPT2TokenizerFast]
    with pytest.raises(InputError, match="GPT2TokenizerFast"):
        slow("a", return_offsets_mapping=True)
    with pytest.raises(InputError, match="GPT2TokenizerFast"):
        slow("a").tokens()
    with pytest.raises(InputError, match="longest first"):
        slow("a b", "c d", truncation=True, max_length=3, return_overflowing_tokens=True)
    with pytest.raises(InputError, match="Offsets"):
        fast.encode_plus([1, 2], return_offsets_mapping=True)
    with pytest.raises(InputError, match="add_prefix_space=True"):
        fast(["a", "b"], is_split_into_words=True)
    with pytest.raises(InputError, match="from_pretrained"):
        fast("a", add_prefix_space=True)


def test_the_slow_one_takes_prefix_space_and_special_tokens_per_call():
    slow = LOADED[GPT2Tokenizer]
    assert slow("a", add_prefix_space=True)["input_ids"] == [257]
    assert slow("a")["input_ids"] == [64]
    assert slow("<|endoftext|>", split_special_tokens=True)["input_ids"] == [27, 91, 437, 1659, 5239, 91, 29]


# ---- what is logged


def test_a_text_longer_than_the_model_is_said_once(kind, caplog):
    tokenizer = kind.from_pretrained("gpt2", model_max_length=3)
    with caplog.at_level(logging.WARNING):
        tokenizer("a b c")
        assert not caplog.records
        tokenizer("a b c d", verbose=False)
        assert not caplog.records
        tokenizer("a b c d")
        tokenizer("a b c d")
    assert [record.getMessage() for record in caplog.records] == [
        "Token indices sequence length is longer than the specified maximum sequence length "
        "for this model (4 > 3). Running this sequence through the model will result in indexing errors"
    ]


def test_padding_afterwards_is_said_to_be_slower_with_the_fast_one(kind, caplog):
    tokenizer = kind.from_pretrained("gpt2", pad_token="<pad>")
    with caplog.at_level(logging.WARNING):
        tokenizer.pad({"input_ids": [[1, 2], [3]]})
        tokenizer.pad({"input_ids": [[1, 2], [3]]})
    text = "Please note that with a fast tokenizer, using the `__call__` method is faster"
    assert sum(text in record.getMessage() for record in caplog.records) == int(tokenizer.is_fast)


def test_lengths_that_mean_nothing_are_said(kind, caplog):
    tokenizer = kind.from_pretrained("gpt2", pad_token="<pad>", model_max_length=None)
    tokenizer.model_max_length = int(1e30)
    with caplog.at_level(logging.WARNING):
        assert tokenizer("a b c", max_length=2)["input_ids"] == [64, 275]
        assert tokenizer("a", padding="max_length")["input_ids"] == [64]
        assert tokenizer("a", truncation=True)["input_ids"] == [64]
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "Truncation was not explicitly activated" in said
    assert "Asking to pad to max_length but no maximum length" in said
    assert "Asking to truncate to max_length but no maximum length" in said
    with pytest.warns(UserWarning, match="`max_length` is ignored"):
        tokenizer("a", padding=True, max_length=5)


# ---- special tokens


def test_roles_are_read_and_set(tokenizer):
    assert tokenizer.pad_token is None
    assert tokenizer.pad_token_id is None
    tokenizer.pad_token = tokenizer.eos_token
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 50256)
    tokenizer.cls_token_id = 5
    assert (tokenizer.cls_token, tokenizer.cls_token_id) == ("&", 5)
    assert tokenizer.decode([5, 64], skip_special_tokens=True) == "a"
    tokenizer.cls_token = None
    assert tokenizer.cls_token is None
    with pytest.raises(InputError, match=r"add_special_tokens\(\{'sep_token': '\[SEP\]'\}\)"):
        tokenizer.sep_token = "[SEP]"
    with pytest.raises(InputError, match="No token has the id 60000"):
        tokenizer.pad_token_id = 60000
    with pytest.raises(InputError, match=r"A token is a text"):
        tokenizer.mask_token = 7
    with pytest.raises(InputError, match="no role"):
        tokenizer.add_special_tokens({"pad": "x"})


def test_new_tokens_get_the_next_ids_in_the_order_given(tokenizer):
    names = ["<z>", "<a>", "<m>"]
    assert tokenizer.add_special_tokens({"additional_special_tokens": names}) == 3
    assert tokenizer.additional_special_tokens == names
    assert tokenizer.additional_special_tokens_ids == [50257, 50258, 50259]
    assert tokenizer.add_special_tokens({"pad_token": "<p>", "sep_token": "<a>"}) == 1
    assert tokenizer.add_tokens(["newest-", "Hello", "newest-", ""]) == 1
    assert len(tokenizer) == 50262
    assert tokenizer.vocab_size == 50257
    assert tokenizer("<z>Hello<m>newest-")["input_ids"] == [50257, 15496, 50259, 50261]


def test_the_list_of_additional_tokens_is_replaced_or_extended(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "<b>"]})
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<b>", "<c>"]}, replace_additional_special_tokens=False
    )
    assert tokenizer.additional_special_tokens == ["<a>", "<b>", "<c>"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<d>"]})
    assert tokenizer.additional_special_tokens == ["<d>"]
    assert tokenizer("<a>")["input_ids"] == [50257]  # still one token
    tokenizer.additional_special_tokens = ["<a>"]
    assert tokenizer.additional_special_tokens == ["<a>"]
    tokenizer.additional_special_tokens_ids = [50258]
    assert tokenizer.additional_special_tokens == ["<b>"]
    with pytest.raises(InputError, match="not in the vocabulary"):
        tokenizer.additional_special_tokens = ["<never>"]


def test_a_role_for_a_token_that_exists_keeps_its_flags(tokenizer):
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>"})
    assert tokenizer("a <|endoftext|> b")["input_ids"] == [64, 220, 50256, 275]


def test_the_beginning_of_text_follows_its_switch_and_its_token(tokenizer):
    tokenizer.add_bos_token = True
    assert tokenizer("a")["input_ids"] == [50256, 64]
    tokenizer.add_special_tokens({"bos_token": AddedToken("$$:0 A$")})
    assert tokenizer("a", "b")["input_ids"] == [50257, 64, 50257, 65]
    tokenizer.bos_token = None
    assert tokenizer("a")["input_ids"] == [64]


def test_skipping_special_tokens_leaves_them_out(tokenizer):
    tokenizer.add_special_tokens({"pad_token": "<p>"})
    tokenizer.add_tokens([AddedToken("<s>", special=True), "plain"])
    ids = tokenizer("a<p>b<s>cplain<|endoftext|>")["input_ids"]
    assert tokenizer.decode(ids) == "a<p>b<s>cplain<|endoftext|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "abcplain"


def test_an_added_token_is_its_own_text_even_if_it_looks_like_bytes(tokenizer):
    tokenizer.add_tokens(["é", "naïve Ġ"])
    assert (
        tokenizer.decode(tokenizer("xé naïve Ġ")["input_ids"], clean_up_tokenization_spaces=False)
        == "xé naïve Ġ"
    )
    assert tokenizer.convert_tokens_to_string(["é", "Ġa"]) == "é a"


# ---- ids instead of texts


def test_ids_go_the_same_way_in_both(kind):
    tokenizer = PADDED[kind]
    assert tokenizer.encode([1, 2, 3], [4], truncation=True, max_length=3) == [1, 2, 4]
    assert tokenizer.encode(["Hello", "Ġworld", "nowhere"]) == [15496, 995, 50256]
    assert tokenizer.batch_encode_plus([[1, 2], ([3], [4])])["input_ids"] == [[1, 2], [3, 4]]
    assert tokenizer.prepare_for_model([1], padding="max_length", max_length=3)["attention_mask"] == [1, 0, 0]
    batch = tokenizer.prepare_for_model([1, 2], return_tensors="np", prepend_batch_axis=True)
    assert batch["input_ids"].tolist() == [[1, 2]]
    with pytest.raises(InputError, match="a list of 3"):
        tokenizer.batch_encode_plus([["a", "b", "c"]])
    with pytest.raises(TokenizerError, match="A batch is a list"):
        tokenizer.batch_encode_plus("a")
    with pytest.raises(InputError, match="with input_ids"):
        tokenizer.pad({"ids": [1]})
    with pytest.raises(InputError, match="2 rows of input_ids, but 1 of labels"):
        tokenizer.pad({"input_ids": [[1], [2]], "labels": [[1]]})
    with pytest.raises(InputError, match="different keys"):
        tokenizer.pad([{"input_ids": [1]}, {"input_ids": [1], "labels": [1]}])
    assert tokenizer.get_special_tokens_mask([1], [2]) == [0, 0]
    with pytest.raises(InputError, match="one list"):
        tokenizer.get_special_tokens_mask([1], [2], already_has_special_tokens=True)


# ---- copies and threads


def test_copies_and_pickles_are_equal_and_their_own(tokenizer):
    tokenizer.add_special_tokens({"pad_token": "<p>"})
    tokenizer.padding_side = "left"
    for copied in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert type(copied) is type(tokenizer)
        assert copied.get_vocab() == tokenizer.get_vocab()
        batch = ["a<p>b", "Hello world"]
        assert dict(copied(batch, padding=True)) == dict(tokenizer(batch, padding=True))
        assert copied.decode([50257, 0]) == "<p>!"
        copied.add_tokens(["another-"])
        assert len(copied) == len(tokenizer) + 1
    encoding = tokenizer("a b")
    again = pickle.loads(pickle.dumps(encoding))
    assert isinstance(again, BatchEncoding)
    assert dict(again) == dict(encoding)
    assert again.is_fast == encoding.is_fast


def test_threads_with_different_lengths_do_not_mix():
    fast = PADDED[GPT2TokenizerFast]
    wrong = []

    def work(length):
        for _ in range(100):
            ids = fast("a b c d e f g h", truncation=True, max_length=length)["input_ids"]
            padded = fast("a", padding="max_length", max_length=length)["input_ids"]
            if len(ids) != length or len(padded) != length:
                wrong.append((length, len(ids), len(padded)))

    threads = [threading.Thread(target=work, args=(length,)) for length in (2, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_slow_one_forgets_words_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr("gpt2kit.tokenization.slow._REMEMBERED_WORDS", 7)
    slow = copy.deepcopy(LOADED[GPT2Tokenizer])
    text = " ".join(f"word{number}" for number in range(29)) + " " + "x" * 101
    assert (
        slow(text, verbose=False)["input_ids"] == LOADED[GPT2TokenizerFast](text, verbose=False)["input_ids"]
    )
    assert 0 < len(slow._remembered) <= 7
    assert all(len(word) <= 64 for word in slow._remembered)
