"""The devices of TensorFlow by the names that people give them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import tensorflow as tf

from gpt2kit.errors import InputError

__all__ = ["choose_device", "devices", "place"]

_GPU = ("cuda", "rocm")  # what TensorFlow itself calls GPU, by the names of the makers


def devices() -> dict[str, Any]:
    """Return the devices of this machine by name: the processor as `cpu`, every other one with its number."""
    found = {"cpu": tf.config.list_physical_devices("CPU")[0]}
    for kind in ("GPU", "TPU"):
        for number, device in enumerate(tf.config.list_physical_devices(kind)):
            found[f"{kind.lower()}:{number}"] = device
    return found


def choose_device(name: str) -> str:
    """Return the device of a name, or say which there are.

    Args:
        name: `cpu`, `gpu` or `cuda`, each but the first with `:1` for the second one; `auto` for a GPU where
            there is one, or the CPU.

    Raises:
        InputError: TensorFlow knows no such device, or this machine has none.
    """
    there = devices()
    if name == "auto":
        return next((each for each in there if each.startswith("gpu")), "cpu")
    kind, _, number = name.partition(":")
    kind = "gpu" if kind in _GPU else kind
    wanted = kind if kind == "cpu" and not number else f"{kind}:{number or 0}"
    if wanted not in there:
        hint = "" if kind != "gpu" else " For GPUs TensorFlow needs pip install 'tensorflow[and-cuda]'."
        raise InputError(
            f"TensorFlow finds no device {name!r} on this machine; it has {', '.join(there)}. Or leave "
            f"--device out.{hint}"
        )
    if wanted == "cpu":  # and leave the others alone: TensorFlow would start each of them
        with suppress(RuntimeError):  # they are started already
            tf.config.set_visible_devices([], "GPU")
    return wanted


def place(name: str) -> str:
    """Return a device as `tf.device` takes it.

    Example:
        >>> place("cpu"), place("gpu:1")
        ('/CPU:0', '/GPU:1')
    """
    kind, _, number = name.partition(":")
    return f"/{kind.upper()}:{number or 0}"
