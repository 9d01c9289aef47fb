"""What 4.34's tokenizers return, ours return; the exceptions are listed, each with its reason."""

from __future__ import annotations

import copy
import functools
import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from gpt2kit import AddedToken, AutoTokenizer, GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.tokenization.folder import PACKAGED_MERGES

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenization"
CASES = json.loads((GOLDEN / "calls.json").read_text(encoding="utf-8"))["cases"]
KINDS = {"slow": GPT2Tokenizer, "fast": GPT2TokenizerFast}

# (case, tokenizer) -> what ours returns instead, and why. Each reason is a row of docs/differences.md.
LENGTH = "the length of one text is a number in both; 4.34's fast one gives a list of one"
TYPES = "token types cover the beginning-of-text tokens; in 4.34's slow one they are shorter than the ids"
PAIR_BOS = "the fast one, too, puts a beginning-of-text token before the second text"
ODD = "of an odd number of places, the second text gets one more, as in 4.34's fast one"
CUT = "truncation that cannot be done is refused, as by 4.34's fast one; the slow one logs and cuts nothing"
IDS = "the fast one, too, takes ids and tokens"
EMPTY = "an empty batch gives an empty encoding"
PREFIX = "add_prefix_space adds no second space, and one after each added token, as in 4.34's fast one"
SPACES = "spaces_between_special_tokens is off unless asked for, and honoured by both"
STRIP = "add_tokens takes no white space with a text without flags, as in 4.34's fast one"
WORD = "an added single word inside another is left to it whole; 4.34's slow one moves letters"
HOW_MANY = "add_tokens returns how many new ids there are, as 4.34's slow one"
ERRORS = "the fast one honours `errors`"
KIND = "an error of gpt2kit that is a ValueError"
DIFFERENCES = {
    ("everything False", "fast"): (LENGTH, {"length": 13}),
    ("everything, one text False", "fast"): (LENGTH, {"length": 5}),
    ("everything, one text True", "fast"): (LENGTH, {"length": 6}),
    ("everything True", "slow"): (TYPES, {"token_type_ids": [0] * 6 + [1] * 9}),
    ("everything, one text True", "slow"): (TYPES, {"token_type_ids": [0] * 6}),
    ("everything True", "fast"): (
        PAIR_BOS,
        {
            "input_ids": [50256, 15496, 995, 11, 23748, 0, 50256, 64, 275, 269, 288, 304, 277, 308, 289],
            "token_type_ids": [0] * 6 + [1] * 9,
            "attention_mask": [1] * 15,
            "special_tokens_mask": [1] + [0] * 5 + [1] + [0] * 8,
            "length": 15,
        },
    ),
    ("build", "fast"): (PAIR_BOS, [50256, 1, 2, 50256, 3]),
    ("number of special tokens of a pair", "fast"): (PAIR_BOS, 2),
    ("cut an odd number", "slow"): (ODD, {"input_ids": [15496, 995, 64, 275, 269]}),
    ("encode_plus", "slow"): (ODD, {"input_ids": [15496, 995, 64, 275, 269]}),
    ("cut first too short", "slow"): (CUT, ValueError),
    ("cut second of none", "slow"): (CUT, ValueError),
    ("encode ids", "fast"): (IDS, [1, 2, 3]),
    ("encode tokens", "fast"): (IDS, [15496, 995]),
    ("empty batch", "slow"): (EMPTY, {"input_ids": [], "attention_mask": []}),
    ("empty batch", "fast"): (EMPTY, {"input_ids": [], "attention_mask": []}),
    ("prefix space", "slow"): (
        PREFIX,
        {"input_ids": [[257], [257], [257, 50256, 275], []], "attention_mask": [[1], [1], [1, 1, 1], []]},
    ),
    ("decode added None", "slow"): (SPACES, "a<a>b<|endoftext|>fooc"),
    ("decode added True", "fast"): (SPACES, "a <a> b<|endoftext|> foo c"),
    ("strings added", "slow"): (STRIP, {"input_ids": [64, 220, 21943, 275], "attention_mask": [1] * 4}),
    ("single word 1", "slow"): (WORD, {"input_ids": [2032, 3669]}),
    ("add how many", "fast"): (HOW_MANY, 1),
    ("decode a half, ignoring", "fast"): (ERRORS, "ab"),
    ("offsets", "slow"): (KIND, ValueError),
    ("words without a space", "fast"): (KIND, ValueError),
}


def revive(value):
    """Make the AddedTokens that a description has."""
    if isinstance(value, dict):
        if "__token__" in value:
            return AddedToken(**value["__token__"])
        return {key: revive(item) for key, item in value.items()}
    return [revive(item) for item in value] if isinstance(value, list) else value


def plain(value):
    """Turn a result into what JSON can say."""
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@functools.cache
def made(kind, options):
    return KINDS[kind](None, PACKAGED_MERGES, **json.loads(options))


