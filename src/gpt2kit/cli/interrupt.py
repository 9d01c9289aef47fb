"""Ctrl-C while one call into C++ compiles or computes.

Python hears no signal until such a call returns: seconds for a compilation by XLA, minutes for a long text.
So the call runs in a thread of its own, and the main thread listens. What has started cannot be stopped, and
Python's own way of ending waits for it or aborts in it; so a process that is interrupted ends at once, when
all that has to be put in order has been.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

from gpt2kit.cli.console import INTERRUPTED

__all__ = ["interruptible"]

Value = TypeVar("Value")

_BREATH = 0.05  # seconds between two looks, for systems on which a wait hears no signal either


def interruptible(function: Callable[[], Value]) -> Value:
    """Return what a function returns, or raise what it raises.

    Raises:
        KeyboardInterrupt: Ctrl-C came; the function goes on until the process ends.
    """
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # raised again, in the thread that waits
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        while not wait([future], _BREATH).done:
            pass
    except KeyboardInterrupt:
        atexit.register(_end_at_once, future)  # runs before JAX's own clearing up, which would wait
        raise
    return future.result()


def _end_at_once(future: Future[Any]) -> None:
    # Not whether the thread is alive: an interrupted join makes Python 3.11 believe that it is not.
    if not future.done():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(INTERRUPTED)
