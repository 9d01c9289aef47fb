"""`gpt2kit tokenize` and `gpt2kit train-tokenizer`: output, exit codes, refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gpt2kit import GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.cli.main import app

TEXT = "the cat sat on the mat\n\n\nthe rat sat on that cat's hat\n" * 11


def run(*arguments, **options):
    return CliRunner().invoke(app, [*map(str, arguments)], **options)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize("slow", [[], ["--slow"]])
def test_ids_pieces_and_counts_are_shown(slow):
    done = run("tokenize", "Hello  wörld\nx", *slow)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "Hello··wörld⏎",
        "x",
        "15496 220 266 30570 335 198 87",
        "7 tokens, 14 characters, 15 bytes, 2.14 bytes to a token",
    ]
    assert done.stderr == ""


def test_json_has_everything():
    told = json.loads(run("tokenize", "--json", "é👩", "--tokenizer", "distilgpt2").stdout)
    assert told == {
        "tokenizer": "distilgpt2",
        "ids": [2634, 41840, 102],
        "tokens": ["Ã©", "ðŁĳ", "©"],
        "pieces": ["é", "\\xf0\\x9f\\x91", "\\xa9"],
        "n_tokens": 3,
        "n_characters": 2,
        "n_bytes": 6,
    }


def test_files_and_pipes_are_read_whole(corpus):
    told = json.loads(run("tokenize", "--json", "--file", corpus).stdout)
    assert told["n_bytes"] == len(TEXT.encode())
    assert "".join(told["pieces"]) == TEXT
    assert json.loads(run("tokenize", "--json", input="Hello world\n").stdout)["ids"] == [15496, 995, 198]
    assert json.loads(run("tokenize", "--json", "-", input="Hello").stdout)["ids"] == [15496]


@pytest.mark.parametrize("ids", ["15496 995", "[15496, 995]", "15496,995\n"])
def test_ids_are_decoded(ids):
    assert run("tokenize", "--decode", ids).stdout == "Hello world\n"
    assert run("tokenize", "-d", input=ids).stdout == "Hello world\n"
    assert json.loads(run("tokenize", "-d", "--json", ids).stdout) == {
        "ids": [15496, 995],
        "text": "Hello world",
    }


def test_an_empty_text_has_no_tokens_and_says_so():
    done = run("tokenize", "")
    assert (done.exit_code, done.stdout) == (0, "0 tokens, 0 characters, 0 bytes\n")
    assert "The text is empty" in done.stderr
    done = run("tokenize", "--decode", "")
    assert (done.exit_code, done.stdout) == (0, "\n")
    assert "no ids" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "options", "code", "message"),
    [
        (["tokenize"], {"input": b"a\xffb"}, 1, "stdin is not UTF-8: byte 1 is 0xff"),
        (["tokenize", "-d", "1 x 2"], {}, 1, "'x' in the text is no id"),
        (["tokenize", "-d", "-5"], {"input": ""}, 2, "No such option"),
        (["tokenize", "-d", "60000"], {}, 1, "The id 60000 has no token"),
        (["tokenize", "a", "--file", "b"], {}, 2, "not both"),
        (["tokenize", "a", "-t", "./nowhere"], {}, 1, "no folder on this disk"),
        (["tokenize", "--file", "nowhere.txt"], {}, 1, "nowhere.txt"),
        (["train-tokenizer", "nowhere.txt", "-o", "out"], {}, 1, "nowhere.txt cannot be read"),
        (["train-tokenizer", "a.txt"], {}, 2, "--output"),
    ],
)
def test_mistakes_are_one_sentence(arguments, options, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, **options)
    assert done.exit_code == code
    assert done.stdout == ""
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_training_on_nothing_is_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    done = run("train-tokenizer", tmp_path / "empty.txt", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "no text to learn from" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_argument_that_is_not_utf8_is_refused():
    command = [sys.executable, "-m", "gpt2kit", "tokenize", b"a\xff"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 1
    assert b"the text is not UTF-8: byte 1 is 0xff" in b" ".join(done.stderr.split())


def test_a_tokenizer_is_trained_saved_and_used(corpus, tmp_path):
    folder = tmp_path / "made"
    done = run(
        "train-tokenizer",
        corpus,
        "--vocab-size",
        277,
        "--output",
        folder,
        "--special-token",
        "<s>",
        "--special-token",
        "<pad>",
    )
    assert (done.exit_code, done.stdout) == (0, f"{folder}\n")
    assert "277 tokens in" in done.stderr
    slow, fast = GPT2Tokenizer.from_pretrained(folder), GPT2TokenizerFast.from_pretrained(folder)
    assert slow.get_vocab() == fast.get_vocab()
    assert (fast.eos_token, fast.additional_special_tokens, len(fast)) == ("<s>", ["<pad>"], 277)
    assert "<|endoftext|>" not in fast.get_vocab()
    assert slow(TEXT, verbose=False)["input_ids"] == fast(TEXT, verbose=False)["input_ids"]
    assert "Ċ" + "Ċ" in fast.get_vocab()  # runs of newlines are seen, as in a call
    told = json.loads(run("tokenize", "--json", "-t", folder, "the cat").stdout)
    assert told["ids"] == fast("the cat")["input_ids"]


def test_training_again_gives_the_same_files_and_replaces_only_when_told(corpus, tmp_path):
    for name in ("one", "two"):
        assert (
            run("train-tokenizer", corpus, corpus, "--vocab-size", 300, "-o", tmp_path / name, "-q").exit_code
            == 0
        )
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    done = run("train-tokenizer", corpus, "--vocab-size", 270, "-o", tmp_path / "one")
    assert done.exit_code == 1
    assert "--overwrite" in done.stderr
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert (
        run("train-tokenizer", corpus, "--vocab-size", 270, "-o", tmp_path / "one", "--overwrite").exit_code
        == 0
    )
    assert len(GPT2Tokenizer.from_pretrained(tmp_path / "one")) == 270


def test_an_output_that_is_a_file_is_refused_before_the_training(corpus, monkeypatch):
    monkeypatch.setattr("gpt2kit.tokenization.train.train_bpe", None)
    done = run("train-tokenizer", corpus, "-o", corpus, "--overwrite")
    assert done.exit_code == 1
    assert "is a file" in " ".join(done.stderr.split())


def test_a_vocabulary_that_the_text_cannot_fill_is_said(corpus, tmp_path):
    done = run("train-tokenizer", corpus, "--vocab-size", 5000, "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert "The text has no more pairs" in done.stderr
    done = run("train-tokenizer", corpus, "--vocab-size", 100, "-o", tmp_path / "small")
    assert done.exit_code == 1
    assert "vocab_size is 100" in " ".join(done.stderr.split())
