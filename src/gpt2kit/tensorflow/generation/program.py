"""Compiled programs of a model: one for each way of decoding, each set of rules and each set of shapes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

__all__ = ["Programs", "is_symbolic"]


class Programs:
    """Keep the compiled functions of one model; copies of the model begin with none.

    Attributes:
        traced: How often a function was traced, which is what comes before compiling.
        jit_compile: Whether XLA compiles what is traced. Without, a program is ready many times sooner and
            runs at half the speed or better: the choice for one text alone.
    """

    def __init__(self) -> None:
        self.traced = 0
        self.jit_compile = True
        self._made: dict[Hashable, Callable[..., Any]] = {}

    def run(
        self,
        key: Hashable,
        function: Callable[[Any], Any],
        arguments: Any,
        jit_compile: bool | None = None,
    ) -> Any:
        """Return function(arguments), computed by the program of this key; it is compiled for new shapes.

        Args:
            key: What the function depends on besides its arguments.
            function: Called while it is traced, with tensors in place of arrays.
            arguments: Nested dictionaries and lists of arrays and tensors.
            jit_compile: As the attribute, which decides where it is None.
        """
        compiled = self.jit_compile if jit_compile is None else jit_compile
        key = (key, compiled)
        if key not in self._made:

            def traced(given: Any) -> Any:
                self.traced += 1
                return function(given)

            self._made[key] = tf.function(traced, jit_compile=compiled, autograph=False)
        return self._made[key](tf.nest.map_structure(tf.convert_to_tensor, arguments))

    def forget(self) -> None:
        """Let go of what was compiled, and of the weights and the memory that it holds."""
        self._made.clear()

    def __reduce__(self) -> tuple[type[Programs], tuple[()]]:
        """Copy and pickle without what was compiled."""
        return Programs, ()


def is_symbolic(*values: Any) -> bool:
    """Tell whether any of these stands for a value that is not known yet, within a graph."""
    return any(tf.is_symbolic_tensor(value) for value in tf.nest.flatten(values))
