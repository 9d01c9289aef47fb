"""What a logits processor is, how several are applied one after the other, and which numbers may change.

A compiled program reads the numbers of our own rules when it runs, so that another temperature or other token
ids compile nothing. What decides shapes (k, n) and rules of the user's own are compiled in.
Dimensions: R rows of text, T tokens that have room, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpt2kit.errors import InputError

__all__ = [
    "TFLogitsProcessor",
    "TFLogitsProcessorList",
    "TFLogitsWarper",
    "leaves",
    "put_together",
    "taken_apart",
]

_Rule = TypeVar("_Rule", bound=type)
# Kind of rule -> the names of its numbers, and of what is compiled in.
_LEAVES: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {}


class TFLogitsProcessor:
    """Change the scores of the next token; subclass it for a rule of your own, of TensorFlow operations."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V].

        Args:
            input_ids: The text, [R, T]; what stands behind the first `cur_len` tokens is not written yet.
            scores: Of the next token, [R, V].
            cur_len: Tokens of the text so far, prompt included; a tensor where the search is compiled.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has to define __call__(input_ids, scores, cur_len)."
        )


class TFLogitsWarper:
    """Change the scores of the next token where it is drawn at random."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]; the arguments are those of `TFLogitsProcessor`."""
        raise NotImplementedError(
            f"{type(self).__name__} has to define __call__(input_ids, scores, cur_len)."
        )


class TFLogitsProcessorList(list[Any]):
    """Apply several processors and warpers, one after the other."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any, **kwargs: Any) -> Any:
        """Return the scores that the last one returns, [R, V].

        Raises:
            InputError: a processor asks for an argument that is not among `kwargs`, or returns scores of
                another shape.
        """
        for processor in self:
            wanted = list(inspect.signature(processor.__call__).parameters)[3:]
            missing = [name for name in wanted if name not in kwargs]
            if missing:
                raise InputError(
                    f"{type(processor).__name__} needs the arguments {missing}; pass them by name."
                )
            found = processor(input_ids, scores, cur_len, **(kwargs if wanted else {}))  # [R, V]
            if tuple(getattr(found, "shape", ())) != tuple(scores.shape):
                came = list(found.shape) if hasattr(found, "shape") else f"a {type(found).__name__}"
                raise InputError(
                    f"Logits processors have to return scores of the shape {list(scores.shape)}, but "
                    f"{type(processor).__name__} returned {came}."
                )
            scores = found
        return scores


def leaves(numbers: tuple[str, ...] = (), fixed: tuple[str, ...] = ()) -> Callable[[_Rule], _Rule]:
    """Say of a class of rules what a program reads when it runs; subclasses have to say so themselves.

    Args:
        numbers: Attributes that may change without compiling again.
        fixed: Attributes that are compiled in.
    """

    def register(rule: _Rule) -> _Rule:
        _LEAVES[rule] = (numbers, fixed)
        return rule

    return register


def taken_apart(processors: Sequence[Any]) -> tuple[tuple[Hashable, ...], list[list[NDArray[Any]]]]:
    """Return what tells these rules from others in a program, and the numbers that are none of it."""
    keys: list[Hashable] = []
    numbers: list[list[NDArray[Any]]] = []
    for processor in processors:
        if type(processor) not in _LEAVES:
            keys.append(id(processor))  # the program holds it, so the id stays its own
            numbers.append([])
            continue
        names, fixed = _LEAVES[type(processor)]
        values = [np.asarray(getattr(processor, name)) for name in names]
        values = [value.astype(np.int32) if value.dtype.kind == "i" else value for value in values]
        shapes = tuple((value.shape, value.dtype.str) for value in values)
        keys.append((type(processor), shapes, *(getattr(processor, name) for name in fixed)))
        numbers.append(values)
    return tuple(keys), numbers


def put_together(processors: Sequence[Any], numbers: Sequence[Sequence[Any]]) -> TFLogitsProcessorList:
    """Return the same rules with other numbers, such as the arguments of a program."""
    made = TFLogitsProcessorList()
    for processor, values in zip(processors, numbers, strict=True):
        if type(processor) in _LEAVES:
            processor = copy.copy(processor)
            for name, value in zip(_LEAVES[type(processor)][0], values, strict=True):
                setattr(processor, name, value)
        made.append(processor)
    return made
