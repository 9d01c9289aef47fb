"""The command with TensorFlow as a process of its own: what is imported and said, signals, pipes."""

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

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="it computes with TensorFlow"
)

# Hides libraries as if they were not installed, runs a command, and says what was imported.
PROGRAM = """
import json, sys
hidden, *arguments = sys.argv[1:]
sys.modules.update(dict.fromkeys(hidden.split(",")))
sys.argv = ["gpt2kit", *arguments]
from gpt2kit.cli.main import run
try:
    run()
finally:
    loaded = [name for name in ("torch", "jax", "flax", "tensorflow") if sys.modules.get(name)]
    print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """As a user's, who has set none of the variables that the tests set."""
    names = ("XLA_FLAGS", "JAX_PLATFORMS", "TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    home = str(tmp_path_factory.mktemp("home"))
    return {**kept, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": home, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("model"), n_layer=2))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Arguments for a text that takes long enough to be interrupted."""
    folder = make_folder(tmp_path_factory.mktemp("endless"), n_positions=20011, n_layer=2)
    return ["--model", str(folder), "--suppress-tokens", str(EOS), "--max-new-tokens", "20000"]


def hiding(libraries, arguments, environment):
    command = [sys.executable, "-c", PROGRAM, libraries, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@needs_tensorflow
def test_with_tensorflow_no_other_framework_is_imported_nor_needed_and_nothing_is_said(folder, environment):
    """Nothing in half precision either, of which TensorFlow tells errors that are none."""
    few = ["generate", "To be", "--framework", "tensorflow", "--model", folder, "--max-new-tokens", "4"]
    few += ["--json", "--quiet", "--dtype", "float16"]
    done = hiding("torch,jax,flax", few, environment)
    assert (done.returncode, done.stderr) == (0, "")
    text, loaded = map(json.loads, done.stdout.splitlines())
    assert len(text["ids"]) == 4
    assert loaded == ["tensorflow"]


@needs_tensorflow
def test_doctor_says_nothing_but_its_tables(environment):
    """Also where another framework has been started before TensorFlow."""
    done = subprocess.run(
        [sys.executable, "-m", "gpt2kit", "doctor"],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "tensorflow" in done.stdout


def test_where_tensorflow_is_missing_one_sentence_says_what_to_install(environment):
    done = hiding("tensorflow", ["generate", "To be", "--framework", "tensorflow"], environment)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'gpt2kit[tensorflow]'" in done.stderr
    for framework in ("torch", "flax"):
        there = importlib.util.find_spec(framework) is not None
        assert (f"--framework {framework} computes with it" in done.stderr) == there


@needs_tensorflow
def test_where_keras_computes_with_another_framework_one_sentence_says_so(folder, environment):
    arguments = ["generate", "To be", "--framework", "tensorflow", "--model", folder]
    done = hiding("torch", arguments, {**environment, "KERAS_BACKEND": "numpy"})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "KERAS_BACKEND=tensorflow" in done.stderr


def start(arguments, environment, **streams):
    command = [sys.executable, "-m", "gpt2kit", "generate", "To be", "--framework", "tensorflow", *arguments]
    return subprocess.Popen(command, env=environment, **streams)


@needs_tensorflow
@pytest.mark.skipif(os.name != "posix", reason="a terminal is needed to see what the command is at")
@pytest.mark.parametrize(
    ("stage", "more"),
    [("loading", []), ("To be", []), ("writing", ["--num-beams", "3"])],
    ids=["loading", "text", "beams"],
)
def test_ctrl_c_ends_it_at_once_whatever_it_is_at(stage, more, endless, environment):
    ours, theirs = pty.openpty()
    with start([*endless, *more], {**environment, "TERM": "xterm"}, stdout=theirs, stderr=theirs) as process:
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
        assert process.wait(timeout=30) == 130
    os.close(ours)
    assert b"Traceback" not in shown
    assert b"terminate" not in shown
    assert shown.rfind(b"\x1b[?25h") >= shown.rfind(b"\x1b[?25l")  # the cursor can be seen


@needs_tensorflow
def test_a_reader_that_goes_away_is_no_error(endless, environment):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start([*endless, "--quiet"], environment, **streams) as process:
        assert process.stdout.read(5) == b"To be"
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, b"")
