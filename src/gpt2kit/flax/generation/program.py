"""The programs of a model: what was compiled once serves every later call of the same structure.

A program belongs to a function, to what is compiled into it, and to the model's configuration; parameters,
numbers and keys are its arguments. JAX itself tells apart the shapes of these.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gpt2kit.errors import InputError
from gpt2kit.flax.generation.processor import FlaxLogitsProcessorList
from gpt2kit.flax.generation.prompt import is_traced

__all__ = ["Fixed", "Programs", "fixed", "key_of", "loop", "run"]


class Programs:
    """Keep the compiled functions of one model; copies of the model begin with none.

    Attributes:
        traced: How often a function was traced, which is what comes before compiling.
    """

    def __init__(self) -> None:
        self.traced = 0
        self._made: dict[Hashable, Callable[..., Any]] = {}

    def get(self, function: Callable[..., Any], compiled_in: tuple[Hashable, ...], key: Hashable) -> Any:
        """Return the compiled form of function(*compiled_in, *arguments), made if it is not there."""
        key = (function, compiled_in, key)
        if key not in self._made:
            self._made[key] = self.make(function, compiled_in)
        return self._made[key]

    def make(self, function: Callable[..., Any], compiled_in: tuple[Hashable, ...]) -> Any:
        """Return a compiled form that is not kept."""

        def traced(*arguments: Any) -> Any:
            self.traced += 1
            return function(*compiled_in, *arguments)

        return jax.jit(traced)

    def __reduce__(self) -> tuple[type[Programs], tuple[()]]:
        """Copy and pickle without what was compiled."""
        return Programs, ()


class Fixed:
    """A processor of the user's that is no tree: it is compiled in, with everything that it holds.

    Args:
        processor: Called with the text, the scores and the length.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.key = _key_of(processor)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return what the processor returns, [R, V].

        Raises:
            InputError: it wants more arguments, or returns something of another shape.
        """
        found = FlaxLogitsProcessorList([self.processor])(input_ids, scores, cur_len)
        if jnp.shape(found) != scores.shape:
            raise InputError(
                f"Logits processors have to return scores of the shape {list(scores.shape)}, but "
                f"{type(self.processor).__name__} returned {list(jnp.shape(found))}."
            )
        return jnp.asarray(found, scores.dtype)  # [R, V]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fixed) and self.key is not None and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


# Its own auxiliary value: two are the same to JAX where they hold the same.
jax.tree_util.register_pytree_node(Fixed, lambda made: ((), made), lambda made, _: made)


def _key_of(processor: Any) -> Hashable:
    """Return what a processor is known by: its kind and everything it holds; None if that cannot be told."""
    function = processor if isinstance(processor, FunctionType) else None
    try:
        return type(processor), function, pickle.dumps(processor)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None


def fixed(processor: Any) -> Any:
    """Return a processor in a form that a program takes: itself if it is a tree, else compiled in."""
    return Fixed(processor) if jax.tree_util.all_leaves([processor]) else processor


def run(
    model: Any,
    function: Callable[..., Any],
    compiled_in: tuple[Hashable, ...],
    arguments: tuple[Any, ...],
    trace: bool = True,
) -> Any:
    """Return function(*compiled_in, *arguments), computed by one compiled program.

    Where an argument is being traced, the caller's own program takes the function in; with trace=False it
    runs in Python.

    Args:
        model: Keeps the program.
        function: Of a module's top level, so that it is the same at the next call.
        compiled_in: Values that the program may depend on; hashable.
        arguments: Trees of arrays and numbers.
        trace: Whether to compile.
    """
    if not trace or is_traced(arguments):
        return function(*compiled_in, *arguments)
    kinds = jax.tree.leaves(arguments, is_leaf=lambda leaf: isinstance(leaf, Fixed))
    if any(isinstance(leaf, Fixed) and leaf.key is None for leaf in kinds):
        return model.programs.make(function, compiled_in)(*arguments)
    return model.programs.get(function, compiled_in, key_of(model.module))(*arguments)


def key_of(module: Any) -> Hashable:
    """Return what a module reads while it is traced; a program holds its module, so the id stays its own."""
    return id(module), module.config.to_json_string(use_diff=False), jax.config.jax_enable_x64


def loop(goes_on: Callable[[Any], Any], step: Callable[[Any], Any], state: Any, trace: bool) -> Any:
    """Repeat a step as long as the state says so: within a program, or in Python to look at each state."""
    if trace or is_traced(state):
        return lax.while_loop(goes_on, step, state)
    while goes_on(state):
        state = step(state)
    return state
