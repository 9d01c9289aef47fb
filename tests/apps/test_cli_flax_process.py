"""The command with JAX as a process of its own: what is imported, signals, pipes, programs that are kept."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from tiny_folder import EOS, make_folder

needs_flax = pytest.mark.skipif(importlib.util.find_spec("flax") is None, reason="it computes with JAX")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="it computes with PyTorch")

# Hides libraries as if they were not installed, runs the command, and says what was imported.
PROGRAM = """
import json, sys
hidden, *arguments = sys.argv[1:]
sys.modules.update(dict.fromkeys(hidden.split(",")))
sys.argv = ["gpt2kit", "generate", "To be", *arguments]
from gpt2kit.cli.main import run
try:
    run()
finally:
    loaded = [name for name in ("torch", "jax", "flax", "tensorflow") if sys.modules.get(name)]
    print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Keep programs where no other test does."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home):
    names = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(home), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("model"), n_layer=2))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Arguments for a text that takes long enough to be interrupted."""
    folder = make_folder(tmp_path_factory.mktemp("endless"), n_positions=20011)
    return ["--model", str(folder), "--suppress-tokens", str(EOS), "--max-new-tokens", "20000"]


def hiding(libraries, arguments, environment):
    command = [sys.executable, "-c", PROGRAM, libraries, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@needs_flax
def test_with_jax_no_other_framework_is_imported_nor_needed(folder, environment, home):
    """Twice: the second start finds the program of the first."""
    few = ["--framework", "flax", "--model", folder, "--max-new-tokens", "4", "--json", "--quiet"]
    told = []
    for _ in range(2):
        done = hiding("torch,tensorflow", few, environment)
        assert (done.returncode, done.stderr) == (0, "")
        text, loaded = map(json.loads, done.stdout.splitlines())
        assert loaded == ["jax", "flax"]
        told.append(text)
    assert told[0]["ids"] == told[1]["ids"]
    programs = home / "gpt2kit" / "jax"
    assert programs.stat().st_mode & 0o777 == 0o700
    assert sum(file.name.startswith("jit_traced") for file in programs.iterdir()) == 1  # not made again


@needs_torch
def test_with_pytorch_jax_is_not_imported(folder, environment):
    few = ["--model", folder, "--max-new-tokens", "1", "--quiet"]
    done = hiding("tensorflow", few, environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1]) == ["torch"]


@pytest.mark.parametrize(
    ("hidden", "framework", "other"),
    [
        pytest.param("torch", "torch", "flax", marks=needs_flax),
        pytest.param("jax,flax", "flax", "torch", marks=needs_torch),
        pytest.param("flax", "flax", "torch", marks=needs_torch),
        ("torch,jax,flax,tensorflow", "torch", None),
    ],
)
def test_a_framework_that_is_missing_is_one_sentence_that_names_the_other(
    hidden, framework, other, environment
):
    arguments = [] if framework == "torch" else ["--framework", framework]  # PyTorch is the default
    done = hiding(hidden, arguments, environment)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"gpt2kit[{framework}]" in done.stderr
    assert ("is installed: --framework" in done.stderr) == (other is not None)
    assert other is None or f"--framework {other} " in done.stderr


def start(arguments, environment, **streams):
    command = [sys.executable, "-m", "gpt2kit", "generate", "To be", "--framework", "flax", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, **streams)


@needs_flax
@pytest.mark.skipif(os.name != "posix", reason="a terminal is needed to see what the command is at")
@pytest.mark.parametrize("stage", ["loading", "compiling", "writing"])
def test_ctrl_c_ends_it_at_once_whatever_it_is_at(stage, endless, environment):
    ours, theirs = pty.openpty()
    environment = {**environment, "TERM": "xterm", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    with start(endless, environment, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while stage.encode() not in shown:
            shown += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                shown += os.read(ours, 1000)
            except OSError:  # Linux says so of a terminal that nobody writes to any more
                break
        out = process.stdout.read()
        assert process.wait(timeout=30) == 130
    os.close(ours)
    assert out == b""
    assert b"Traceback" not in shown
    assert b"terminate" not in shown
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")  # the cursor can be seen again


@needs_flax
def test_a_reader_that_goes_away_is_no_error(folder, environment):
    few = ["--model", folder, "--max-new-tokens", "4", "--quiet"]
    with start(few, environment, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, b"")


@needs_flax
def test_what_jax_computes_on_cannot_be_started_is_one_sentence(folder, environment):
    few = ["--model", folder, "--max-new-tokens", "4", "--quiet"]
    with start(few, {**environment, "JAX_PLATFORMS": "cuda"}, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count(b"\n")) == (1, b"", 1)
    assert b"JAX_PLATFORMS" in err
