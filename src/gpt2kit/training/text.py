"""Text files as training material: checked, split in two, read in pieces that tokenize as the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2kit.errors import TrainingError
from gpt2kit.tokenization.corpus import read_pieces

__all__ = ["TextPart", "TextSource", "pieces", "split"]

_PIECE_BYTES = 1 << 16  # small enough for many to be tokenized side by side, and worth a thread each


@dataclass(frozen=True)
class TextSource:
    """One text file, and what tells whether it has changed."""

    path: Path
    size: int
    sha256: str

    @classmethod
    def open(cls, path: str | Path) -> TextSource:
        """Look at a file.

        Raises:
            TrainingError: there is no such file, it is a folder, or it may not be read.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(path, path.stat().st_size, digest)
        except IsADirectoryError:
            raise TrainingError(
                f"{path} is a folder: name the text files in it, such as {path}/*.txt."
            ) from None
        except FileNotFoundError:
            raise TrainingError(f"There is no text file {path}.") from None
        except OSError as error:
            raise TrainingError(f"{path} cannot be read: {error.strerror}.") from None

    def to_dict(self) -> dict[str, str | int]:
        """Return what the index of the shards keeps of a file."""
        return {"name": self.path.name, "bytes": self.size, "sha256": self.sha256}


@dataclass(frozen=True)
class TextPart:
    """The bytes from `start` to `stop` of one file; both lie between two characters."""

    path: Path
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes in this part."""
        return self.stop - self.start


def split(sources: Sequence[TextSource], eval_fraction: float) -> tuple[list[TextPart], list[TextPart]]:
    """Split the files, taken one after another, into a part to learn from and the last fraction held out.

    Raises:
        TrainingError: nothing is in them.
    """
    total = sum(source.size for source in sources)
    if total == 0:
        names = ", ".join(str(source.path) for source in sources)
        are = "is" if len(sources) == 1 else "are"
        raise TrainingError(f"{names} {are} empty: name files with text in them.")
    cut = int(total * (1 - eval_fraction))
    learnt: list[TextPart] = []
    held_out: list[TextPart] = []
    before = 0
    for source in sources:
        middle = _character_boundary(source, min(max(cut - before, 0), source.size))
        if middle > 0:
            learnt.append(TextPart(source.path, 0, middle))
        if middle < source.size:
            held_out.append(TextPart(source.path, middle, source.size))
        before += source.size
    return learnt, held_out


def _character_boundary(source: TextSource, position: int) -> int:
    """Move a position forward to the next place between two UTF-8 characters."""
    with source.path.open("rb") as file:
        file.seek(position)
        following = file.read(4)
    for byte in following:
        if byte & 0xC0 != 0x80:  # not in the middle of a character
            break
        position += 1
    return position


def pieces(part: TextPart, tokenizer: Any | None = None) -> Iterator[str]:
    """Read a part in pieces of bounded size whose tokens, one after another, are those of the whole part.

    Args:
        part: what to read.
        tokenizer: the fast tokenizer that the pieces are for; its added tokens are not cut in two.

    Raises:
        TokenizerError: the bytes are not UTF-8.
        TrainingError: the file has become shorter since it was looked at.
    """
    added: tuple[str, ...] = ()
    if tokenizer is not None:
        added = tuple(token.content for token in tokenizer.added_tokens_decoder.values())
    spaces = tokenizer is not None and tokenizer.add_prefix_space
    size = 0
    for piece in read_pieces(
        part.path, _PIECE_BYTES, added, only_before_spaces=spaces, start=part.start, stop=part.stop
    ):
        size += len(piece.encode())
        yield piece
    if size != part.size:
        raise TrainingError(f"{part.path} became shorter while it was read; start again.")
