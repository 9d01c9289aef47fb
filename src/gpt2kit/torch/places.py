"""The names of activations: where each is tapped, and which a pattern means.

A name is the path of a module, as in a checkpoint, and a word for what is computed there: "h.3.attn.weights".
docs/activations.md has the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from gpt2kit.errors import InputError

__all__ = ["Place", "matching", "names_of", "places_of"]

Place: TypeAlias = tuple[int, str]  # id of the module, word

ATTENTION = ("query", "key", "value", "scores", "weights", "mixed", "out")
# What a block taps, in the order of computation: a part of the block ("" is the block itself) and its words.
BLOCK = (
    ("", ("in", "ln_1")),
    ("attn", ATTENTION),
    ("", ("cross_in", "ln_cross_attn")),
    ("crossattention", ATTENTION),
    ("", ("mid", "ln_2")),
    ("mlp", ("pre", "act", "out")),
    ("", ("out",)),
)
ONLY_CROSSING = {"cross_in", "ln_cross_attn", "crossattention"}


def places_of(model: Any) -> dict[str, Place]:
    """Return where each activation is tapped, by name, in the order of computation."""
    body = model.base_model
    places = {"embed": (id(body), "embed")}
    for layer, block in enumerate(body.h):
        for part, words in BLOCK:
            owner = getattr(block, part, None) if part else block
            for word in words:
                if hasattr(block, "crossattention") or not {part, word} & ONLY_CROSSING:
                    places[".".join(filter(None, ("h", str(layer), part, word)))] = (id(owner), word)
    places["ln_f"] = (id(body), "ln_f")
    return places | {word: (id(model), word) for word in model.own_activations}


def matching(pattern: str, places: Mapping[str, Place]) -> list[str]:
    """Return the names that a pattern matches.

    A star stands for any letters within one part of a name, two stars for any number of parts; "?" and
    "[0-3]" are those of a shell.

    Raises:
        InputError: There is none; the message has close names.
    """
    if not isinstance(pattern, str):
        raise InputError(f"An activation is named by a string, but a {type(pattern).__name__} came.")
    if found := [name for name in places if _match(name.split("."), pattern.split("."))]:
        return found
    close = get_close_matches(pattern, places, n=3)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    raise InputError(
        f"No activation is called {pattern!r}. {hint}model.activation_names() lists all {len(places)}."
    )


def _match(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a pattern means a name; both are cut at the dots."""
    if not pattern or not name:
        return not name and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _match(name[1:], pattern) or _match(name, pattern[1:])
    return fnmatchcase(name[0], pattern[0]) and _match(name[1:], pattern[1:])


def names_of(places: Mapping[str, Place]) -> dict[Place, str]:
    """Return the name of each place.

    Raises:
        InputError: Two names are one place: the model holds a block twice.
    """
    names: dict[Place, str] = {}
    for name, place in places.items():
        if place in names:
            raise InputError(
                f"{names[place]} and {name} are computed by one module, which the model holds twice. Copy "
                "the block (copy.deepcopy) to tell the two apart."
            )
        names[place] = name
    return names
