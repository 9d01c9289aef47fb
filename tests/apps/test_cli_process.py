"""The command as a process of its own: signals, pipes, start-up. A run imports PyTorch, so they are few."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from tiny_folder import EOS, make_folder

pytest.importorskip("torch", reason="generation needs a framework")

COMMAND = [sys.executable, "-m", "gpt2kit", "generate", "To be"]


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """Arguments for a text that takes long enough to be interrupted."""
    folder = make_folder(tmp_path_factory.mktemp("endless"), n_positions=20011)
    return ["--model", str(folder), "--suppress-tokens", str(EOS), "--max-new-tokens", "20000"]


def start(arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def test_ctrl_c_is_exit_code_130_without_a_traceback(endless):
    with start(endless) as process:
        assert process.stdout.read(12).startswith(b"To be")  # it has begun to write
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert out.endswith(b"\n")


def test_a_reader_that_goes_away_is_no_error(endless):
    with start(endless) as process:
        process.stdout.read(12)
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, b"")


def test_the_pocket_model_starts_writing_within_three_seconds():
    """In processor time of one thread, so that other work on the machine does not count."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    spent = []
    for _ in range(2):
        before = os.times()
        subprocess.run([*COMMAND, "--max-new-tokens", "1"], env=environment, capture_output=True, check=True)
        after = os.times()
        spent.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert min(spent) < 3
