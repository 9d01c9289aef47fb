"""What every command shares of the terminal: two consoles, and how a command may end.

| how it ends | exit code | what the user sees |
|---|---|---|
| it is done | 0 | the output |
| the reader of the output has gone (`head`) | 0 | nothing more |
| the reader of stderr has gone | as ever | the output |
| a request that cannot be honoured | 1 | one sentence on stderr |
| a command line that cannot be read | 2 | usage on stderr (typer) |
| Ctrl-C | 130 | what was written so far |
| a bug of ours | 1 | its traceback |
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt2kit.errors import GPT2KitError, InputError

__all__ = [
    "INTERRUPTED",
    "ending",
    "fail",
    "leave_closed_pipe",
    "note",
    "read_utf8",
    "show",
    "show_warning",
    "stderr",
    "stdout",
    "write",
]

INTERRUPTED = 130  # 128 + SIGINT, what a shell reports of a command that Ctrl-C ended

stdout = Console(highlight=False)


class SideConsole(Console):
    """What is said beside the output: where nobody listens any more, the work goes on in silence."""

    def on_broken_pipe(self) -> None:
        """Say nothing from here on, instead of ending the program as rich does."""
        self.quiet = True
        _lead_nowhere(sys.stderr)


stderr = SideConsole(stderr=True, highlight=False)


def write(text: str) -> None:
    """Write text to stdout as it is, at once: no markup, no wrapping, no buffering."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show(title: str, rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Print a table on stdout: a bold title, the header if there is one, the rows; cells are no markup."""
    table = Table(*header, box=SIMPLE_HEAD, show_header=bool(header), pad_edge=True)
    for row in rows:
        table.add_row(*map(Text, row))
    if table.columns:
        table.columns[0].style = "cyan"
    stdout.print(Text(title, style="bold"), soft_wrap=True)
    stdout.print(table)


def note(message: str) -> None:
    """Say something beside the output: one dim line on stderr."""
    stderr.print(Text(message, style="dim"), soft_wrap=True)


def fail(message: str) -> None:
    """Print one error sentence on stderr, unwrapped, so that it can be searched for and copied."""
    stderr.print(Text.assemble(("gpt2kit: ", "bold red"), message), soft_wrap=True)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning of the library as a note, without the line of code that raised it."""
    note(str(message))


@contextmanager
def ending() -> Iterator[None]:
    """Turn a user's mistake, Ctrl-C and a closed pipe into an exit code; let bugs through.

    An `OSError` counts as the user's only where it names a file or says that the disk is full: anything else
    is a bug of ours and keeps its traceback.

    Raises:
        typer.Exit: with the exit code of the table above.
    """
    try:
        yield
    except GPT2KitError as error:
        fail(str(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except (BrokenPipeError, SystemExit) as error:
        # rich answers a closed pipe with SystemExit(1), also where typer prints the help with it.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        leave_closed_pipe()
        raise typer.Exit(0) from None
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
        fail(f"{where}{error.strerror}")
        raise typer.Exit(1) from None


def leave_closed_pipe() -> None:
    """Point stdout at nothing, so that Python's own flush at exit does not meet the closed pipe again."""
    _lead_nowhere(sys.stdout)


def _lead_nowhere(stream: TextIO) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def read_utf8(data: bytes, source: str) -> str:
    """Read bytes as UTF-8.

    Raises:
        InputError: They are not; it says which byte of which source is to blame.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}. "
            "Convert it first, for example with `iconv -f latin1 -t utf-8`."
        ) from None
