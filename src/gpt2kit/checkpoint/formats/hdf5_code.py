"""The parts of HDF5 that Keras 2 writes: groups, attributes that are lists of names, and arrays in one piece.

The HDF5 library trusts a file: a length of 2**64 - 16 in its heap of strings makes it read the same place for
ever, and other bytes make it end the process. A process that serves others cannot have that. Here every look
at a file costs of one budget, so that whatever stands in a file the reading of its structure ends, within
some seconds; and no address leads out of the file.

Numbers are little-endian; addresses and lengths have 8 bytes.

Source:
    HDF5 File Format Specification, version 3.0: II.A superblock, III.A.1 B-trees, III.B-E group nodes and
    heaps, IV.A.1.a object headers, IV.A.2 messages.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2kit.checkpoint.formats.tensor_file import fill

__all__ = ["HDF5Error", "HDF5Reader", "StoredArray"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NOWHERE = 2**64 - 1
_BUDGET = 2**25  # bytes of structure that are read of a file
_LOOK = 64  # what a look costs at least
# Kinds of messages in the head of an object.
_SPACE, _LINKS, _TYPE, _LINK, _EXTERNAL, _LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
_ATTRIBUTE, _CONTINUED, _GROUP, _ATTRIBUTES = 0x0C, 0x10, 0x11, 0x15
_CONTIGUOUS, _VIRTUAL = 1, 3
_SHARED = 2  # a flag of a message: it is kept elsewhere
_FIXED_TEXT, _VARIABLE = 3, 9  # classes of types
# Class, bits and properties of a type -> dtype.
_NUMBERS = {
    struct.pack("<B3BI2H4BI", 0x11, 0x20, 8 * size - 1, 0, size, 0, 8 * size, *parts): np.dtype(
        f"<f{size}"
    ).str
    for size, parts in {2: (10, 5, 0, 10, 15), 4: (23, 8, 0, 23, 127), 8: (52, 11, 0, 52, 1023)}.items()
} | {
    struct.pack("<B3BI2H", 0x10, 8 * (kind == "i"), 0, 0, size, 0, 8 * size): np.dtype(f"<{kind}{size}").str
    for kind in "iu"
    for size in (1, 2, 4, 8)
}


class HDF5Error(ValueError):
    """Bytes that are not the HDF5 that Keras 2 writes, or that end too early."""


@dataclass(frozen=True)
class StoredArray:
    """An array as a file has it.

    Attributes:
        dtype: Of its values, as NumPy writes it ("<f4"), or a description of what are no numbers.
        itemsize: Bytes of a value.
        shape: Its shape; None where it has no values at all.
        layout: "contiguous", "elsewhere" (in another file), or "other" (in chunks, or in the head).
        begin: The first byte, where it has a place.
        size: Bytes of that place.
    """

    dtype: str
    itemsize: int
    shape: tuple[int, ...] | None
    layout: str
    begin: int | None
    size: int


class HDF5Reader:
    """Reads the structure of a file. Objects are named by their addresses.

    Args:
        path: The file; it is open until `close`.

    Raises:
        HDF5Error: It is something else, or ends too early.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._size = path.stat().st_size
        self._left = _BUDGET
        # What was read is not read again, nor paid again.
        self._messages = functools.cache(self._read_messages)
        self.members = functools.cache(self._read_members)
        self.texts = functools.cache(self._read_texts)
        self.array = functools.cache(self._read_array)
        self._heap = functools.cache(self._read_heap)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def root(self) -> int:
        """Return the address of the group that holds all others."""
        if self._bytes(0, 8) != _SIGNATURE:
            raise HDF5Error("it does not begin as HDF5")
        version, *_, offsets, lengths = self._bytes(8, 7)
        if version > 1 or (offsets, lengths) != (8, 8):
            raise HDF5Error("it is of a newer form than Keras 2 writes")
        start = 24 if version == 0 else 28
        base, _, end, _, _, address = struct.unpack("<6Q", self._bytes(start, 48))
        if base != 0:
            raise HDF5Error("it does not begin where the file begins")
        if end > self._size:
            raise HDF5Error(f"it has {self._size:,} of {end:,} bytes")
        return int(address)

    def _read_members(self, group: int) -> dict[str, int | None]:
        """Return name -> address of what a group holds; None for a link to another place."""
        found: dict[str, int | None] = {}
        for kind, data in self._messages(group):
            if kind == _GROUP:
                tree, heap = struct.unpack_from("<2Q", data)
                names = self._names(heap)
                found.update(self._entries(tree, names))
            elif kind == _LINK:
                found.update([_link(data)])
            elif kind == _LINKS and struct.unpack_from("<Q", data, 10 if data[1] & 1 else 2)[0] != _NOWHERE:
                raise HDF5Error("it has a group of a newer form than Keras 2 writes")
        return found

    def _read_texts(self, node: int) -> dict[str, list[str]]:
        """Return the attributes of an object that are texts or lists of texts."""
        found = {}
        for kind, data in self._messages(node):
            if kind == _ATTRIBUTES and struct.unpack_from("<Q", data, 4 if data[1] & 1 else 2)[0] != _NOWHERE:
                raise HDF5Error("it has attributes of a newer form than Keras 2 writes")
            if kind == _ATTRIBUTE:
                name, text_type, space, values = _attribute(data)
                if text_type[0] & 15 in (_FIXED_TEXT, _VARIABLE):
                    found[name] = [self._text(cell, text_type) for cell in _cells(text_type, space, values)]
        return found

    def _read_array(self, node: int) -> StoredArray | None:
        """Return what an object has as an array; None if it has none."""
        parts = dict(self._messages(node))
        if not {_SPACE, _TYPE, _LAYOUT} <= parts.keys():
            return None
        itemsize = struct.unpack_from("<I", parts[_TYPE], 4)[0]
        layout, begin, size = _layout(parts[_LAYOUT])
        if _EXTERNAL in parts:
            layout = "elsewhere"
        return StoredArray(_dtype(parts[_TYPE]), itemsize, _shape(parts[_SPACE]), layout, begin, size)

    # ------------------------------------------------------------------ the parts of a file

    def _bytes(self, begin: int, size: int) -> bytes:
        """Read a piece of the structure."""
        self.spend(size)
        if begin + size > self._size:
            raise HDF5Error(f"it ends before byte {begin + size:,}")
        data = bytearray(size)
        if not fill(self._file, begin, memoryview(data)):
            raise HDF5Error(f"it ends before byte {begin + size:,}")
        return bytes(data)

    def spend(self, cost: int = 0) -> None:
        """Pay for a look.

        Raises:
            HDF5Error: More was looked at than the structure of a model can be.
        """
        self._left -= max(cost, _LOOK)
        if self._left < 0:
            raise HDF5Error("its structure is larger than that of any model, or goes in circles")

    def _read_messages(self, node: int) -> list[tuple[int, bytes]]:
        """Return kind and content of each message in the head of an object."""
        version, _, _, _, size = struct.unpack("<BBHII", self._bytes(node, 12))
        if version != 1:
            raise HDF5Error(f"no object of Keras 2 begins at byte {node:,}")
        blocks, found = [(node + 16, size)], []
        for begin, length in blocks:  # grows while it is gone through
            data, place = self._bytes(begin, length), 0
            while place + 8 <= length:
                kind, width, flags = struct.unpack_from("<HHB", data, place)
                content = data[place + 8 : place + 8 + width]
                if len(content) < width:
                    raise HDF5Error(f"the head of the object at byte {node:,} is cut off")
                if flags & _SHARED and kind in (_SPACE, _TYPE, _LAYOUT, _ATTRIBUTE):
                    raise HDF5Error("it shares types between objects, which Keras 2 does not")
                if kind == _CONTINUED:
                    blocks.append(struct.unpack_from("<2Q", content))
                self.spend()
                found.append((kind, content))
                place += 8 + width
        return found

    def _names(self, heap: int) -> bytes:
        """Return the names of a group, one after another."""
        signature, size, _, begin = struct.unpack("<4s4x3Q", self._bytes(heap, 32))
        if signature != b"HEAP":
            raise HDF5Error(f"no names are at byte {heap:,}")
        return self._bytes(begin, size)

    def _entries(self, tree: int, names: bytes, level: int | None = None) -> Iterator[tuple[str, int | None]]:
        """Go through the members of a group, down the branches of their tree."""
        signature, kind, own, count = struct.unpack("<4sBBH", self._bytes(tree, 8))
        if signature != b"TREE" or kind != 0 or own != (own if level is None else level):
            raise HDF5Error(f"no list of members is at byte {tree:,}")
        children = struct.unpack(f"<{2 * count}Q", self._bytes(tree + 24, 16 * count))[1::2]
        for child in children:
            if own:
                yield from self._entries(child, names, own - 1)
                continue
            signature, length = struct.unpack("<4s2xH", self._bytes(child, 8))
            if signature != b"SNOD":
                raise HDF5Error(f"no members of a group are at byte {child:,}")
            for at, node, cached in struct.iter_unpack("<QQI20x", self._bytes(child + 8, 40 * length)):
                end = names.find(b"\0", at)
                if not 0 <= at <= end:
                    raise HDF5Error(f"a member at byte {child:,} has no name")
                self.spend(end - at)
                yield names[at:end].decode(), None if cached == 2 else node

    def _text(self, cell: bytes, text_type: bytes) -> str:
        """Return a text, which stands in its cell or is kept in a heap."""
        self.spend(len(cell))
        if text_type[0] & 15 == _FIXED_TEXT:
            return cell.rstrip(b"\0").decode()
        length, heap, index = struct.unpack("<IQI", cell)
        if length == 0:
            return ""
        self.spend(length)
        text = self._heap(heap).get(index, b"")[:length]
        if len(text) < length:
            raise HDF5Error(f"a text of {length} bytes is not at byte {heap:,}")
        return text.rstrip(b"\0").decode()

    def _read_heap(self, heap: int) -> dict[int, bytes]:
        """Return the texts of a heap by their numbers."""
        signature, size = struct.unpack("<4s4xQ", self._bytes(heap, 16))
        if signature != b"GCOL" or size < 16:
            raise HDF5Error(f"no texts are at byte {heap:,}")
        data, place = self._bytes(heap, size), 16
        found: dict[int, bytes] = {}
        while place + 16 <= size:
            index, length = struct.unpack_from("<H6xQ", data, place)
            if index == 0:  # what is left is free
                break
            self.spend()
            found[index] = data[place + 16 : place + 16 + length]
            place += 16 + -(-length // 8) * 8
        return found


def _link(data: bytes) -> tuple[str, int | None]:
    """Read a link of a group: its name, and the address of an object in this file."""
    flags, place = data[1], 2
    kind = 0
    if flags & 8:
        kind, place = data[place], place + 1
    place += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(data[place : place + width], "little")
    place += width
    if place + length > len(data):
        raise HDF5Error("the name of a link is cut off")
    name = data[place : place + length].decode()
    return name, None if kind else int(struct.unpack_from("<Q", data, place + length)[0])


def _attribute(data: bytes) -> tuple[str, bytes, bytes, bytes]:
    """Take an attribute apart: name, type, shape and values."""
    version, *sizes = struct.unpack_from("<Bx3H", data)
    if version not in (1, 2, 3) or (version > 1 and data[1]):
        raise HDF5Error("it has attributes that Keras 2 does not write")
    place, parts = 9 if version == 3 else 8, []
    for size in sizes:
        parts.append(data[place : place + size])
        place += -(-size // 8) * 8 if version == 1 else size
    name, kind, space = parts
    return name.rstrip(b"\0").decode(), kind, space, data[place:]


def _shape(data: bytes) -> tuple[int, ...] | None:
    """Read a shape; None is that of no values."""
    version, rank = data[0], data[1]
    if version == 2 and data[3] == 2:
        return None
    if version not in (1, 2) or rank > 32:
        raise HDF5Error("it has a shape that is none")
    return tuple(int(size) for size in struct.unpack_from(f"<{rank}Q", data, 8 if version == 1 else 4))


def _cells(kind: bytes, space: bytes, values: bytes) -> Iterator[bytes]:
    """Cut the values of an attribute into one after another."""
    width = struct.unpack_from("<I", kind, 4)[0]
    shape = _shape(space)
    count = 0 if shape is None else math.prod(shape)
    if width < 1 or count * width > len(values):
        raise HDF5Error(f"an attribute of {len(values)} bytes says that it has {count:,} values of {width}")
    return (values[start : start + width] for start in range(0, count * width, width))


def _layout(data: bytes) -> tuple[str, int | None, int]:
    """Read where the values of an array are: layout, first byte, size."""
    version, kind = data[0], data[1]
    if version == 4 and kind == _VIRTUAL:
        return "elsewhere", None, 0
    if version not in (3, 4) or kind != _CONTIGUOUS:
        return "other", None, 0
    begin, size = struct.unpack_from("<2Q", data, 2)
    return "contiguous", None if begin == _NOWHERE else begin, size


def _dtype(data: bytes) -> str:
    """Read a type of numbers."""
    for known, dtype in _NUMBERS.items():
        if data[: len(known)] == known:
            return dtype
        swapped = bytes([known[0], known[1] | 1]) + known[2:]
        if data[: len(known)] == swapped:
            return dtype.replace("<", ">")
    return f"class {data[0] & 15} of HDF5"
