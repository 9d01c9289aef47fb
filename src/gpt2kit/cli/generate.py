"""`gpt2kit generate`: go on with a text."""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2kit.cli.console import note, read_utf8, stderr
from gpt2kit.cli.framework import Framework
from gpt2kit.cli.option import as_typed, with_generation_options
from gpt2kit.errors import ConfigError, InputError

__all__ = ["Dtype", "generate"]

POCKET = "pocket"
POCKET_PROMPT = "ROMEO:\n"  # what the pocket model goes on with where nobody says anything


class Dtype(StrEnum):
    """The types that weights can be held in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@with_generation_options
def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(help="The text to go on with; - or a pipe reads it from stdin.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the prompt from this file.", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A folder or a hub name.")] = POCKET,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit on the hub.", show_default=False)
    ] = None,
    assistant_model: Annotated[
        str | None,
        typer.Option(help="A smaller model of the same vocabulary that drafts tokens.", show_default=False),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(help="The text that --guidance-scale leads away from.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="The same seed draws the same text.", show_default="random"),
    ] = None,
    framework: Annotated[
        Framework, typer.Option(help="What computes: torch (PyTorch), flax (JAX) or tensorflow.")
    ] = Framework.torch,
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda, cuda:1; mps with torch, tpu with flax; auto: a GPU if there is one, or the CPU."
        ),
    ] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="How the weights are held.")] = Dtype.float32,
    echo: Annotated[bool, typer.Option(help="Write the prompt before the text.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object per text.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say on stderr what will be done, rule by rule.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
    **generation: Any,
) -> None:
    """Go on with a text, token by token.

    The text goes to stdout as it is written, everything else to stderr. With --framework flax it is written
    when it is complete: one compiled program makes all of it, and is kept for the next start (docs/cli.md).

    [bold]Examples[/bold]

    gpt2kit generate "JULIET:" --max-new-tokens 60 --seed 7

    echo "Once upon a time" | gpt2kit generate --model gpt2 --do-sample --top-p 0.9

    gpt2kit generate "To be" --no-do-sample --json

    gpt2kit generate "To be" --model gpt2-xl --assistant-model gpt2

    gpt2kit generate "To be" --framework tensorflow
    """
    text = read_prompt(prompt, file)
    if text is None:
        text = POCKET_PROMPT if model == POCKET else ""
        if model == POCKET and not quiet:
            note(f"no prompt was given: going on with {POCKET_PROMPT!r}")
    with options_as_typed(generation):
        with loading(model, quiet):
            from gpt2kit.cli.writer import Writer

            writer = Writer.load(
                model,
                framework=framework,
                revision=revision,
                device=device,
                dtype=dtype.value,
                quiet=quiet,
                assistant=assistant_model,
            )
            job = writer.prepare(text, generation, seed, negative_prompt)
        if explain:
            stderr.print(job.plan.explain(), soft_wrap=True, markup=False)
        if as_json:
            writer.write_json(job)
        else:
            writer.write_text(job, echo=echo)


def read_prompt(prompt: str | None, file: Path | None) -> str | None:
    """Take the prompt from the argument, the file or stdin; None where there is none.

    One newline at the end of a file or of stdin is dropped, as the shell drops it in `$(cat file)`: the model
    would take it for the end of a line.

    Raises:
        InputError: where the text is not UTF-8; it says which byte is to blame.
    """
    if file is not None:
        if prompt is not None:
            raise typer.BadParameter("give the prompt or a file, not both", param_hint="--file")
        return _without_frame(read_utf8(file.read_bytes(), str(file)))
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        data = sys.stdin.buffer.read()
        return _without_frame(read_utf8(data, "stdin")) if data or prompt == "-" else None
    if prompt is None:
        return None
    return read_utf8(os.fsencode(prompt), "the prompt")


def _without_frame(text: str) -> str:
    """Drop a byte order mark at the front, and one newline, of either kind, at the end."""
    return text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")


@contextmanager
def options_as_typed(given: Container[str]) -> Iterator[None]:
    """Let what is refused name the options as the command line spells them."""
    try:
        yield
    except (ConfigError, InputError) as error:
        error.args = (as_typed(str(error), given),)
        raise


@contextmanager
def loading(model: str, quiet: bool) -> Iterator[None]:
    """Turn a spinner on stderr while a framework and the model are loaded, where somebody can see it."""
    if quiet or not stderr.is_terminal:
        yield
    else:
        with stderr.status(f"loading {model}"):
            yield
