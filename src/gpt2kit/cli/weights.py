"""Weights in whichever format is there: nobody types `from_flax=True` into a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gpt2kit.errors import FileNotInRepositoryError
from gpt2kit.hub import HubOptions, locate_optional

__all__ = ["open_any"]

Model = TypeVar("Model")


def open_any(load: Callable[..., Model], name: str, revision: str, foreign: str, asked: str) -> Model:
    """Load a model, from another framework's file where there is no other.

    Args:
        load: `from_pretrained` with its arguments.
        name: A folder or a hub name.
        revision: Branch, tag or commit on the hub.
        foreign: The file that is read only when it is asked for.
        asked: The keyword that asks for it.
    """
    try:
        return load()
    except FileNotInRepositoryError:
        options = HubOptions(revision=revision)
        found = (locate_optional(name, foreign + suffix, options) for suffix in ("", ".index.json"))
        if not any(found):
            raise
        return load(**{asked: True})
