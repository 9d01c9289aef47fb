"""What a rule is, and the checks of single values that rules share.

A rule says what happens to the scores of the next token, and holds no tensor: each room maps the type of a
rule to code of its framework in one dictionary (`torch/generation/logits.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

from gpt2kit.errors import InputError

__all__ = ["Rule", "as_given", "biases", "check_integer", "check_real", "tokens", "words"]


# ---------------------------------------------------------------------- checks of single values


def check_real(name: str, value: object, fits: Callable[[float], bool], wanted: str) -> None:
    """Refuse what is no number or does not fit."""
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(float(value)):
        raise InputError(f"`{name}` has to be {wanted}, but is {value!r}.")


def check_integer(name: str, value: object, least: int, hint: str = "") -> None:
    """Refuse what is no integer or too small."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InputError(f"`{name}` has to be an integer of at least {least}, but is {value!r}.{hint}")


def tokens(name: str, value: int | Iterable[int]) -> tuple[int, ...]:
    """Return one id or many as a tuple, refusing what is no token id and an empty list."""
    many = (value,) if isinstance(value, Integral) else value
    if not isinstance(many, Iterable) or isinstance(many, (str, Mapping)):
        raise InputError(f"`{name}` has to be a token id or a list of them, but is {value!r}.")
    ids = tuple(many)
    if not ids or any(isinstance(i, bool) or not isinstance(i, Integral) or i < 0 for i in ids):
        raise InputError(
            f"`{name}` has to hold token ids (integers from 0; None for none), but is {value!r}."
        )
    return tuple(int(i) for i in ids)


def words(name: str, value: object) -> tuple[tuple[int, ...], ...]:
    """Return lists of token ids as tuples, refusing what is none."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(f"`{name}` has to be a non-empty list of lists of token ids, but is {value!r}.")
    if any(isinstance(word, (Integral, str)) for word in value):
        raise InputError(f"`{name}` has to be a list of lists of token ids, but is {value!r}.")
    return tuple(tokens(name, word) for word in value)


def biases(given: object) -> Mapping[tuple[int, ...], float]:
    """Return a dictionary ids -> bias; JSON, whose keys are strings, has pairs [ids, bias] in its place."""
    found = given
    if isinstance(given, list):
        try:
            found = {tuple(ids): bias for ids, bias in given}
        except (TypeError, ValueError):
            found = None
    if not isinstance(found, Mapping) or not found:
        raise InputError(
            "`sequence_bias` has to be {(id, id): bias} or [[[id, id], bias], ...] with at least one entry, "
            f"but is {given!r}."
        )
    return found


def as_given(value: object) -> Any:
    """Return an option as the user wrote it: rules and stops check it themselves and make tuples of lists."""
    return value


# ---------------------------------------------------------------------- what a rule is


@dataclass(frozen=True)
class Rule:
    """Change the scores of the next token in one way.

    Attributes:
        option: The option of `generate` that asks for the rule.
        text: What the rule does, with its numbers in braces.
    """

    option: ClassVar[str] = ""
    text: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.text.format(**vars(self))

    def token_ids(self) -> tuple[int, ...]:
        """Return the ids that the rule names, which have to be in the vocabulary."""
        return ()

    def _set(self, **values: Any) -> None:
        """Store values in the form they are kept in; only for `__post_init__`."""
        for name, value in values.items():
            object.__setattr__(self, name, value)