def call(kind, case):
    tokenizer = made(kind, json.dumps(case["init"]))
    if case["setup"] or case["method"].startswith("add_"):  # what changes it gets one of its own
        tokenizer = copy.deepcopy(tokenizer)
    for method, arguments in case["setup"]:
        getattr(tokenizer, method)(*revive(arguments))
    return plain(getattr(tokenizer, case["method"])(*revive(case["args"]), **case["kwargs"]))


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"].replace(" ", "-"))
def test_a_call_returns_what_it_returned_in_4_34(case, kind):
    wanted = case[kind]
    if (case["name"], kind) in DIFFERENCES:
        _, instead = DIFFERENCES[case["name"], kind]
        if isinstance(instead, type):
            wanted = {"error": "ValueError"}
        elif isinstance(instead, dict) and "error" not in wanted:
            wanted = {"value": {**wanted["value"], **instead}}
        else:
            wanted = {"value": instead}
    if "error" in wanted:
        with pytest.raises((ValueError, TypeError)):
            call(kind, case)
    else:
        assert call(kind, case) == wanted["value"]


def test_every_difference_is_one():
    """A listed difference that 4.34 shares after all would hide a mistake."""
    by_name = {case["name"]: case for case in CASES}
    for (name, kind), (reason, instead) in DIFFERENCES.items():
        was = by_name[name][kind]
        assert reason
        if isinstance(instead, type):
            assert was.get("error") != "ValueError", (name, kind)
        elif isinstance(instead, dict) and "value" in was:
            assert any(was["value"].get(key) != value for key, value in instead.items()), (name, kind)
        else:
            assert was != {"value": instead}, (name, kind)


FOLDERS = sorted(path.name for path in (GOLDEN / "folders").iterdir())
# 4.34's slow one adds the prefix space to the text as a whole; its own fast one, and ours, to each piece.
SLOW_SAVED = {"in the <a> x": [287, 262, 220, 324, 220, 87], "<pad>the": [321, 262]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FOLDERS)
def test_folders_written_by_transformers_are_read(name, kind, tmp_path):
    expected = json.loads((GOLDEN / "folders" / name / "expected.json").read_text(encoding="utf-8"))
    if name == "4.34-slow":
        expected.update(SLOW_SAVED)
    for folder in (GOLDEN / "folders" / name, tmp_path):
        tokenizer = KINDS[kind].from_pretrained(folder)
        assert {text: tokenizer(text)["input_ids"] for text in expected} == expected
        assert tokenizer.special_tokens_map == {
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<pad>",
            "additional_special_tokens": ["<a>"],
        }
        flags = {
            token.content: (token.lstrip, token.rstrip, token.single_word)
            for token in tokenizer.added_tokens_decoder.values()
        }
        assert flags["foo"] == (True, False, False)
        assert flags["bar baz"] == (False, False, True)
        assert flags["<a>"] == (False, True, False)
        assert (tokenizer.model_max_length, tokenizer.add_prefix_space, len(tokenizer)) == (37, True, 325)
        assert (tokenizer.chat_template is not None) == (name in ("4.57", "5.23"))
        tokenizer.save_pretrained(tmp_path)
    assert (
        AutoTokenizer.from_pretrained(tmp_path, use_fast=kind == "fast").get_vocab() == tokenizer.get_vocab()
    )


def vectors():
    whole = json.loads((GOLDEN / "vectors.json").read_text(encoding="utf-8"))
    return [
        pytest.param(vector, id=f"{name}-{place}")
        for name, part in whole.items()
        for place, vector in enumerate(part["vectors"])
    ]


@functools.cache
def official(kind):
    return KINDS[kind].from_pretrained("gpt2")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vector", vectors())
def test_vectors_of_llama_cpp_and_tiktoken(vector, kind):
    tokenizer = official(kind)
    assert tokenizer.encode(vector["text"]) == vector["ids"]
    assert tokenizer.decode(vector["ids"], clean_up_tokenization_spaces=False) == vector["text"]


BULK = json.loads((GOLDEN / "bulk_counts.json").read_text(encoding="utf-8"))["files"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BULK)
def test_whole_files_are_encoded_as_by_tiktoken(name, kind):
    folder = os.environ.get("GPT2KIT_MATERIAL")
    if not folder:
        pytest.skip("GPT2KIT_MATERIAL names no folder with the texts that tiktoken has encoded")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    if kind == "fast":
        ids = np.concatenate(list(official(kind).encode_file(path)))
    else:
        text = path.read_bytes().decode("utf-8")
        ids = np.array(official(kind)(text, verbose=False)["input_ids"], dtype=np.uint16)
    assert len(ids) == BULK[name]["tokens"]
    assert sha256(ids.astype("<u2").tobytes()).hexdigest() == BULK[name]["sha256"]
