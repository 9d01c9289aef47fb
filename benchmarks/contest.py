"""Run two libraries in turn, each time in a new process, and compare their medians.

Taking turns is what makes the ratio trustworthy on a machine that others use too: what slows one slows the
other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WORKER = Path(__file__).with_name("worker.py")
OURS, THEIRS = "gpt2kit", "transformers"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table: which figure, how it is written, and which way is better."""

    title: str
    key: str
    unit: str
    higher_is_better: bool = False
    target: float | None = None

    def ratio(self, ours: float, theirs: float) -> float:
        """Return how many times better ours is."""
        return ours / theirs if self.higher_is_better else theirs / ours


def parser_of(
    description: str | None, sizes: Iterable[str], new_tokens: int, quick_tokens: int
) -> argparse.ArgumentParser:
    """Return a parser of the options that every comparison of `generate` has.

    Args:
        description: What the script measures.
        sizes: Checkpoints to choose from.
        new_tokens: Tokens that are written by default.
        quick_tokens: Tokens that `--quick` writes.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=sizes, default="124M", help="size of the random checkpoint (default: 124M)")
    add("--prompt-length", type=int, default=128, help="tokens of a prompt (default: 128)")
    add("--new-tokens", type=int, default=new_tokens, help=f"tokens to write (default: {new_tokens})")
    add("--repeats", type=int, default=5, help="processes for each library (default: 5)")
    add("--inner-repeats", type=int, default=2, help="measurements in each process (default: 2)")
    add("--threads", type=int, help="threads of PyTorch (default: its own choice)")
    add("--quick", action="store_true", help=f"2 processes, {quick_tokens} new tokens, 1 measurement in each")
    add("--output", type=Path, help="write every measurement to this JSON file")
    return parser


def run_rounds(pythons: dict[str, Path], rounds: int, task: dict[str, Any]) -> dict[str, list[Figures]]:
    """Measure each library `rounds` times in turn, after one round that only warms the disk's cache.

    Args:
        pythons: The interpreter that has each library.
        rounds: How many counted runs each gets.
        task: What the worker is asked to do.
    """
    results: dict[str, list[Figures]] = {name: [] for name in pythons}
    for turn in range(rounds + 1):
        names = list(pythons) if turn % 2 else list(reversed(pythons))  # neither is always the first
        for name in names:
            if turn == 0:
                run_once(pythons[name], task | {"library": name, "task": task.get("warm_up", task["task"])})
                continue
            print(f"  round {turn} of {rounds}: {name}", file=sys.stderr)
            results[name].append(run_once(pythons[name], task | {"library": name}))
    return results


def run_once(python: Path, task: dict[str, Any]) -> Figures:
    """Run one worker and return its figures."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [str(python), str(WORKER), json.dumps(task | {"started": time.time()})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{task['library']} failed:\n{done.stderr}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def values(figures: Iterable[Figures], key: str) -> list[float]:
    """Return all measurements of one figure over all rounds."""
    found: list[float] = []
    for figure in figures:
        value = figure[key]
        found.extend(value if isinstance(value, list) else [value])
    return found


def report(title: str, rows: Iterable[Row], results: dict[str, list[Figures]]) -> bool:
    """Print the table and tell whether every target is reached and the tokens are the same."""
    table = Table(title=title, title_justify="left", caption=machine(), caption_justify="left")
    table.add_column("median (lowest to highest)")
    for name in (OURS, THEIRS):
        table.add_column(name, justify="right")
    table.add_column("times better", justify="right")
    table.add_column("target", justify="right")
    good = True
    for row in rows:
        ours, theirs = (values(results[name], row.key) for name in (OURS, THEIRS))
        ratio = row.ratio(statistics.median(ours), statistics.median(theirs))
        good &= row.target is None or ratio >= row.target
        write = writer(row.unit)
        target = "" if row.target is None else f"{row.target:g}"
        table.add_row(f"{row.title}, {row.unit}", write(ours), write(theirs), f"{ratio:.2f}", target)
    same = len({tuple(figure["tokens"]) for name in results for figure in results[name]}) == 1
    table.add_row("same tokens in every run", "yes" if same else "NO", "", "", "")
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    return good and same


def writer(unit: str) -> Callable[[list[float]], str]:
    """Return the function that writes measurements in a unit: the median, then the spread."""
    digits = {"s": 2, "MB": 0}.get(unit, 1)

    def write(measured: list[float]) -> str:
        middle, low, high = statistics.median(measured), min(measured), max(measured)
        return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    return write


def machine() -> str:
    """Describe the machine in a line."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        text = information.read_text()
        model = next(
            (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line), model
        )
    return f"{os.cpu_count()} cores of {model}; {platform.system()}, Python {platform.python_version()}"


def save(path: Path | None, results: dict[str, list[Figures]]) -> None:
    """Write every measurement as JSON, if a file was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
