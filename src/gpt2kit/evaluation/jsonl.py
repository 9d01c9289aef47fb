"""Files of one JSON object to a line; what is wrong is told with the number of its line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gpt2kit.errors import InputError

__all__ = ["Record", "read_records"]

_NAMES = {str: "a string", int: "a whole number", list: "a list of strings"}


class Record(NamedTuple):
    """One line: where it stands, for messages about it, and its fields."""

    where: str
    fields: dict[str, Any]


def read_records(text: str, source: str, kinds: Mapping[str, type]) -> Iterator[Record]:
    """Read the lines of a file one by one.

    Fields that are not asked for are left alone, and lines of nothing but white space are passed over.

    Args:
        text: The content of the file.
        source: Its name, for messages.
        kinds: Name -> type of each field that a line has to have: str, int, or list (of strings).

    Raises:
        InputError: A line is no JSON object, or lacks a field, or has another type in it; the message names
            the line. Or there is no line at all.
    """
    found = False
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        found = True
        where = f"{source}, line {number}"
        yield Record(where, _fields(line, where, kinds))
    if not found:
        raise InputError(f"{source} is empty: it should have one JSON object to a line.")


def _fields(line: str, where: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: this is not JSON ({error}).") from None
    except RecursionError:
        raise InputError(f"{where}: this is not JSON that can be read (brackets nested too deep).") from None
    wanted = " and ".join(f'"{name}" ({_NAMES[kind]})' for name, kind in kinds.items())
    if not isinstance(content, dict):
        raise InputError(f"{where}: this is no JSON object; each line should be one with {wanted}.")
    for name, kind in kinds.items():
        if name not in content:
            has = ", ".join(f'"{field}"' for field in content) or "nothing"
            raise InputError(
                f'{where}: there is no "{name}"; a line should have {wanted}, and this has {has}.'
            )
        value = content[name]
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits or (kind is list and not all(isinstance(each, str) for each in value)):
            raise InputError(
                f'{where}: "{name}" should be {_NAMES[kind]}, and it is {json.dumps(value)[:60]}.'
            )
    return content
