"""The frameworks that a command can compute with: one table, and the one door into a room.

A framework is imported when a command enters its room, and not before.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from gpt2kit.errors import MissingDependencyError

__all__ = ["PROGRAMS", "ROOMS", "Framework", "Room", "enter", "part"]


class Framework(StrEnum):
    """What `--framework` takes."""

    torch = "torch"
    flax = "flax"
    tensorflow = "tensorflow"


@dataclass(frozen=True)
class Room:
    """What the command line knows of a room before it enters it.

    Attributes:
        name: As people call the framework.
        libraries: What has to be installed, as Python imports it.
        environment: Variables that are set before the framework is imported, where the user set none.
    """

    name: str
    libraries: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def installed(self) -> bool:
        """Tell whether everything is there, without importing it."""
        return all(importlib.util.find_spec(library) is not None for library in self.libraries)


# Where compiled programs are kept for the next start (cli/flax/programs.py).
PROGRAMS = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "gpt2kit", "jax").expanduser()

ROOMS: dict[Framework, Room] = {
    Framework.torch: Room("PyTorch", ("torch",)),
    Framework.flax: Room(
        "JAX",
        ("jax", "flax"),
        {
            "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA talks to itself on stderr; what fails is raised all the same
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # take of a GPU what one text needs, not three quarters
            "JAX_COMPILATION_CACHE_DIR": str(PROGRAMS),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # many small ones add up
        },
    ),
    Framework.tensorflow: Room(
        "TensorFlow",
        ("tensorflow",),
        {
            "TF_CPP_MIN_LOG_LEVEL": "3",  # as above
            "KERAS_BACKEND": "tensorflow",  # whatever the user's keras.json says
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # take of a GPU what one text needs, not all of it
        },
    ),
}


def enter(framework: Framework) -> None:
    """Import a room.

    Raises:
        MissingDependencyError: The framework is not installed; the message says how to install it, and which
            other one is there.
    """
    room = ROOMS[framework]
    if not any(library in sys.modules for library in room.libraries):  # else somebody else has set it up
        for variable, value in room.environment.items():
            os.environ.setdefault(variable, value)
    try:
        importlib.import_module(f"gpt2kit.{framework.value}")
    except MissingDependencyError as error:
        others = [other for other in Framework if other is not framework and ROOMS[other].installed()]
        hints = "".join(
            f". {ROOMS[other].name} is installed: --framework {other.value} computes with it"
            for other in others
        )
        raise MissingDependencyError(f"{str(error).removesuffix('.')}{hints}") from None


def part(framework: Framework, name: str) -> Any:
    """Enter a room, and return the module `cli/<framework>/<name>.py`.

    Raises:
        MissingDependencyError: The framework is not installed.
    """
    enter(framework)  # first: the room says what to do where its framework is missing
    return importlib.import_module(f"gpt2kit.cli.{framework.value}.{name}")
