"""Token shards: made once, used again where they fit, refused where they do not."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest
import tokenizers

from gpt2kit.atomic import folder_lock
from gpt2kit.errors import TokenizerError, TrainingError
from gpt2kit.training import data as data_module
from gpt2kit.training import text as text_module
from gpt2kit.training.data import Recipe, TokenData, fingerprint, prepare
from gpt2kit.training.text import TextSource

TEXT = "".join(f"Line {number} of the play: thou art number {number * number}.\n" for number in range(101))


class Tokenizer:
    """As much of a fast tokenizer as shards need: bytes as tokens, and the end of text."""

    def __init__(self, vocab_size=257):
        alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        vocab = {character: number for number, character in enumerate(alphabet)}
        for number in range(len(vocab), vocab_size - 1):
            vocab[f"unused{number}"] = number
        self.backend_tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
        self.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.backend_tokenizer.decoder = tokenizers.decoders.ByteLevel()
        self.backend_tokenizer.add_special_tokens(["<|endoftext|>"])
        self.added_tokens_decoder = self.backend_tokenizer.get_added_tokens_decoder()
        self.add_prefix_space = False
        self.eos_token_id = self.backend_tokenizer.token_to_id("<|endoftext|>")

    def __len__(self):
        return self.backend_tokenizer.get_vocab_size()

    def save_pretrained(self, folder):
        folder.mkdir(exist_ok=True)
        self.backend_tokenizer.save(str(folder / "tokenizer.json"))

    def ids(self, text):
        return self.backend_tokenizer.encode(text).ids


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return TextSource.open(path)


def recipe(tmp_path, text=TEXT, fraction=0.1, tokenizer=None, **more):
    return Recipe(
        [write(tmp_path / "a.txt", text)],
        more.pop("held_out", None),
        fraction,
        tokenizer or Tokenizer(),
        **more,
    )


def tokens(shards):
    return shards.read(0, len(shards)).tolist()


def test_the_shards_hold_the_tokens_of_the_text(tmp_path):
    data, reused = prepare(tmp_path / "data", recipe(tmp_path))
    cut = int(len(TEXT) * 0.9)
    assert not reused
    assert tokens(data.train) == Tokenizer().ids(TEXT[:cut])
    assert tokens(data.evaluation) == Tokenizer().ids(TEXT[cut:])
    assert (data.train.bytes, data.evaluation.bytes) == (cut, len(TEXT) - cut)
    assert data.vocab_size == 257


def test_many_small_files_and_pieces_make_the_same_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "_SHARD_TOKENS", 101)
    monkeypatch.setattr(text_module, "_PIECE_BYTES", 37)
    data, _ = prepare(tmp_path / "data", recipe(tmp_path, fraction=0.0))
    ids = Tokenizer().ids(TEXT)
    assert tokens(data.train) == ids
    assert len(list((tmp_path / "data").glob("train-*.bin"))) == -(-len(ids) // 101)
    for start, length in ((0, 1), (100, 2), (99, 303), (101, 101), (len(ids), 0), (len(ids) - 1, 1)):
        assert data.train.read(start, length).tolist() == ids[start : start + length]
    with pytest.raises(IndexError):
        data.train.read(len(ids), 1)


def test_an_added_token_with_a_space_inside_is_not_cut_in_two(tmp_path, monkeypatch):
    monkeypatch.setattr(text_module, "_PIECE_BYTES", 5)
    tokenizer = Tokenizer()
    tokenizer.backend_tokenizer.add_tokens(["the play"])
    tokenizer.added_tokens_decoder = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    data, _ = prepare(tmp_path / "data", recipe(tmp_path, tokenizer=tokenizer, fraction=0.0))
    assert tokens(data.train) == tokenizer.ids(TEXT)
    assert tokens(data.train).count(257) == 101


def test_inputs_and_targets_are_one_token_apart(tmp_path):
    data, _ = prepare(tmp_path / "data", recipe(tmp_path, fraction=0.0))
    ids = Tokenizer().ids(TEXT)
    inputs, targets = data.train.blocks(np.array([2, 53]), 7)
    assert inputs.tolist() == [ids[2:9], ids[53:60]]
    assert targets.tolist() == [ids[3:10], ids[54:61]]


def test_between_two_files_stands_the_end_of_text(tmp_path):
    tokenizer = Tokenizer()
    sources = [write(tmp_path / "a.txt", "thou"), write(tmp_path / "b.txt", "art")]
    data, _ = prepare(tmp_path / "data", Recipe(sources, None, 0.0, tokenizer))
    assert tokens(data.train) == [*tokenizer.ids("thou"), tokenizer.eos_token_id, *tokenizer.ids("art")]
    assert data.evaluation is None


def test_an_evaluation_file_holds_nothing_else_out(tmp_path):
    data, _ = prepare(tmp_path / "data", recipe(tmp_path, held_out=write(tmp_path / "b.txt", "art")))
    assert tokens(data.train) == Tokenizer().ids(TEXT)
    assert tokens(data.evaluation) == Tokenizer().ids("art")


def test_a_vocabulary_beyond_uint16_takes_uint32(tmp_path):
    for size, dtype in ((65_536, "<u2"), (65_537, "<u4")):
        data, _ = prepare(tmp_path / f"data{size}", recipe(tmp_path, tokenizer=Tokenizer(size)))
        assert json.loads((data.folder / "index.json").read_text())["dtype"] == dtype
        assert tokens(data.evaluation) == Tokenizer(size).ids(TEXT[int(len(TEXT) * 0.9) :])


def test_a_trained_tokenizer_sees_only_the_text_to_learn_from(tmp_path):
    seen = []

    def train(texts):
        seen.extend(texts)
        return Tokenizer()

    prepare(tmp_path / "data", recipe(tmp_path, tokenizer=train, trained_vocabulary=257))
    assert "".join(seen) == TEXT[: int(len(TEXT) * 0.9)]


def test_shards_of_the_same_recipe_are_used_again(tmp_path, monkeypatch):
    first, _ = prepare(tmp_path / "data", recipe(tmp_path))
    monkeypatch.setattr(data_module, "_write", None)  # would fail if it was called
    again, reused = prepare(tmp_path / "data", recipe(tmp_path))
    assert reused
    assert tokens(again.train) == tokens(first.train)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"text": TEXT + "!"}, "not the same: text"),
        ({"fraction": 0.2}, "not the same: evaluation"),
        ({"tokenizer": Tokenizer(258)}, "not the same: tokenizer"),
        ({"tokenizer": None, "trained_vocabulary": 300}, "not the same: tokenizer"),
    ],
)
def test_shards_of_another_recipe_are_refused_or_replaced(tmp_path, changed, named):
    prepare(tmp_path / "data", recipe(tmp_path))
    with pytest.raises(TrainingError, match=named):
        prepare(tmp_path / "data", recipe(tmp_path, **changed))
    if "trained_vocabulary" not in changed:
        _, reused = prepare(tmp_path / "data", recipe(tmp_path, **changed), replace=True)
        assert not reused


def test_replaced_shards_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "_SHARD_TOKENS", 1009)
    prepare(tmp_path / "data", recipe(tmp_path))
    (tmp_path / "data" / ".train-00000.bin.killed.tmp").touch()
    prepare(tmp_path / "data", recipe(tmp_path, "Line 1.\n", fraction=0.0), replace=True)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "index.json",
        "tokenizer",
        "train-00000.bin",
    ]


def test_of_two_runs_that_want_the_same_shards_one_makes_them(tmp_path):
    asked = recipe(tmp_path)
    (tmp_path / "data").mkdir()
    with ThreadPoolExecutor(1) as other:
        with folder_lock(tmp_path / "data"):
            waiting = other.submit(prepare, tmp_path / "data", asked)
            assert not wait([waiting], timeout=0.5).done
            _, reused = prepare(tmp_path / "data", asked)
            assert not reused
        assert waiting.result()[1]


def test_a_shard_of_the_wrong_size_and_a_missing_one_are_refused(tmp_path):
    prepare(tmp_path / "data", recipe(tmp_path))
    shard = tmp_path / "data" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(TrainingError, match=r"train-00000\.bin should have [\d,]+ bytes and has"):
        TokenData.open(tmp_path / "data")
    shard.unlink()
    with pytest.raises(TrainingError, match="is missing"):
        TokenData.open(tmp_path / "data")


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "something else"}'])
def test_an_index_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "index.json").write_text(content)
    with pytest.raises(TrainingError, match="not an index of token shards"):
        prepare(tmp_path / "data", recipe(tmp_path))


def test_a_folder_without_an_index_holds_no_shards(tmp_path):
    with pytest.raises(TrainingError, match="holds no token shards"):
        TokenData.open(tmp_path)


def test_bad_text_leaves_no_index(tmp_path):
    made = recipe(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff" * made.sources[0].size)
    with pytest.raises(TokenizerError, match="is not UTF-8"):
        prepare(tmp_path / "data", made)
    assert not (tmp_path / "data" / "index.json").exists()
    assert list((tmp_path / "data").glob(".*.tmp")) == []


def test_progress_counts_every_byte(tmp_path):
    told = []
    prepare(
        tmp_path / "data",
        recipe(tmp_path, text=TEXT + "é"),
        progress=lambda done, total: told.append((done, total)),
    )
    size = len((TEXT + "é").encode())
    assert told[-1] == (size, size)


def test_the_fingerprint_tells_tokenizers_apart():
    assert fingerprint(Tokenizer()) == fingerprint(Tokenizer())
    assert fingerprint(Tokenizer()) != fingerprint(Tokenizer(258))
    more = Tokenizer()
    more.backend_tokenizer.add_tokens(["thou"])
    assert fingerprint(Tokenizer()) != fingerprint(more)
