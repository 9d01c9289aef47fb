"""How a command may end: exit codes, one sentence on stderr, no traceback but for bugs."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from gpt2kit import __version__
from gpt2kit.cli.console import ending
from gpt2kit.cli.main import COMMANDS, app
from gpt2kit.errors import InputError


def gpt2kit(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own."""
    command = [sys.executable, "-m", "gpt2kit", *arguments]
    options = {"capture_output": True, **options}
    return subprocess.run(command, text=True, timeout=120, **options)


def test_help_lists_every_command():
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for name in COMMANDS:
        assert name in shown.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name):
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f"gpt2kit {name} " in shown.stdout.split("Examples")[1]


def test_version():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"gpt2kit {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nope"], "--nope"),
        (["nope"], "nope"),
        (["info", "--nope"], "--nope"),
        (["generate", "--top-k", "many"], "--top-k"),
        (["generate", "--dtype", "int3"], "--dtype"),
        (["generate", "one", "two"], "two"),
        (["generate", "--num-beam", "4"], "--num-beam"),
        (["generate", "--seed", "-1"], "--seed"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_usage_and_exit_code_2(arguments, said):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Usage:" in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("Give a prompt."), 1, "gpt2kit: Give a prompt.\n"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a.txt"), 1,
         "gpt2kit: a.txt: No such file or directory\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "gpt2kit: No space left on device\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)  # fmt: skip
def test_a_users_mistake_is_one_sentence_and_an_exit_code(error, code, said, capsys):
    with pytest.raises(typer.Exit) as exit_, ending():
        raise error
    assert exit_.value.exit_code == code
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("bug", [ZeroDivisionError(), ValueError("ours"), OSError("of no file")])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)), ending():
        raise bug


def test_an_error_sentence_is_neither_wrapped_nor_read_as_markup(capsys):
    sentence = "a [bold] word " * 40
    with pytest.raises(typer.Exit), ending():
        raise InputError(sentence)
    assert capsys.readouterr().err == f"gpt2kit: {sentence}\n"


def test_a_closed_pipe_is_no_error():
    """`gpt2kit --help | head -c 10`, with a reader that has gone before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    done = gpt2kit("--help", capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_colour_where_nobody_sees_it():
    assert "\x1b" not in gpt2kit("--help").stdout


def test_a_character_that_the_terminal_cannot_show_is_written_as_its_escape():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = gpt2kit("info", "nowhere/é", env=environment)
    assert done.returncode == 1
    assert "\\xe9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-"])
def test_a_stream_that_the_shell_closed_is_no_error(redirection):
    command = f"'{sys.executable}' -m gpt2kit --version {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's")
def test_a_full_disk_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = gpt2kit("--version", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "gpt2kit: No space left on device\n")
