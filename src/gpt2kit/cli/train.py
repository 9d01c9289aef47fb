"""`gpt2kit train`: learn from text files. The settings are the fields of TrainingConfig, one option each."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from gpt2kit.cli.console import stdout
from gpt2kit.training.config import TrainingConfig

if TYPE_CHECKING:
    from gpt2kit.training import TrainingLoop

__all__ = ["train"]


def with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Replace the `**given` of a command by one option for each field of TrainingConfig.

    The function gets only the settings that the user gave; the rest keep the defaults of TrainingConfig,
    or, on resuming, those of the run.
    """
    own = [
        parameter
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    kinds = get_type_hints(TrainingConfig)
    options = {field.name: _parameter(field, kinds[field.name]) for field in fields(TrainingConfig)}
    parameters = [*own, *options.values()]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name in options:
            given = values.pop(name)
            if given is not None:
                values[name] = given.value if isinstance(given, StrEnum) else given
        function(**values)

    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    setattr(command, "__signature__", inspect.Signature(parameters))  # noqa: B010 (mypy knows no such attribute)
    return command


def _parameter(field: Field[Any], kind: Any) -> inspect.Parameter:
    """Describe one field to typer: absent means None, whatever its default is."""
    choices = [argument for argument in get_args(kind) if isinstance(argument, str)]
    make_enumeration: Any = StrEnum  # mypy wants its name as a literal
    if choices:  # Literal["fp32", "bf16"]
        plain = make_enumeration(field.name, choices)
    else:
        plain = next((argument for argument in get_args(kind) if argument is not type(None)), kind)
    shown = False if field.default in (None, MISSING) else str(field.default)
    option = typer.Option(
        None, help=field.metadata["help"], rich_help_panel=field.metadata["group"], show_default=shown
    )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=plain | None
    )


@with_settings
def train(
    text: Annotated[
        list[Path] | None, typer.Argument(help="Text files (UTF-8) to learn from.", show_default=False)
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Run folder: all that is written goes there.")
    ] = Path("run"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away the run in the folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and end.")] = False,
    plot: Annotated[bool, typer.Option(help="Draw the losses at the end.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
    **given: Any,
) -> None:
    """Train a GPT-2 on text files, from scratch or from a model.

    Text is tokenized once and kept as token shards. Ctrl-C ends the step, saves, and says how to go on.
    The folder `best` in the run folder is a model for `gpt2kit generate --model`.

    [bold]Examples[/bold]

    gpt2kit train novel.txt --model gpt2 --out runs/novel

    gpt2kit train plays.txt --vocab-size 1024 --n-layer 6 --n-head 6 --n-embd 192 --n-positions 256

    gpt2kit train --resume --out runs/novel
    """
    if resume and (overwrite or dry_run):
        raise typer.BadParameter(
            "it goes on with the run in the folder; leave out --overwrite and --dry-run",
            param_hint="--resume",
        )
    if not resume and not text:
        raise typer.BadParameter("name at least one text file", param_hint="TEXT")
    from gpt2kit import training
    from gpt2kit.training.plot import check_plotting

    if plot and not dry_run:
        check_plotting()
    if dry_run:
        from gpt2kit.cli.training_view import show_summary

        training.RunFolder(out).check_free(overwrite=overwrite)
        config = TrainingConfig(**{**given, "data": None})  # shards elsewhere are not touched either
        with tempfile.TemporaryDirectory() as folder:
            show_summary(training.start(text or [], folder, config), "nothing was written", stdout)
        return
    from gpt2kit.cli.training_view import View

    view = View(out, quiet=quiet)
    if resume:
        run = training.resume(out, given, text or [])
        trainer = _trainer(run.config)
    else:
        config = TrainingConfig(**given)
        trainer = _trainer(
            config
        )  # where the framework is missing, this says so before the text is tokenized
        with view.tokenizing() as progress:
            run = training.start(text or [], out, config, overwrite=overwrite, progress=progress)
    view.train(run, trainer, plot=plot)


def _trainer(config: TrainingConfig) -> Callable[..., TrainingLoop]:
    """Enter the room that a run names, and return what trains there.

    Raises:
        MissingDependencyError: Its framework is not installed.
    """
    from gpt2kit.cli.framework import Framework, part

    trainer: Callable[..., TrainingLoop] = part(Framework(config.framework), "trainer").trainer
    return trainer
