"""A run on disk: its folder, its checkpoints, its metrics.

```
run/
  training.json     the TrainingConfig
  data/             token shards and tokenizer (or elsewhere: --data)
  metrics.jsonl     one JSON object a line: every step, every evaluation
  last/             the newest checkpoint: weights and tokenizer for from_pretrained, and what --resume needs
  best/             the checkpoint with the lowest evaluation loss, for from_pretrained
  loss.png          the losses as a picture
```
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gpt2kit.atomic import LOCK_NAME, atomic_write_text, folder_lock
from gpt2kit.errors import StorageError, TrainingError

__all__ = ["Metrics", "Observer", "RunFolder"]


class Observer:
    """Is told what happens in a run; this one does nothing. A display overrides what it wants to show."""

    def stepped(self, record: dict[str, Any]) -> None:
        """One step is done; `record` is its line of metrics.jsonl."""

    def evaluating(self, done: int, windows: int) -> None:
        """So many of the windows of the held-out text are done."""

    def evaluated(self, record: dict[str, Any], best: bool) -> None:
        """An evaluation is done; `best` says whether it is the best so far."""

    def saved(self, folder: Path, step: int) -> None:
        """A checkpoint is on disk."""

    def noted(self, message: str) -> None:
        """Something that the user should know and that does not stop the run."""


class RunFolder:
    """The paths of a run, and checkpoints that are either there whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "training.json"
        self.metrics = self.path / "metrics.jsonl"
        self.data = self.path / "data"
        self.plot = self.path / "loss.png"

    def check_free(self, *, overwrite: bool) -> None:
        """Find out whether a new run may be written here.

        Raises:
            TrainingError: something is there already and may not be overwritten.
        """
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"{self.path} is a file; a run needs a folder.")
        if self.config.exists() and not overwrite:
            raise TrainingError(
                f"{self.path} holds a run already: go on with it by --resume, replace it by --overwrite, "
                "or name another folder with --out."
            )
        foreign = [] if self.config.exists() or not self.path.exists() else self._foreign()
        if foreign:
            raise TrainingError(
                f"{self.path} is not empty and holds no run ({', '.join(foreign[:3])}): "
                "name another folder with --out."
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep the folder to this process while it trains.

        Raises:
            TrainingError: another process trains in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(folder_lock(self.path, timeout=0))
            except StorageError as error:
                if not isinstance(error.__cause__, TimeoutError):  # the folder cannot be written at all
                    raise
                raise TrainingError(
                    f"Another process is training in {self.path}: "
                    "wait for it, or name another folder with --out."
                ) from None
            yield

    def clear(self) -> None:
        """Throw away everything of an older run but its shards, which `prepare` has seen to."""
        for name in ("last", "best"):
            for ending in ("", ".ready", ".old", ".writing"):
                shutil.rmtree(self.path / f"{name}{ending}", ignore_errors=True)
        # The configuration goes last: whenever this breaks off, what is left may be overwritten still.
        for path in (self.metrics, self.plot, self.config):
            path.unlink(missing_ok=True)

    def _foreign(self) -> list[str]:
        # A start that was broken off before the first checkpoint leaves only shards; those may be used again.
        return sorted(entry.name for entry in self.path.iterdir() if entry.name not in ("data", LOCK_NAME))

    def save_checkpoint(self, name: str, write: Callable[[Path], None]) -> Path:
        """Replace the checkpoint `name` by what `write` puts into an empty folder.

        A folder cannot replace another in one go, so the new one is finished under the name `<name>.ready`,
        and then the two change places. Whenever this breaks off, `checkpoint` finds one of them, whole.
        """
        target, writing, ready, old = (
            self.path / f"{name}{end}" for end in ("", ".writing", ".ready", ".old")
        )
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        try:
            write(writing)
        except BaseException:  # a full disk, Ctrl-C: leave nothing half-written behind, and pass it on
            shutil.rmtree(writing, ignore_errors=True)
            raise
        shutil.rmtree(ready, ignore_errors=True)
        os.replace(writing, ready)
        self._change_places(target, ready, old)
        return target

    def checkpoint(self, name: str) -> Path | None:
        """Find the checkpoint `name`, finishing an exchange that was broken off; None if there is none."""
        target, ready, old = (self.path / f"{name}{end}" for end in ("", ".ready", ".old"))
        if ready.is_dir():
            self._change_places(target, ready, old)
        elif old.is_dir() and not target.is_dir():
            os.replace(old, target)
        return target if target.is_dir() else None

    @staticmethod
    def _change_places(target: Path, ready: Path, old: Path) -> None:
        if target.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(ready, target)
        shutil.rmtree(old, ignore_errors=True)


class Metrics:
    """metrics.jsonl: one JSON object a line, each written out at once.

    Args:
        path: the file.
        until: on resuming, the step that the run goes on from. Lines of later steps, which a run that was
            killed had still written, are dropped: those steps are done again.
    """

    def __init__(self, path: Path, *, until: int) -> None:
        self.path = path
        kept = [record for record in self.read(path) if record["step"] <= until]
        atomic_write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: dict[str, Any]) -> None:
        """Write one line."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Read all lines; a last one that was cut off by a crash is left out.

        Raises:
            TrainingError: a line in the middle is no JSON.
        """
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")
        records = []
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                records.append(json.loads(line))
            except ValueError:
                if number == len(lines):  # no line end after it: it was being written
                    break
                raise TrainingError(
                    f"{path}, line {number}, is not JSON: repair or delete that line."
                ) from None
        return records
