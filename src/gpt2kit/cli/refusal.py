"""Refusals of a room, in the words of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpt2kit.errors import InputError

__all__ = ["refusals_of_the_command"]

WAY_OUT = "--framework torch does it"


@contextmanager
def refusals_of_the_command(room: str, elsewhere: str) -> Iterator[None]:
    """Let what a room refuses name the way out that the command has.

    Args:
        room: Its name, with which its refusals begin: "In the Flax room ...".
        elsewhere: The words in which they send people to the PyTorch room.
    """
    try:
        yield
    except InputError as error:
        said = str(error)
        if said.startswith(f"In the {room} room"):
            error.args = (
                said.replace(elsewhere, WAY_OUT) if elsewhere in said else f"{said} Or: {WAY_OUT}.",
            )
        raise
