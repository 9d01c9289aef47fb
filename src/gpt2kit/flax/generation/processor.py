"""What a logits processor is, how several are applied one after the other, and which numbers may change.

A compiled program reads the numbers of its rules when it runs: a rule is a pytree whose numbers are leaves,
so that another temperature or other token ids compile nothing. What decides shapes (k, n) is no leaf.
Dimensions: R rows of text, T tokens that have room, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import Array

from gpt2kit.errors import InputError

__all__ = ["FlaxLogitsProcessor", "FlaxLogitsProcessorList", "FlaxLogitsWarper", "is_tree", "tree"]

_Rule = TypeVar("_Rule", bound=type)
_TREES: set[type] = set()


class FlaxLogitsProcessor:
    """Change the scores of the next token; subclass it to make a rule of your own, in jax.numpy."""

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        """Return the changed scores, [R, V].

        Args:
            input_ids: The text, [R, T]; what stands behind the first `cur_len` tokens is not written yet.
            scores: Of the next token, [R, V].
            cur_len: Tokens of the text so far, prompt included; a number that is not known when compiling.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has to define __call__(input_ids, scores, cur_len)."
        )


class FlaxLogitsWarper:
    """Change the scores of the next token where it is drawn at random."""

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        """Return the changed scores, [R, V]; the arguments are those of `FlaxLogitsProcessor`."""
        raise NotImplementedError(
            f"{type(self).__name__} has to define __call__(input_ids, scores, cur_len)."
        )


class FlaxLogitsProcessorList(list):
    """Apply several processors and warpers, one after the other."""

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array, **kwargs: Any) -> Array:
        """Return the scores that the last one returns, [R, V].

        Raises:
            InputError: a processor asks for an argument that is not among `kwargs`.
        """
        for processor in self:
            wanted = list(inspect.signature(processor.__call__).parameters)[3:]
            missing = [name for name in wanted if name not in kwargs]
            if missing:
                raise InputError(
                    f"{type(processor).__name__} needs the arguments {missing}; pass them by name."
                )
            more = kwargs if wanted else {}
            scores = processor(input_ids, scores, cur_len, **more)  # [R, V]
        return scores


def tree(numbers: tuple[str, ...] = (), fixed: tuple[str, ...] = ()) -> Callable[[_Rule], _Rule]:
    """Make a pytree of a class of rules; subclasses are none until they say so themselves.

    Args:
        numbers: Attributes that may change without compiling again.
        fixed: Attributes that are compiled in.
    """

    def register(rule: _Rule) -> _Rule:
        def flatten(made: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            return tuple(getattr(made, name) for name in numbers), tuple(
                getattr(made, name) for name in fixed
            )

        def unflatten(values: tuple[Any, ...], leaves: Any) -> Any:
            made: Any = object.__new__(rule)  # the leaves may be tracers, which no check can look at
            for name, value in zip((*numbers, *fixed), (*leaves, *values), strict=True):
                setattr(made, name, value)
            return made

        jax.tree_util.register_pytree_node(rule, flatten, unflatten)
        _TREES.add(rule)
        return rule

    return register


def is_tree(processor: object) -> bool:
    """Tell whether a processor is one of ours, whose numbers a program reads when it runs."""
    return type(processor) in _TREES


jax.tree_util.register_pytree_node(
    FlaxLogitsProcessorList,
    lambda rules: (tuple(rules), None),
    lambda _, rules: FlaxLogitsProcessorList(rules),
)
