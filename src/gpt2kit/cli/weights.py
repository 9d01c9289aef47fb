"""Weights in whichever format is there: nobody types `from_flax=True` into a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from gpt2kit.errors import FileNotInRepositoryError
from gpt2kit.hub import HubOptions, locate_optional

__all__ = ["open_any"]

Model = TypeVar("Model")


def open_any(load: Callable[..., Model], name: str, revision: str, foreign: Mapping[str, str]) -> Model:
    """Load a model, from another framework's file where there is no other.

    Args:
        load: `from_pretrained` with its arguments.
        name: A folder or a hub name.
        revision: Branch, tag or commit on the hub.
        foreign: The files that are read only when they are asked for, and the keywords that ask for them.
    """
    try:
        return load()
    except FileNotInRepositoryError:
        options = HubOptions(revision=revision)
        for file, asked in foreign.items():
            if any(locate_optional(name, file + suffix, options) for suffix in ("", ".index.json")):
                return load(**{asked: True})
        raise
