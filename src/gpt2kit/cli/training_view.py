"""What `gpt2kit train` shows: the summary before, the progress during, the losses after. All on stderr."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from gpt2kit.checkpoint.layout import parameter_counts
from gpt2kit.cli.console import note, stderr
from gpt2kit.cli.info import size
from gpt2kit.training import Metrics, Observer, Run, TrainingLoop
from gpt2kit.training.estimate import memory
from gpt2kit.training.plot import save_picture, terminal_plot
from gpt2kit.training.schedule import warmup_steps

__all__ = ["StopSignals", "View", "show_summary"]

_SHELL_SIGNAL = 128  # a shell's exit code for a command that a signal ended is this plus the signal's number


class StopSignals:
    """Ctrl-C and SIGTERM as a wish: the first one is remembered, the second one ends the program at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Start listening."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        """Let the signals do again what they did before."""
        self._restore()

    def __call__(self) -> bool:
        """Tell whether the user wants to stop."""
        return self.received is not None

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self._restore()
        note("stopping after this step; once more ends at once and loses the steps since the last checkpoint")

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


class View(Observer):
    """The display of a run, on a terminal as a bar, elsewhere as a line for each evaluation."""

    def __init__(self, out: Path, *, quiet: bool) -> None:
        self.out, self.quiet = out, quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=stderr,
            disable=quiet or not stderr.is_terminal,
            transient=True,
        )
        self._steps: TaskID | None = None
        self._windows: TaskID | None = None

    @contextmanager
    def tokenizing(self) -> Iterator[Callable[[int, int], None]]:
        """Show how much of the text has been tokenized."""
        with self._progress:
            task = self._progress.add_task("tokenizing", total=None, state="bytes")
            yield lambda done, total: self._progress.update(task, completed=done, total=total)
            self._progress.remove_task(task)

    def train(self, run: Run, make_trainer: Callable[..., TrainingLoop], *, plot: bool) -> None:
        """Train a run, then say where the result is and how to go on.

        Args:
            run: what to do.
            make_trainer: makes the loop of the run's framework.
            plot: draw the losses at the end.

        Raises:
            typer.Exit: with 128 plus the signal's number, where a signal ended the run.
        """
        if not self.quiet:
            show_summary(run, str(self.out), stderr)
        with StopSignals() as stop:
            trainer = make_trainer(run, self)
            if run.resumed_from is not None:
                self.noted(f"going on from step {trainer.step} of {run.steps}")
            with self._progress:
                self._steps = self._progress.add_task(
                    "training", total=run.steps, completed=trainer.step, state=trainer.opening
                )
                complete = trainer.fit(stop)
        self._finish(run, trainer.step, complete=complete, plot=plot)
        if stop.received is not None and not complete:
            raise typer.Exit(_SHELL_SIGNAL + stop.received)

    def _finish(self, run: Run, step: int, *, complete: bool, plot: bool) -> None:
        records = Metrics.read(run.folder.metrics)
        if plot and records:
            save_picture(records, run.folder.plot, str(self.out))
            if not self.quiet and stderr.is_terminal:
                stderr.print(terminal_plot(records, min(stderr.width, 100)), markup=False)
        best = min((r["eval_loss"] for r in records if "eval_loss" in r), default=None)
        if best is not None:
            self.noted(f"best evaluation loss {best:.4f}")
        name = "last" if best is None else "best"
        if complete:
            framework = "" if run.config.framework == "torch" else f" --framework {run.config.framework}"
            model = shlex.quote(str(self.out / name))
            self.noted(f"done. Try it: gpt2kit generate --model {model}{framework}")
        else:
            self.noted(
                f"stopped after step {step} of {run.steps} and saved. Go on: "
                f"gpt2kit train --resume --out {shlex.quote(str(self.out))}"
            )

    # What the trainer tells.

    def stepped(self, record: dict[str, Any]) -> None:
        """Move the bar."""
        if self._steps is not None:
            state = f"loss {record['loss']:.3f}  {record['tokens_per_second']:,.0f} tokens/s"
            self._progress.update(self._steps, completed=record["step"], state=state)

    def evaluating(self, done: int, windows: int) -> None:
        """Show a second bar while the held-out text is gone through."""
        if self._windows is None:
            self._windows = self._progress.add_task("evaluating", total=windows, state="")
        self._progress.update(self._windows, completed=done)

    def evaluated(self, record: dict[str, Any], best: bool) -> None:
        """Write one line."""
        if self._windows is not None:
            self._progress.remove_task(self._windows)
            self._windows = None
        self.noted(
            f"step {record['step']}: evaluation loss {record['eval_loss']:.4f}, "
            f"perplexity {record['eval_perplexity']:.2f}{' (best so far)' if best else ''}"
        )

    def noted(self, message: str) -> None:
        """Write a line above the bar."""
        if not self.quiet:
            note(message)


def show_summary(run: Run, folder: str, console: Console) -> None:
    """Say what will be done before it starts."""
    config, data = run.config, run.data
    counts = parameter_counts(run.model)
    parameters = sum(counts.values())
    estimate = memory(config, run.model, parameters, run.block_size)
    held_out = "nothing" if data.evaluation is None else f"{len(data.evaluation):,} tokens"
    model = run.model
    rows = {
        "model": f"{config.model or 'from scratch'}: {parameters:,} parameters "
        f"({model.n_layer} layers, {model.n_head} heads, width {model.n_embd}, "
        f"{model.n_positions} positions)",
        "text": f"{len(data.train):,} tokens of a vocabulary of {data.vocab_size:,}; held out: {held_out}"
        f"{' (token shards reused)' if run.data_reused else ''}",
        "steps": f"{run.steps:,} of {run.tokens_per_step:,} tokens "
        f"({config.accumulation} x {config.batch_size} x {run.block_size}): "
        f"{run.order.epoch_of(run.steps):.2f} times through the text",
        "learning rate": f"{config.peak_learning_rate:g} after {warmup_steps(config, run.steps):,} steps, "
        f"then down to {config.peak_learning_rate * config.final_learning_rate:g}",
        "memory": f"about {size(estimate.total)}: {size(estimate.state)} "
        f"for weights, gradients and AdamW, {size(estimate.activations)} "
        f"for {config.batch_size} sequences",
        "folder": folder,
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/bold]", value)
    console.print(table)
