"""The codes of MessagePack that stand before values: read without their values, and written before them.

Weights are gigabytes between a few thousand codes. The msgpack package gives an extension, which is what an
array is, only whole, and takes it only whole: to find the names it would read the file from end to end, with
the largest tensor in memory twice (2.3 s and 310 MB for the file of the small GPT-2, against 2 ms here).
Nothing here makes an object of a class that a file names.

Source:
    https://github.com/msgpack/msgpack/blob/master/spec.md, "Formats".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, Literal

__all__ = ["Code", "CodeError", "CodeReader", "binary_code", "extension_code", "list_code", "map_code"]
__all__ += ["number_code", "text_code"]

Kind = Literal["map", "list", "text", "binary", "extension", "number", "other"]


class CodeError(ValueError):
    """Bytes that are not the code that was wanted, or that end inside one."""


@dataclass(frozen=True)
class Code:
    """One code: what follows it, and how much.

    Attributes:
        kind: What stands here; "other" is nothing, a truth value or a fraction, and complete as it is.
        count: Entries of a map or list, bytes of a text, of data or of an extension; the number itself.
        extension: Which extension it is.
    """

    kind: Kind
    count: int
    extension: int = 0


_SHORT: dict[int, tuple[Kind, int, int]] = {  # byte from, kind, bits of the count
    0x80: ("map", 0x80, 0x0F),
    0x90: ("list", 0x90, 0x0F),
    0xA0: ("text", 0xA0, 0x1F),
}
# First byte -> what it begins, and how the count is written behind it.
_SIZED: dict[int, tuple[Kind, str]] = {
    0xC4: ("binary", ">B"),
    0xC5: ("binary", ">H"),
    0xC6: ("binary", ">I"),
    0xC7: ("extension", ">B"),
    0xC8: ("extension", ">H"),
    0xC9: ("extension", ">I"),
    0xCC: ("number", ">B"),
    0xCD: ("number", ">H"),
    0xCE: ("number", ">I"),
    0xCF: ("number", ">Q"),
    0xD0: ("number", ">b"),
    0xD1: ("number", ">h"),
    0xD2: ("number", ">i"),
    0xD3: ("number", ">q"),
    0xD9: ("text", ">B"),
    0xDA: ("text", ">H"),
    0xDB: ("text", ">I"),
    0xDC: ("list", ">H"),
    0xDD: ("list", ">I"),
    0xDE: ("map", ">H"),
    0xDF: ("map", ">I"),
}
_FIXED_EXTENSION = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_OTHER = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}  # nothing, False, True, fractions -> bytes behind
_LONGEST_TEXT = 4096  # bytes; the names of a tree are short


class CodeReader:
    """Reads codes from a file, and steps over what they announce.

    Args:
        file: Open for reading, buffered.
        size: Bytes of the file; no code may announce more.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self.size = size

    @property
    def position(self) -> int:
        """The byte that is read next."""
        return self._file.tell()

    def read(self, wanted: Kind | None = None) -> Code:
        """Read one code.

        Args:
            wanted: The kind that has to stand here; None takes any.

        Raises:
            CodeError: Another kind, no code at all, or more announced than the file has.
        """
        first = self._bytes(1)[0]
        code = self._after(first)
        if wanted is not None and code.kind != wanted:
            raise CodeError(f"a {code.kind} where a {wanted} was expected")
        if code.kind != "number" and code.count > self.size - self.position:
            raise CodeError(f"a {code.kind} of {code.count:,} that reaches beyond the end of the file")
        return code

    def _after(self, first: int) -> Code:
        """Read the rest of a code whose first byte is known."""
        if first < 0x80:
            return Code("number", first)
        if first >= 0xE0:
            return Code("number", first - 0x100)
        if first < 0xC0:
            kind, start, bits = _SHORT[first & 0xF0 if first < 0xA0 else 0xA0]
            return Code(kind, (first - start) & bits)
        if first in _SIZED:
            kind, layout = _SIZED[first]
            count = struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0]
        elif first in _FIXED_EXTENSION:
            kind, count = "extension", _FIXED_EXTENSION[first]
        elif first in _OTHER:
            self._bytes(_OTHER[first])
            return Code("other", 0)
        else:
            raise CodeError(f"the byte {first:#04x}, which begins nothing")
        extension = int.from_bytes(self._bytes(1), signed=True) if kind == "extension" else 0
        return Code(kind, count, extension)

    def text(self) -> str:
        """Read a text, or the name that older writers stored as binary data."""
        code = self.read()
        if code.kind not in ("text", "binary") or code.count > _LONGEST_TEXT:
            raise CodeError(f"a {code.kind} of {code.count:,} where a name was expected")
        try:
            return self._bytes(code.count).decode()
        except UnicodeDecodeError:
            raise CodeError("a name that is no UTF-8") from None

    def skip(self, count: int) -> None:
        """Step over so many bytes, which the last code announced."""
        self._file.seek(count, 1)

    def _bytes(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise CodeError("the end of the file")
        return data


def number_code(number: int) -> bytes:
    """Write a whole number from 0 on."""
    if number < 0x80:
        return bytes([number])
    return _smallest(number, (0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q"))


def map_code(count: int) -> bytes:
    """Write what begins a map of so many entries."""
    return bytes([0x80 | count]) if count < 16 else _smallest(count, (0xDE, ">H"), (0xDF, ">I"))


def list_code(count: int) -> bytes:
    """Write what begins a list of so many entries."""
    return bytes([0x90 | count]) if count < 16 else _smallest(count, (0xDC, ">H"), (0xDD, ">I"))


def text_code(text: str) -> bytes:
    """Write a text."""
    data = text.encode()
    sizes = ((0xD9, ">B"), (0xDA, ">H"), (0xDB, ">I"))
    return (bytes([0xA0 | len(data)]) if len(data) < 32 else _smallest(len(data), *sizes)) + data


def binary_code(count: int) -> bytes:
    """Write what begins so many bytes of data."""
    return _smallest(count, (0xC4, ">B"), (0xC5, ">H"), (0xC6, ">I"))


def extension_code(extension: int, count: int) -> bytes:
    """Write what begins an extension of so many bytes."""
    for first, size in _FIXED_EXTENSION.items():
        if size == count:
            return bytes([first, extension])
    return _smallest(count, (0xC7, ">B"), (0xC8, ">H"), (0xC9, ">I")) + bytes([extension])


def _smallest(number: int, *layouts: tuple[int, str]) -> bytes:
    """Write a first byte and a number, in the first of the layouts that holds the number."""
    first, layout = next(item for item in layouts if number < 256 ** struct.calcsize(item[1]))
    return bytes([first]) + struct.pack(layout, number)
