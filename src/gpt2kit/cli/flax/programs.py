"""Compiled programs: the folder that keeps them for the next start, and how long it took to make them.

JAX's own cache is used, in the command's process only: the variables that switch it on are set by
cli/framework.py before JAX is imported, and not where the user set them.
"""

from __future__ import annotations

import functools
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax

from gpt2kit.cli.framework import PROGRAMS

__all__ = ["Stopwatch", "dropping_broken", "open_cache"]

LARGEST = 256_000_000  # bytes; a program of generate takes about half a million
_OF_A_MODEL = 0.05  # seconds; tracing an operation by itself takes less, and a model more
_MAKING = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")


def open_cache() -> None:
    """Make the folder of programs, or do without where it cannot be written; drop the oldest of too many.

    Whoever can write there can run code as this user (JAX trusts what it finds), so nobody else may.
    """
    if jax.config.jax_compilation_cache_dir != str(PROGRAMS):  # the user's own
        return
    try:
        PROGRAMS.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = sorted(_kept(), reverse=True)  # the newest first
    except OSError:
        kept = None
    if kept is None or not os.access(PROGRAMS, os.W_OK):
        jax.config.update("jax_enable_compilation_cache", False)
        return
    total = 0
    for _, file, size in kept:
        total += size
        if total > LARGEST:
            file.unlink(missing_ok=True)


def _kept() -> Iterator[tuple[float, Path, int]]:
    """Return when each file was written, its path and its size; another start may be dropping some."""
    for file in PROGRAMS.iterdir():
        with suppress(FileNotFoundError):
            found = file.stat()
            if stat.S_ISREG(found.st_mode):
                yield found.st_mtime, file, found.st_size


@contextmanager
def dropping_broken() -> Iterator[None]:
    """Empty the folder of programs where one of them cannot be read: it would be tried again at each start.

    JAX compiles it anew and warns. A process that was killed while it wrote one leaves such a program.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    ours = jax.config.jax_compilation_cache_dir == str(PROGRAMS)
    for warning in told:
        if ours and "persistent compilation cache" in str(warning.message):
            for file in PROGRAMS.glob("*-cache"):
                file.unlink(missing_ok=True)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


class Stopwatch:
    """How long it took to make programs while this watch was running.

    Attributes:
        tell: Called with a word of what comes next.
    """

    _running: Stopwatch | None = None

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._spans: list[tuple[float, float]] = []
        self._of_a_model = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take the time of this block."""
        _listen()
        Stopwatch._running = self
        self.tell("compiling")
        try:
            yield
        finally:
            Stopwatch._running = None

    @property
    def seconds(self) -> float:
        """The time that was spent in one of them at least: one is made within another."""
        total, until = 0.0, float("-inf")
        for start, end in sorted(self._spans):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total

    def heard(self, event: str, seconds: float) -> None:
        """Take down one of JAX's events, which come when what they tell of is over."""
        step = event.rpartition("/")[2]
        if step in _MAKING:
            now = time.perf_counter()
            self._spans.append((now - seconds, now))
        if step == "jaxpr_trace_duration":
            self._of_a_model = seconds > _OF_A_MODEL
        elif step == "backend_compile_duration" and self._of_a_model:
            self.tell("writing")


@functools.cache
def _listen() -> None:
    """Ask JAX for its events, once: it knows no way to end that."""

    def hear(event: str, seconds: float, **_: object) -> None:
        if Stopwatch._running is not None:
            Stopwatch._running.heard(event, seconds)

    jax.monitoring.register_event_duration_secs_listener(hear)
