"""Signatures as JSON: what tools record from transformers 4.34.0, and what the contracts compare with it."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["described", "plain"]


def described(function: Any) -> list[list[Any]]:
    """Return [name, kind, default] of each parameter; what JSON cannot hold is named in brackets."""
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        entry: list[Any] = [parameter.name, parameter.kind.name]
        if parameter.default is not parameter.empty:
            entry.append(plain(parameter.default))
        parameters.append(entry)
    return parameters


def plain(default: Any) -> Any:
    """Return a default as JSON holds it.

    A function is told by its name, a member of an enumeration by its value, a dtype by its own name.
    """
    if hasattr(default, "value"):
        return f"<{default.value}>"
    if hasattr(default, "dtype"):
        return f"<{default.dtype}>"
    if callable(default):
        return f"<{default.__module__}.{default.__qualname__}>"
    if isinstance(default, tuple | list):
        return [plain(item) for item in default]
    return default if default is None or isinstance(default, bool | int | float | str) else f"<{default!r}>"
