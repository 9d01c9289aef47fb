"""The losses of a run as a picture and in the terminal. Needs the extra `gpt2kit[train]`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2kit.atomic import atomic_file
from gpt2kit.errors import MissingDependencyError

__all__ = ["check_plotting", "save_picture", "terminal_plot"]

_SMOOTHING = 0.05  # the line of the training loss covers this part of the run


def check_plotting() -> None:
    """Find out before a run whether its losses can be drawn.

    Raises:
        MissingDependencyError: matplotlib or plotext is not installed.
    """
    missing = [name for name in ("matplotlib", "plotext") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"The loss plot needs {' and '.join(missing)}: pip install 'gpt2kit[train]', or go without it "
            "by --no-plot."
        )


def curves(records: Sequence[dict[str, Any]]) -> tuple[list[int], list[float], list[int], list[float]]:
    """Pick from the metrics: steps and training losses, steps and evaluation losses."""
    learnt = [(record["step"], record["loss"]) for record in records if "loss" in record]
    held_out = [(record["step"], record["eval_loss"]) for record in records if "eval_loss" in record]
    return (
        [step for step, _ in learnt],
        [loss for _, loss in learnt],
        [step for step, _ in held_out],
        [loss for _, loss in held_out],
    )


def smooth(values: Sequence[float]) -> list[float]:
    """Average each value with those before it, over a small part of the run."""
    width = max(1, int(_SMOOTHING * len(values)))
    return [
        sum(values[max(0, place - width + 1) : place + 1]) / min(width, place + 1)
        for place in range(len(values))
    ]


def save_picture(records: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the losses into a PNG."""
    steps, losses, eval_steps, eval_losses = curves(records)
    # A Figure of its own, not pyplot: no window system, no state shared with a program that calls this.
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(losses), color="tab:blue", linewidth=1.5, label="training")
    if eval_steps:
        axes.plot(eval_steps, eval_losses, color="tab:orange", marker="o", markersize=3.5, label="evaluation")
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)


def terminal_plot(records: Sequence[dict[str, Any]], width: int, height: int = 16) -> str:
    """Draw the losses in characters."""
    steps, losses, eval_steps, eval_losses = curves(records)
    plotext = importlib.import_module("plotext")
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    if steps:
        figure.draw(figure.signal(steps, smooth(losses), marker="hd").lines())
    if eval_steps:
        figure.draw(figure.signal(eval_steps, eval_losses, marker="o"))
    figure.title("loss by step: training ▚, evaluation o")
    # Without its colours it is readable on dark and on light terminals, and in a file.
    return str(plotext.uncolorize(str(figure.build())))
