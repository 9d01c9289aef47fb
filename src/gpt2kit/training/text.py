"""Text files as training material: checked, split in two, read in pieces that tokenize as the whole."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2kit.errors import TrainingError

__all__ = ["TextPart", "TextSource", "pieces", "split"]

_PIECE_CHARACTERS = (
    1 << 16
)  # small enough for many to be tokenized side by side, large enough to be worth a thread
_READ_BYTES = 1 << 18


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
        raise TrainingError(f"Nothing to learn from: {names} {'is' if len(sources) == 1 else 'are'} empty.")
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


def pieces(part: TextPart) -> Iterator[str]:
    """Read a part in pieces of bounded size whose tokens, one after another, are those of the whole part.

    A piece ends before a space or a line end that a letter follows. GPT-2's splitting never joins what stands
    on the two sides of such a place, so nothing is lost by cutting there.

    Raises:
        TrainingError: the bytes are not UTF-8, or the file has become shorter meanwhile.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    waiting = ""
    with part.path.open("rb") as file:
        file.seek(part.start)
        position = part.start
        while position < part.stop:
            chunk = file.read(min(_READ_BYTES, part.stop - position))
            if not chunk:
                raise TrainingError(f"{part.path} became shorter while it was read; start again.")
            waiting += _decode(decoder, chunk, part.path, position, final=position + len(chunk) == part.stop)
            position += len(chunk)
            while len(waiting) > _PIECE_CHARACTERS:
                cut = _safe_cut(waiting)
                if cut == 0:
                    break
                yield waiting[:cut]
                waiting = waiting[cut:]
    if waiting:
        yield waiting


def _decode(
    decoder: codecs.IncrementalDecoder, chunk: bytes, path: Path, position: int, *, final: bool
) -> str:
    # The decoder may still hold the first bytes of a character: an error's place counts from those.
    held = len(decoder.getstate()[0])
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        place = position - held + error.start
        raise TrainingError(
            f"{path} is not UTF-8 text: byte {place} is 0x{error.object[error.start]:02x}. "
            f"Convert it first: iconv -f latin1 -t utf-8 {path.name} > {path.stem}-utf8{path.suffix}"
        ) from None


def _safe_cut(text: str) -> int:
    """Find the last safe place to cut in the first `_PIECE_CHARACTERS`, or the first one after; 0 if none."""
    place = _PIECE_CHARACTERS
    while (place := text.rfind(" ", 1, place)) > 0:
        if text[place + 1].isalpha():
            return place
    for place in range(_PIECE_CHARACTERS, len(text) - 1):
        if text[place] in " \n" and text[place + 1].isalpha():
            return place
    return 0
