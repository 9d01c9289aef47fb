"""Training: the same texts give the same tokenizer, and its folder opens as both."""

from __future__ import annotations

import pytest

from gpt2kit import AddedToken, GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.tokenization.train import train_bpe

TEXTS = [
    "the cat sat on the mat",
    "the rat sat on that cat's hat",
    "  the end\n\n",
    "Führer, 中文 👩🏽‍🚀",
] * 5


@pytest.fixture(scope="module")
def gpt2():
    return GPT2TokenizerFast.from_pretrained("gpt2")


def test_a_trained_tokenizer_has_bytes_merges_and_special_tokens(gpt2):
    trained = gpt2.train_new_from_iterator(TEXTS, 301)
    assert len(trained) == 301
    assert isinstance(trained, GPT2TokenizerFast)
    assert trained.eos_token == trained.bos_token == trained.unk_token == "<|endoftext|>"
    assert trained.convert_tokens_to_ids("Ġthe") is not None
    assert "Ġthe" in trained.tokenize("on the mat")
    for text in (*TEXTS, "any \x00 text at all ½"):
        ids = trained(text)["input_ids"]
        assert trained.decode(ids, clean_up_tokenization_spaces=False) == text
        assert len(ids) <= len(text.encode())
    assert trained.model_max_length == gpt2.model_max_length
    assert trained.name_or_path == ""


def test_training_is_deterministic_and_lists_are_texts(gpt2):
    first = gpt2.train_new_from_iterator(iter(TEXTS), 300)
    second = gpt2.train_new_from_iterator(([text, text] for text in TEXTS), 300)
    assert (
        first.backend_tokenizer.to_str()
        == gpt2.train_new_from_iterator(TEXTS, 300, length=20).backend_tokenizer.to_str()
    )
    assert first.get_vocab() == second.get_vocab()  # twice as often, in the same order


def test_the_trained_folder_opens_as_both(gpt2, tmp_path):
    trained = gpt2.train_new_from_iterator(
        TEXTS, 300, new_special_tokens=["<a>", AddedToken("<b>", lstrip=True)]
    )
    trained.save_pretrained(tmp_path)
    for kind in (GPT2Tokenizer, GPT2TokenizerFast):
        opened = kind.from_pretrained(tmp_path)
        assert opened.get_vocab() == trained.get_vocab()
        assert opened.special_tokens_map == trained.special_tokens_map
        for text in [*TEXTS, "x <a> y <b> z"]:
            assert opened(text)["input_ids"] == trained(text)["input_ids"]


def test_special_tokens_are_kept_renamed_and_added(gpt2):
    trained = gpt2.train_new_from_iterator(
        TEXTS,
        300,
        new_special_tokens=["<pad>"],
        special_tokens_map={"<|endoftext|>": "</s>"},
        min_frequency=2,
    )
    assert (trained.eos_token, trained.eos_token_id) == ("</s>", 0)
    assert trained.additional_special_tokens == ["<pad>"]
    assert trained("a</s>b<pad>")["input_ids"].count(0) == 1
    assert "<|endoftext|>" not in trained.get_vocab()


def test_special_tokens_in_the_texts_are_no_words_to_learn():
    with_them = train_bpe(["the end<|endoftext|>the end<|endoftext|>"] * 5, 300)
    without = train_bpe(["the end", "the end"] * 5, 300)
    assert with_them.get_vocab() == without.get_vocab()


def test_pairs_that_are_too_seldom_are_not_joined():
    assert train_bpe(["ab ab cd"], 300, min_frequency=2).token_to_id("ab") is not None
    assert train_bpe(["ab ab cd"], 300, min_frequency=2).token_to_id("cd") is None


def test_tokens_are_no_longer_than_asked_for():
    def longest(**options):
        return max(map(len, train_bpe(["longword longword"], 300, special_tokens=[], **options).get_vocab()))

    assert longest() == 9
    assert longest(max_token_length=3) <= 3


def test_what_cannot_be_trained_is_refused(gpt2):
    with pytest.raises(
        InputError, match="vocab_size is 256, but the 256 bytes and the special tokens are 257"
    ):
        gpt2.train_new_from_iterator(TEXTS, 256)
    with pytest.raises(InputError, match="special token is empty"):
        gpt2.train_new_from_iterator(TEXTS, 300, new_special_tokens=[""])
    for texts in ([b"bytes"], [None], [["a", 5]], ["\ud800"]):
        with pytest.raises(TokenizerError, match="text"):
            gpt2.train_new_from_iterator(texts, 300)
    with pytest.raises(TypeError, match="min_freqency"):
        gpt2.train_new_from_iterator(TEXTS, 300, min_freqency=2)
