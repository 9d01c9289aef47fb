"""What a call returns: lists or tensors, and where each token is from."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest

from gpt2kit import GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.errors import InputError, MissingDependencyError

KINDS = [GPT2Tokenizer, GPT2TokenizerFast]
LOADED = {kind: kind.from_pretrained("gpt2") for kind in KINDS}
PADDED = {kind: kind.from_pretrained("gpt2", pad_token="<pad>") for kind in KINDS}


@pytest.fixture(params=KINDS, ids=["slow", "fast"])
def kind(request):
    return request.param


# ---- tensors


@pytest.mark.parametrize(("framework", "library"), [("tf", "tensorflow"), ("jax", "jax")])
def test_tensors_of_other_frameworks_are_made_and_decoded(kind, framework, library):
    pytest.importorskip(library, reason=f"{library} is not installed")
    encoding = PADDED[kind](["Hello world", "a b c d"], padding=True, return_tensors=framework)
    pad = PADDED[kind].pad_token_id
    assert np.asarray(encoding["input_ids"]).tolist() == [[15496, 995, pad, pad], [64, 275, 269, 288]]
    assert type(encoding["input_ids"]).__module__.split(".")[0] in (library, "jaxlib")
    assert PADDED[kind].batch_decode(encoding["input_ids"], skip_special_tokens=True) == [
        "Hello world",
        "a b c d",
    ]


@pytest.mark.parametrize("framework", ["np", "pt"])
def test_tensors_are_made(kind, framework):
    if framework == "pt":
        torch = pytest.importorskip("torch")
    one = PADDED[kind]("a b", return_tensors=framework)
    two = PADDED[kind](["a b", "c"], padding=True, return_tensors=framework)
    none = PADDED[kind]("", return_tensors=framework)
    assert tuple(one["input_ids"].shape) == (1, 2)
    assert two["input_ids"].tolist() == [[64, 275], [66, 50257]]
    assert two["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert tuple(none["input_ids"].shape) == (1, 0)
    whole = np.dtype("int64") if framework == "np" else torch.int64
    assert {value.dtype for encoding in (one, two, none) for value in encoding.values()} == {whole}
    padded = PADDED[kind].pad(two, padding="max_length", max_length=3, verbose=False)
    assert padded["input_ids"].tolist() == [[64, 275, 50257], [66, 50257, 50257]]
    assert type(padded["input_ids"]) is type(two["input_ids"])
    assert PADDED[kind].decode(one["input_ids"][0]) == "a b"
    assert PADDED[kind].batch_decode(one["input_ids"]) == ["a b"]
    assert PADDED[kind].decode(one["input_ids"][0, 0]) == "a"


@pytest.mark.parametrize(("framework", "module"), [("np", "numpy"), ("pt", "torch"), ("jax", "jax")])
def test_rows_of_different_lengths_make_no_tensor(kind, framework, module):
    pytest.importorskip(module)
    with pytest.raises(ValueError, match="Unable to create a tensor of 'input_ids'"):
        PADDED[kind](["a b", "c"], return_tensors=framework)


def test_rows_that_overflow_make_no_tensor():
    options = {"truncation": True, "max_length": 1, "return_overflowing_tokens": True, "return_tensors": "np"}
    with pytest.raises(ValueError, match="overflowing tokens"):
        PADDED[GPT2Tokenizer](["a b c", "d e"], **options)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("tf", "tensorflow", "tensorflow"), ("jax", "jax", "flax"), ("pt", "torch", "torch")],
)
def test_a_framework_that_is_not_installed_is_named(monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"gpt2kit\[{extra}\]"):
        LOADED[GPT2Tokenizer]("a", return_tensors=name)


def test_tokenizing_imports_no_framework():
    program = (
        "import sys; from gpt2kit import AutoTokenizer as A\n"
        "for fast in (True, False):\n"
        "    t = A.from_pretrained('gpt2', use_fast=fast)\n"
        "    t.decode(t('a', return_tensors='np')['input_ids'][0])\n"
        "print(sorted({'torch', 'tensorflow', 'jax', 'flax', 'transformers', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_to_moves_tensors_and_refuses_what_is_none():
    torch = pytest.importorskip("torch")
    encoding = LOADED[GPT2TokenizerFast]("a", return_tensors="pt")
    assert encoding.to("cpu") is encoding
    assert encoding.to(torch.device("cpu"))["input_ids"].device.type == "cpu"
    with pytest.raises(InputError, match="no device"):
        encoding.to(torch.float16)
    with pytest.raises(InputError, match="return_tensors"):
        LOADED[GPT2TokenizerFast]("a").to("cpu")


# ---- the result


def test_an_encoding_is_a_mapping_with_attributes():
    encoding = LOADED[GPT2TokenizerFast](["a b", "c"])
    assert encoding.input_ids == encoding["input_ids"] == [[64, 275], [66]]
    assert dict(**encoding) == {"input_ids": [[64, 275], [66]], "attention_mask": [[1, 1], [1]]}
    assert encoding[0].ids == [64, 275]
    assert (encoding.is_fast, encoding.n_sequences, len(encoding.encodings)) == (True, 1, 2)
    slow = LOADED[GPT2Tokenizer](["a b", "c"])
    assert slow[1:] == {"input_ids": [[66]], "attention_mask": [[1]]}
    assert (slow.is_fast, slow.n_sequences, slow.encodings) == (False, None, None)
    with pytest.raises(KeyError, match="fast tokenizer only"):
        slow[0]
    with pytest.raises(AttributeError, match="no 'labels', only input_ids"):
        _ = encoding.labels


def test_alignments_of_the_fast_one():
    tokenizer = GPT2TokenizerFast.from_pretrained("gpt2", add_bos_token=True)
    encoding = tokenizer(["Führer unbelievable", "x"], ["it's", "y"], return_offsets_mapping=True)
    assert encoding.tokens() == [
        "<|endoftext|>",
        "F",
        "Ã¼",
        "h",
        "rer",
        "Ġunbelievable",
        "<|endoftext|>",
        "it",
        "'s",
    ]
    assert encoding["offset_mapping"][0] == [
        (0, 0),
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 6),
        (6, 19),
        (0, 0),
        (0, 2),
        (2, 4),
    ]
    assert encoding.sequence_ids() == [None, 0, 0, 0, 0, 0, None, 1, 1]
    assert encoding.word_ids() == encoding.words() == [None, 0, 0, 0, 0, 1, None, 0, 1]
    assert encoding.n_sequences == 2
    assert encoding.token_to_word(5) == encoding.token_to_word(0, 5) == encoding.token_to_word(-4) == 1
    assert encoding.token_to_sequence(0, 7) == 1
    assert encoding.word_to_tokens(0) == (1, 5)
    assert encoding.word_to_tokens(0).end == 5
    assert encoding.word_to_tokens(0, 1, sequence_index=1) == (8, 9)
    assert encoding.word_to_tokens(9) is None
    assert encoding.token_to_chars(5) == (6, 19)
    assert encoding.token_to_chars(5).start == 6
    assert encoding.token_to_chars(0) is None
    assert encoding.char_to_token(1) == 2
    assert encoding.char_to_token(0, 2, sequence_index=1) == 8
    assert encoding.char_to_token(99) is None
    assert encoding.char_to_word(8) == 1
    assert encoding.word_to_chars(1) == (6, 19)
    assert encoding.token_to_sequence(1, 1) == 0


def test_offsets_are_trimmed_on_request():
    fast = copy.deepcopy(LOADED[GPT2TokenizerFast])
    assert fast("a  bc", return_offsets_mapping=True)["offset_mapping"] == [(0, 1), (1, 2), (2, 5)]
    fast.trim_offsets = True
    assert fast("a  bc", return_offsets_mapping=True)["offset_mapping"] == [(0, 1), (2, 2), (3, 5)]
    fast.add_bos_token = True
    assert fast("a bc", return_offsets_mapping=True)["offset_mapping"] == [(0, 0), (0, 1), (2, 4)]
    given = GPT2TokenizerFast.from_pretrained("gpt2", trim_offsets=True)
    assert given("a bc", return_offsets_mapping=True)["offset_mapping"] == [(0, 1), (2, 4)]


def test_overflow_becomes_rows_of_the_fast_one():
    encoding = LOADED[GPT2TokenizerFast](
        ["a b c d", "e"],
        truncation=True,
        max_length=2,
        stride=1,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert encoding["input_ids"] == [[64, 275], [275, 269], [269, 288], [68]]
    assert encoding["overflow_to_sample_mapping"] == [0, 0, 0, 1]
    assert encoding["offset_mapping"][1] == [(1, 3), (3, 5)]
