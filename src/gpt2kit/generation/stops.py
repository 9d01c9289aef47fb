"""What ends a text, as data: one frozen dataclass for each reason, its numbers checked when it is made.

Each room maps the type of a stop to code of its framework (`torch/generation/stopping.py`); a contract test
holds every room's dictionary against `STOPS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gpt2kit.errors import InputError
from gpt2kit.generation.rule import check_integer, check_real, tokens

__all__ = ["STOPS", "EosTokens", "MaxLength", "MaxTime", "Stop", "StopStrings"]


@dataclass(frozen=True)
class Stop:
    """End the text, of one row or of all, for one reason."""

    option: ClassVar[str] = ""
    text: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.text.format(**vars(self))


@dataclass(frozen=True)
class MaxLength(Stop):
    """End every row at this many tokens, prompt included."""

    max_length: int
    option: ClassVar[str] = "max_length"
    text: ClassVar[str] = "at {max_length} tokens, prompt included"

    def __post_init__(self) -> None:
        check_integer(self.option, self.max_length, 1)


@dataclass(frozen=True)
class EosTokens(Stop):
    """End a row when it writes one of the end tokens."""

    eos_token_ids: tuple[int, ...]
    option: ClassVar[str] = "eos_token_id"

    def __post_init__(self) -> None:
        object.__setattr__(self, "eos_token_ids", tokens(self.option, self.eos_token_ids))

    def __str__(self) -> str:
        return f"a row at end token {' or '.join(map(str, self.eos_token_ids))}"


@dataclass(frozen=True)
class MaxTime(Stop):
    """End every row when this many seconds have passed; the token being computed is still written."""

    max_time: float
    option: ClassVar[str] = "max_time"
    text: ClassVar[str] = "after {max_time:g} s"

    def __post_init__(self) -> None:
        check_real(self.option, self.max_time, lambda x: x > 0, "a number of seconds above 0")


@dataclass(frozen=True)
class StopStrings(Stop):
    """End a row when the text it wrote contains one of the strings; the string stays in the text."""

    stop_strings: tuple[str, ...]
    option: ClassVar[str] = "stop_strings"

    def __post_init__(self) -> None:
        given: object = self.stop_strings
        strings = (given,) if isinstance(given, str) else given
        if (
            not isinstance(strings, Sequence)
            or not strings
            or not all(isinstance(s, str) and s for s in strings)
        ):
            raise InputError(f"`stop_strings` has to be one or more non-empty strings, but is {given!r}.")
        object.__setattr__(self, "stop_strings", tuple(strings))

    def __str__(self) -> str:
        return f"a row that contains {' or '.join(map(repr, self.stop_strings))}"


STOPS: tuple[type[Stop], ...] = tuple(Stop.__subclasses__())
