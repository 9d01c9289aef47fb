"""The devices of JAX by the names that people give them."""

from __future__ import annotations

import os
from typing import Any

import jax

from gpt2kit.errors import InputError

__all__ = ["choose_device", "devices"]

_GPU = ("cuda", "rocm")  # what JAX itself calls gpu, by the names of the makers


def devices() -> dict[str, Any]:
    """Return the devices of this machine by name: the processor as `cpu`, every other one with its number.

    Raises:
        InputError: JAX cannot start what it shall compute on.
    """
    found = {"cpu": _started("cpu")[0]}
    for device in _started():
        if device.platform != "cpu":
            found[f"{device.platform}:{device.local_hardware_id or 0}"] = device
    return found


def choose_device(name: str) -> Any:
    """Return the device of a name, or say which there are.

    Args:
        name: `cpu`, `gpu` or `cuda`, `tpu`, each but the first with `:1` for the second one; `auto` for what
            JAX itself prefers.

    Raises:
        InputError: JAX knows no such device, or this machine has none.
    """
    if name == "auto":
        return _started()[0]
    if name == "cpu":  # and leave the others alone: JAX would start each of them
        jax.config.update("jax_platforms", "cpu")
    there = devices()
    kind, _, number = name.partition(":")
    kind = "gpu" if kind in _GPU else kind
    wanted = kind if kind == "cpu" and not number else f"{kind}:{number or 0}"
    if wanted not in there:
        hint = "" if kind != "gpu" else " JAX needs a plugin for each kind of GPU: see its installation page."
        raise InputError(
            f"JAX finds no device {name!r} on this machine; it has {', '.join(there)}. Or leave --device out."
            + hint
        )
    return there[wanted]


def _started(backend: str | None = None) -> list[Any]:
    """Start JAX, which it does not do before it is asked for its devices."""
    try:
        return list(jax.local_devices(backend=backend))
    except (AssertionError, RuntimeError) as error:  # the former where JAX_PLATFORMS names what has no plugin
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        message = f"JAX finds nothing to compute on{reason and ': '}{reason}."
        if platforms := os.environ.get("JAX_PLATFORMS"):
            message += f" JAX_PLATFORMS is {platforms!r}: leave it unset, and JAX takes what there is."
        raise InputError(message) from None
