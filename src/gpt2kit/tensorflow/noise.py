"""What TensorFlow writes on the screen when it starts, and how it is kept off.

While it is imported, TensorFlow tells of oneDNN, of processor instructions and of CUDA drivers that are not
there. Part of it comes before any of its settings is read, straight from C++, so the only place to catch it
is the process's second file. What is not TensorFlow's own log is written there afterwards, as it came.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["start_quietly", "without_log"]

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_TALKATIVE = ("0", "1")  # what one sets in order to see messages or warnings
# A line of the log begins with its level, month and day; one has a second line, one tells of the rest.
_LOG = re.compile(
    rb"^(?:[IWE]\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
    rb"|WARNING: All log messages before absl::InitializeLog|To enable the following instructions: )"
)


def start_quietly() -> None:
    """Import TensorFlow and look for its devices, without the messages that both write.

    Whoever has imported TensorFlow before, or has set TF_CPP_MIN_LOG_LEVEL to 0 or 1, has decided for
    himself: then nothing is kept off. A higher level stays, and is heeded from the first line on.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
    """
    level = os.environ.get(_LEVEL)
    if "tensorflow" in sys.modules or level in _TALKATIVE:
        import tensorflow  # noqa: F401

        return
    # Messages and warnings are left out for good, because it is read once; errors are still written.
    os.environ[_LEVEL] = level or "2"
    try:
        with _second_file_aside():
            import tensorflow as tf

            tf.config.list_physical_devices()  # without a GPU this logs an error, now or at the first tensor
    finally:
        if level is None:
            del os.environ[_LEVEL]
        else:
            os.environ[_LEVEL] = level


def without_log(text: bytes) -> bytes:
    r"""Leave out the lines that are TensorFlow's log.

    Example:
        >>> without_log(b"I0000 00:00:17.04 32301 port.cc:153] oneDNN custom operations are on.\nmine\n")
        b'mine\\n'
    """
    return b"".join(line for line in text.splitlines(keepends=True) if not _LOG.match(line))


@contextmanager
def _second_file_aside() -> Iterator[None]:
    """Let what is written to stderr's file wait, and write it without the log at the end."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no such file: nothing can be written to it
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            os.write(2, without_log(aside.read()))
