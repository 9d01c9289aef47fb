"""The command `gpt2kit`: the list of its commands, and the one place where they end.

A new command is a module `cli/<name>.py` with one function, and one line in `COMMANDS`.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gpt2kit import __version__
from gpt2kit.cli.console import ending, leave_closed_pipe, show_warning, write
from gpt2kit.cli.doctor import doctor
from gpt2kit.cli.evaluate import evaluate
from gpt2kit.cli.generate import generate
from gpt2kit.cli.info import info
from gpt2kit.cli.tokenize import tokenize
from gpt2kit.cli.train import train
from gpt2kit.cli.train_tokenizer import train_tokenizer

__all__ = ["COMMANDS", "app", "run"]

USE, MAKE, LOOK = "Use a model", "Make a model", "Look at things"

# Command name -> (its function, the panel of `gpt2kit --help` that lists it).
COMMANDS: dict[str, tuple[Any, str]] = {
    "generate": (generate, USE),
    "tokenize": (tokenize, USE),
    "train-tokenizer": (train_tokenizer, MAKE),
    "train": (train, MAKE),
    "evaluate": (evaluate, LOOK),
    "info": (info, LOOK),
    "doctor": (doctor, LOOK),
}


class CommandGroup(TyperGroup):
    """All commands; whatever one of them raises becomes an exit code here and nowhere else."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the command line."""
        with ending():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with ending():
            return super().invoke(ctx)


app = typer.Typer(
    cls=CommandGroup,
    name="gpt2kit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug of ours shows Python's own traceback, no values of locals
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(asked: bool) -> None:
    """Print the version and end, where `--version` was given."""
    if asked:
        write(f"gpt2kit {__version__}\n")
        raise typer.Exit


@app.callback()
def gpt2kit(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=show_version, is_eager=True),
    ] = False,
) -> None:
    """GPT-2, complete: write, tokenize, evaluate, inspect and train, on this machine."""


for name, (function, panel) in COMMANDS.items():
    app.command(name, rich_help_panel=panel)(function)


def run() -> None:
    """Run the command line; the console script `gpt2kit` calls this."""
    prepare_streams()
    warnings.showwarning = show_warning
    try:
        app(prog_name="gpt2kit")
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            leave_closed_pipe()


def prepare_streams() -> None:
    """Let a stream that the shell closed lead nowhere, and one of few characters show escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for as long as the process lives
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
