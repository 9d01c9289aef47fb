"""`gpt2kit train` as users meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="the command trains with PyTorch unless it is told otherwise")

from gpt2kit.cli.main import app
from gpt2kit.training import Metrics, TrainingConfig

TEXT = "".join(
    f"Line {number} of the play: thou art number {number * number}, my lord.\n" for number in range(53)
)
SMALL = [
    "--vocab-size",
    "283",
    "--n-layer",
    "1",
    "--n-head",
    "3",
    "--n-embd",
    "33",
    "--n-positions",
    "13",
    "--batch-size",
    "5",
    "--steps",
    "6",
    "--eval-every",
    "3",
    "--save-every",
    "3",
    "--dropout",
    "0.1",
]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text(TEXT)
    return path


def gpt2kit(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_it_trains_and_says_where_the_model_is(text, tmp_path):
    result = gpt2kit(text, "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    for said in (
        "parameters",
        "tokens of a vocabulary of 283",
        "memory",
        "step 6: evaluation loss",
        "perplexity",
    ):
        assert said in result.stderr
    assert f"gpt2kit generate --model {tmp_path / 'run' / 'best'}" in result.stderr.replace("\n", "")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best",
        "data",
        "last",
        "loss.png",
        "metrics.jsonl",
        "training.json",
    ]
    assert (tmp_path / "run" / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads((tmp_path / "run" / "training.json").read_text())["vocab_size"] == 283


def test_every_setting_is_an_option():
    help_text = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).stdout
    for field in fields(TrainingConfig):
        assert "--" + field.name.replace("_", "-") in help_text


def test_a_dry_run_writes_nothing(text, tmp_path):
    result = gpt2kit(text, "--out", tmp_path / "run", "--data", tmp_path / "shards", "--dry-run", *SMALL)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "23,331 parameters" in result.stdout
    assert "nothing was written" in result.stdout
    assert list(tmp_path.iterdir()) == [text]


def test_a_dry_run_refuses_the_folder_that_the_run_would_refuse(text, tmp_path):
    gpt2kit(text, "--out", tmp_path / "run", "--no-plot", *SMALL)
    result = gpt2kit(text, "--out", tmp_path / "run", "--dry-run", *SMALL)
    assert result.exit_code == 1
    assert "holds a run already" in result.stderr
    assert gpt2kit(text, "--out", tmp_path / "run", "--dry-run", "--overwrite", *SMALL).exit_code == 0
    assert (tmp_path / "run" / "last").is_dir()


MATERIAL = os.environ.get("GPT2KIT_MATERIAL")


@pytest.mark.skipif(MATERIAL is None, reason="GPT2KIT_MATERIAL names no folder with tiny Shakespeare")
def test_tiny_shakespeare_has_the_number_of_tokens_that_is_known():
    text = Path(str(MATERIAL)) / "text" / "tinyshakespeare.txt"
    result = gpt2kit(text, "--tokenizer", "gpt2", "--dry-run")
    assert "301,966 tokens of a vocabulary of 50,257; held out: 36,059 tokens" in " ".join(
        result.stdout.split()
    )


def test_quiet_says_nothing(text, tmp_path):
    result = gpt2kit(text, "--out", tmp_path / "run", "--quiet", "--no-plot", *SMALL)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert not (tmp_path / "run" / "loss.png").exists()


def test_a_run_is_neither_overwritten_nor_resumed_unasked(text, tmp_path):
    gpt2kit(text, "--out", tmp_path / "run", "--no-plot", *SMALL)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    result = gpt2kit(text, "--out", tmp_path / "run", "--no-plot", *SMALL)
    assert result.exit_code == 1
    assert "holds a run already" in result.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    result = gpt2kit(text, "--out", tmp_path / "run", "--no-plot", "--overwrite", *SMALL, "--seed", 3)
    assert result.exit_code == 0, result.stderr
    assert "token shards reused" in " ".join(result.stderr.split())
    assert (tmp_path / "run" / "metrics.jsonl").read_text() != before


def test_a_complete_run_resumed_is_still_complete(text, tmp_path):
    gpt2kit(text, "--out", tmp_path / "run", "--no-plot", *SMALL)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    result = gpt2kit("--resume", "--out", tmp_path / "run", "--no-plot")
    assert result.exit_code == 0, result.stderr
    assert "going on from step 6 of 6" in result.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_runs_can_share_their_shards(text, tmp_path):
    for name in ("a", "b"):
        result = gpt2kit(text, "--out", tmp_path / name, "--data", tmp_path / "shards", "--no-plot", *SMALL)
        assert result.exit_code == 0, result.stderr
        assert not (tmp_path / name / "data").exists()
    assert "token shards reused" in " ".join(result.stderr.split())
    text.write_text(TEXT + "more")
    result = gpt2kit(text, "--out", tmp_path / "c", "--data", tmp_path / "shards", "--no-plot", *SMALL)
    assert result.exit_code == 1
    assert "were made of something else (not the same: text)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([], 2, "name at least one text file"),
        (["{text}", "--resume", "--overwrite"], 2, "--resume"),
        (["{text}", "--steps", "many"], 2, "--steps"),
        (["{text}", "--precision", "fp8"], 2, "--precision"),
        (["{text}", "--speed", "9"], 2, "No such option"),
        (["{folder}/none.txt"], 1, "There is no text file"),
        (["{folder}"], 1, "is a folder"),
        (["{folder}/empty.txt"], 1, "is empty"),
        (["{folder}/latin1.txt"], 1, "is not UTF-8: byte 3"),
        (["{folder}/tiny.txt"], 1, "give more text"),
        (["{text}", "--steps", "0"], 1, "steps must be a whole number of at least 1"),
        (["{text}", "--eval-file", "{folder}/none.txt"], 1, "There is no text file"),
        (["{text}", "--eval-file", "{folder}/empty.txt"], 1, "is empty: name files with text in them"),
        (["{text}", "--eval-file", "{text}", "--eval-fraction", "0.2"], 1, "give one of them"),
        (["--resume", "--dry-run"], 2, "--dry-run"),
        (["--resume"], 1, "holds no run"),
        (["{text}", "--n-head", "5"], 1, "n_head"),
    ],
)
def test_a_mistake_is_one_sentence(text, tmp_path, arguments, code, named):
    for name, content in {"empty": b"", "latin1": b"caf\xe9 noir", "tiny": b"thou"}.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    filled = [argument.format(text=text, folder=tmp_path) for argument in arguments]
    settings = [] if "--resume" in arguments else SMALL
    result = gpt2kit("--out", tmp_path / "run", "--no-plot", *settings, *filled)
    assert result.exit_code == code, result.stderr
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    if code == 1:
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "training.json").exists()


def test_resuming_with_other_settings_is_refused(text, tmp_path):
    gpt2kit(text, "--out", tmp_path / "run", "--no-plot", *SMALL)
    result = gpt2kit("--resume", "--out", tmp_path / "run", "--no-plot", "--steps", 7)
    assert result.exit_code == 1
    assert "steps is 6, not 7" in result.stderr


def test_a_missing_plotting_library_is_said_before_the_run(text, tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotext" else real(name))
    result = gpt2kit(text, "--out", tmp_path / "run", *SMALL)
    assert result.exit_code == 1
    assert "pip install 'gpt2kit[train]'" in result.stderr
    assert not (tmp_path / "run").exists()


def interrupt(number, text, out, *settings):
    """Run the command in a process of its own and signal it after a few steps; return what it said."""
    command = [sys.executable, "-m", "gpt2kit", "train", str(text), "--out", str(out), "--no-plot", *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    metrics = out / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    return said


LONG = [*SMALL, "--steps", "200", "--eval-every", "1000", "--save-every", "1000"]


def test_ctrl_c_saves_and_the_resumed_run_equals_an_uninterrupted_one(text, tmp_path):
    said = interrupt(signal.SIGINT, text, tmp_path / "run", *LONG)
    assert "and saved. Go on: gpt2kit train --resume --out" in said
    assert 3 < Metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]["step"] < 200
    assert gpt2kit("--resume", "--out", tmp_path / "run", "--no-plot").exit_code == 0
    assert gpt2kit(text, "--out", tmp_path / "whole", "--no-plot", *LONG).exit_code == 0
    kept = ("step", "loss", "eval_loss", "gradient_norm")
    found, expected = (
        [
            tuple(record.get(name) for name in kept)
            for record in Metrics.read(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("run", "whole")
    )
    assert found == expected


def test_a_run_goes_on_when_nobody_reads_what_it_says(text, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "gpt2kit",
        "train",
        str(text),
        "--out",
        str(tmp_path / "run"),
        "--no-plot",
    ]
    done = subprocess.run([*command, *SMALL], stderr=writing, timeout=120)
    os.close(writing)
    assert done.returncode == 0
    assert Metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 6


def test_a_polite_kill_saves_too(text, tmp_path):
    said = interrupt(signal.SIGTERM, text, tmp_path / "run", *LONG)
    assert "and saved. Go on" in said
    assert (tmp_path / "run" / "last" / "training_state.pt").exists()
