"""The JAX loop: what is its own; what it shares with PyTorch's is tested in test_train_loop.py."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("jax", reason="the loop computes with it")

import jax
import jax.numpy as jnp
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from compiled import compiled_once
from gpt2kit import FlaxGPT2LMHeadModel
from gpt2kit.cli.main import app
from gpt2kit.errors import StorageError, TrainingError
from gpt2kit.flax.training import Trainer
from gpt2kit.training import Metrics, Observer, TrainingConfig, resume, start

TEXT = "".join(
    f"Line {number} of the play: thou art number {number * number}, my lord.\n" for number in range(53)
)
SMALL = {
    "framework": "flax",
    "vocab_size": 283,
    "n_layer": 1,
    "n_head": 3,
    "n_embd": 33,
    "n_positions": 13,
    "batch_size": 4,
    "steps": 7,
    "eval_every": 3,
    "save_every": 3,
    "learning_rate": 0.01,
    "dropout": 0.2,
    "seed": 7,
}


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    with compiled_once(folder):
        yield folder


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text(TEXT)
    return path


def make(text, folder, **settings):
    return start([text], folder, TrainingConfig(**{**SMALL, **settings}))


def numbers(folder):
    """Everything in the metrics that is not a time."""
    times = ("tokens_per_second", "seconds")
    return [
        {name: value for name, value in record.items() if name not in times}
        for record in Metrics.read(folder / "metrics.jsonl")
    ]


def same_weights(one, other):
    expected, found = (load_file(folder / "model.safetensors") for folder in (one, other))
    return expected.keys() == found.keys() and all(
        np.array_equal(expected[name], found[name]) for name in expected
    )


class StopAt:
    """Ask to stop once so many steps are done, or in the middle of an evaluation."""

    def __init__(self, step, *, in_evaluation=False):
        self.trainer, self.step, self.in_evaluation, self.calls = None, step, in_evaluation, 0

    def __call__(self):
        if self.trainer.step < self.step:
            return False
        self.calls += 1
        return self.calls > 2 or not self.in_evaluation


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulation": 3, "batch_size": 2, "loss_chunk_size": 6, "precision": "bf16"}],
    ids=["plain", "accumulation-chunks-and-bf16"],
)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one_bit_by_bit(text, tmp_path, settings):
    assert Trainer(make(text, tmp_path / "whole", **settings)).fit()
    stops = (StopAt(2), StopAt(3, in_evaluation=True))
    for number, stop in enumerate(stops):
        run = resume(tmp_path / "parts") if number else make(text, tmp_path / "parts", **settings)
        stop.trainer = Trainer(run)
        assert not stop.trainer.fit(stop)
    assert Trainer(resume(tmp_path / "parts")).fit()
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    for name in ("last", "best"):
        assert same_weights(tmp_path / "whole" / name, tmp_path / "parts" / name)
    losses = [record["loss"] for record in numbers(tmp_path / "whole") if "loss" in record]
    assert losses[-1] < losses[0] - 0.3


def test_a_killed_run_goes_on_from_its_last_checkpoint_and_becomes_the_same(text, tmp_path):
    Trainer(make(text, tmp_path / "whole")).fit()

    class Killed(BaseException):
        pass

    class Kill(Observer):
        def stepped(self, record):
            if record["step"] == 5:
                raise Killed

    with pytest.raises(Killed):
        Trainer(make(text, tmp_path / "killed"), Kill()).fit()
    trainer = Trainer(resume(tmp_path / "killed"))
    assert trainer.step == 3
    assert trainer.fit()
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    trainer = Trainer(make(text, tmp_path / "again"))
    stop = StopAt(4)
    stop.trainer = trainer
    assert not trainer.fit(stop)
    assert trainer.fit()  # without loading anything
    assert numbers(tmp_path / "again") == numbers(tmp_path / "whole")


def test_dropout_and_weights_follow_the_seed_whatever_its_size(text, tmp_path):
    first = {}
    for name, settings in {
        "a": {},
        "large": {"seed": 7 + 2**32},
        "dropout": {"dropout": 0.0},
    }.items():
        Trainer(make(text, tmp_path / name, steps=1, **settings)).fit()
        first[name] = [record.get("loss", record.get("eval_loss")) for record in numbers(tmp_path / name)]
    assert first["a"][0] != first["large"][0]
    assert first["a"][0] == first["dropout"][0]
    assert first["a"][1] != first["dropout"][1]


def test_a_checkpoint_opens_in_every_framework(text, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch opens the checkpoint")
    from gpt2kit import GPT2LMHeadModel

    trainer = Trainer(make(text, tmp_path / "run", save_dtype="float16"))
    trainer.fit()
    ids = np.array([[2, 3, 5, 7, 11]])
    expected = trainer.model(ids, params=trainer.state.params).logits  # [1, 5, V]
    last = GPT2LMHeadModel.from_pretrained(tmp_path / "run" / "last", torch_dtype="auto")
    best = GPT2LMHeadModel.from_pretrained(tmp_path / "run" / "best", torch_dtype="auto")
    assert (best.dtype, last.dtype) == (torch.float16, torch.float32)
    assert best.config.eos_token_id == last.config.eos_token_id is not None
    with torch.no_grad():
        np.testing.assert_allclose(last(torch.from_numpy(ids)).logits, expected, atol=2e-6)
    again = FlaxGPT2LMHeadModel.from_pretrained(tmp_path / "run" / "last")
    np.testing.assert_array_equal(again(ids).logits, expected)


def test_fine_tuning_starts_from_the_model_in_float32(text, tmp_path):
    Trainer(make(text, tmp_path / "first", save_dtype="bfloat16")).fit()
    settings = {"model": str(tmp_path / "first" / "best"), "batch_size": 4, "steps": 1, "learning_rate": 1e-9}
    run = start([text], tmp_path / "second", TrainingConfig(**settings, framework="flax"))
    trainer = Trainer(run)
    assert {leaf.dtype for leaf in jax.tree.leaves(trainer.state.params)} == {jnp.dtype(jnp.float32)}
    assert trainer.fit()
    before = [record["eval_loss"] for record in numbers(tmp_path / "first") if "eval_loss" in record]
    assert numbers(tmp_path / "second")[0]["eval_loss"] == pytest.approx(min(before), abs=0.01)


def test_a_loss_that_is_not_a_number_stops_with_a_sentence_and_changes_nothing(text, tmp_path):
    settings = {"learning_rate": 1e30, "warmup_steps": 0, "eval_fraction": 0.0}
    trainer = Trainer(make(text, tmp_path / "run", **settings))
    with pytest.raises(TrainingError, match=r"the run has diverged.*smaller --learning-rate"):
        trainer.fit()
    assert trainer.step > 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(trainer.state.params))


def test_a_device_that_is_not_there_is_refused(text, tmp_path):
    for number, name in enumerate(("cuda:99", "abacus", "cpu:99", "cpu:one")):
        with pytest.raises(TrainingError, match=f"The device '{name}' cannot be used here"):
            Trainer(make(text, tmp_path / str(number), device=name))


def test_the_loop_of_another_framework_is_refused(text, tmp_path):
    with pytest.raises(TrainingError, match=r"take gpt2kit\.torch\.training\.Trainer"):
        Trainer(make(text, tmp_path / "run", framework="torch"))


def test_a_state_that_cannot_be_taken_up_is_refused(text, tmp_path):
    trainer = Trainer(make(text, tmp_path / "run"))
    trainer.fit(lambda: True)
    path = tmp_path / "run" / "last" / "training_state.safetensors"
    whole = path.read_bytes()

    def refused(sentence):
        with pytest.raises(TrainingError, match=sentence):
            Trainer(resume(tmp_path / "run"))

    path.write_bytes(whole[:-100])
    refused("cannot be read")
    path.write_bytes(b"{}")
    refused("cannot be read")
    tensors = load_file(path) if path.write_bytes(whole) else {}
    save_file(tensors, path)
    refused("cannot be read")  # no progress in it
    about = {"progress": json.dumps({"format": 1, "data": trainer.run.data_identity})}
    save_file({name: tensors[name] for name in sorted(tensors)[1:]}, path, about)
    refused("does not hold the state of this model's optimizer")
    save_file(tensors, path, {"progress": json.dumps({"format": 2})})
    refused("written by another version")
    path.unlink()
    refused("has no training_state.safetensors.*cannot be resumed")


def test_a_full_disk_leaves_the_checkpoint_before(text, tmp_path, monkeypatch):
    stop = StopAt(2)
    stop.trainer = trainer = Trainer(make(text, tmp_path / "run"))
    trainer.fit(stop)
    again = Trainer(resume(tmp_path / "run"))

    def full(*_, **__):
        raise StorageError("training_state.safetensors could not be written: No space left")

    with monkeypatch.context() as patch:
        patch.setattr("gpt2kit.training.state.save_safetensors", full)
        with pytest.raises(StorageError):
            again.fit()
    assert again.step > 2
    assert Trainer(resume(tmp_path / "run")).step == 2


def test_every_step_and_every_evaluation_is_one_program(text, tmp_path):
    trainer = Trainer(make(text, tmp_path / "run"))
    windows = -(-(len(trainer.run.data.evaluation) - 1) // 13)
    assert windows % SMALL["batch_size"]  # so that the last batch is not full
    trainer.fit()
    assert (trainer._jitted_step._cache_size(), trainer._jitted_sum._cache_size()) == (1, 1)


# The command.

OPTIONS = [
    argument for name, value in SMALL.items() for argument in (f"--{name.replace('_', '-')}", str(value))
]


def gpt2kit(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_trains_in_flax_and_generates_in_torch(text, tmp_path):
    result = gpt2kit("train", text, "--out", tmp_path / "run", "--no-plot", *OPTIONS)
    assert result.exit_code == 0, result.stderr
    assert f"gpt2kit generate --model {tmp_path / 'run' / 'best'} --framework flax" in result.stderr.replace(
        "\n", ""
    )
    assert json.loads((tmp_path / "run" / "training.json").read_text())["framework"] == "flax"
    model = ("--model", tmp_path / "run" / "best", "--max-new-tokens", 7, "--quiet")
    reader = "flax" if importlib.util.find_spec("torch") is None else "torch"
    written = gpt2kit("generate", "thou art", *model, "--framework", reader, "--no-do-sample")
    assert written.exit_code == 0, written.stderr
    assert len(written.stdout) > 0
    other = gpt2kit("train", "--resume", "--out", tmp_path / "run", "--framework", "torch", "--no-plot")
    assert other.exit_code == 1
    assert "framework is 'flax', not 'torch'" in other.stderr


def test_a_polite_kill_saves_and_the_resumed_run_equals_an_uninterrupted_one(text, tmp_path, programs):
    longer = [*OPTIONS, "--steps", "150", "--eval-every", "1000", "--save-every", "1000"]
    out = tmp_path / "run"
    command = [sys.executable, "-m", "gpt2kit", "train", str(text), "--out", str(out), "--no-plot", *longer]
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as in this process
    }
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | settings)
    metrics = out / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "and saved. Go on: gpt2kit train --resume --out" in said
    assert 3 < numbers(out)[-1]["step"] < 150
    assert gpt2kit("train", "--resume", "--out", out, "--no-plot").exit_code == 0
    assert gpt2kit("train", text, "--out", tmp_path / "whole", "--no-plot", *longer).exit_code == 0
    assert numbers(out) == numbers(tmp_path / "whole")


@pytest.mark.parametrize(
    ("library", "named"), [("jax", "needs JAX and Flax"), ("optax", "Training in JAX needs optax")]
)
def test_a_missing_framework_is_said_before_the_text_is_read(text, tmp_path, library, named):
    program = f"import sys; sys.modules[{library!r}] = None; from gpt2kit.cli.main import run; run()"
    command = [sys.executable, "-c", program, "train", str(text), "--out", str(tmp_path / "run"), "--no-plot"]
    done = subprocess.run([*command, *OPTIONS], capture_output=True, text=True)
    assert done.returncode == 1
    assert named in done.stderr
    assert "pip install 'gpt2kit[flax]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
