"""The keywords of a call: brought together from all the forms in which Keras' users write it, and the flags.

What the values are is the matter of `arguments`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.errors import GPT2KitError, InputError
from gpt2kit.tensorflow.arguments import is_readable

__all__ = ["named", "plainly"]

FLAGS = ("use_cache", "output_attentions", "output_hidden_states", "return_dict", "training")


def plainly(call: Callable[..., Any]) -> Callable[..., Any]:
    """Check the flags of a layer's call, and let this package's own errors leave it as they are.

    Keras would write all arguments under an error, unless it has marked that error as one that has them.
    There is no public way to say so.
    """
    names = tuple(inspect.signature(call).parameters)[1:]

    @functools.wraps(call)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            _check_flags(dict(zip(names, args, strict=False)) | kwargs)
            return call(self, *args, **kwargs)
        except GPT2KitError as error:
            error._keras_call_info_injected = True  # type: ignore[attr-defined]  # read by Keras alone
            raise

    return tf.autograph.experimental.do_not_convert(checked)


def _check_flags(given: Mapping[str, Any]) -> None:
    """Refuse flags that are neither True nor False: "no" would switch on what it names."""
    for name in FLAGS:
        value: Any = given.get(name)
        if value is None or isinstance(value, bool | np.bool_):
            continue
        # Keras makes a tensor of NumPy's booleans.
        if not (is_readable(value) and value.dtype.is_bool and not value.shape.rank):
            raise InputError(f"{name} should be True or False, but it is {value!r}.")


def named(names: Sequence[str], args: Sequence[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Bring what a model was called with into keywords.

    The first argument may hold several: a list or tuple in the order of the arguments, or a mapping. Then no
    other tensors may come beside it.

    Args:
        names: The arguments of the model, in their order.
        args: Arguments by place.
        given: Arguments by name.

    Raises:
        InputError: Too many, an unknown name, or one twice.
    """
    if len(args) > len(names):
        raise InputError(f"{len(args)} arguments came, and there are only {len(names)}: {', '.join(names)}.")
    keywords = dict(zip(names, args, strict=False))
    _add(keywords, given, names, "The call")
    first = keywords.pop(names[0], None)
    if isinstance(first, Mapping):
        _add(keywords, first, names, "The mapping")
    elif isinstance(first, list | tuple):
        if first and all(isinstance(each, int | list | tuple) for each in first):
            raise InputError(
                f"{names[0]} is a list of numbers. Make an array of them: tf.constant({names[0]}). A list in "
                "the first place holds one array for each argument."
            )
        if len(first) > len(names):
            raise InputError(
                f"The list in the first place holds {len(first)} arrays, and there are only {len(names)} "
                f"arguments: {', '.join(names)}."
            )
        _add(keywords, dict(zip(names, first, strict=False)), names, "The list in the first place")
    elif first is not None:
        keywords[names[0]] = first
    return {name: value for name, value in keywords.items() if value is not None}


def _add(keywords: dict[str, Any], more: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Enter arguments by name; refuse those that no one knows, and those that are there already."""
    for name, value in more.items():
        if name not in names:
            raise InputError(f"{where} has the unknown key {name!r}. The arguments are {', '.join(names)}.")
        if value is not None and keywords.get(name) is not None:
            raise InputError(f"{name} came twice: {where} has it too. Give it once.")
        if value is not None:
            keywords[name] = value
