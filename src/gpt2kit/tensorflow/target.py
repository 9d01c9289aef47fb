"""What a loss is measured against, checked: labels name a class (whole numbers) or give values (numbers).

Values are looked at in eager calls on the CPU.
Dimensions: B batch, T positions, V vocabulary, C choices, N labels (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from gpt2kit.errors import InputError
from gpt2kit.tensorflow import arguments
from gpt2kit.tensorflow.layers import sizes
from gpt2kit.tensorflow.loss import IGNORED_LABEL

__all__ = ["check_kept", "classes", "places", "tokens", "values"]


def check_kept(logits_to_keep: Any, labels: Any) -> None:
    """Refuse a number of logits that is none, and labels whose logits would not be made.

    Raises:
        InputError: Either.
    """
    if isinstance(logits_to_keep, bool) or not isinstance(logits_to_keep, int) or logits_to_keep < 0:
        raise InputError(f"logits_to_keep should be a whole number from 0 on, but it is {logits_to_keep!r}.")
    if logits_to_keep and labels is not None:
        raise InputError("labels need the logits of all positions; leave logits_to_keep out.")


def tokens(labels: Any, logits: tf.Tensor, V: int) -> tf.Tensor:
    """Return the labels of a language model, [..., T]; the first of a row is never predicted and never read.

    Raises:
        InputError: Not whole numbers, of another shape than the logits, or outside the vocabulary.
    """
    labels = _whole("labels", labels, sizes(logits)[:-1])  # [..., T]
    _check_range("labels", labels[..., 1:], V, f"vocab_size={V}")
    return labels


def classes(name: str, labels: Any, shape: Sequence[Any], count: Any, counted: str) -> tf.Tensor:
    """Return labels that name a class each.

    Args:
        name: Of the argument.
        labels: What came.
        shape: One label for each row that is scored; a last axis of one may stand behind it.
        count: Number of classes.
        counted: What that number is, for the message: "num_labels=3".

    Raises:
        InputError: Not whole numbers, of another shape, or no such class.
    """
    labels = _whole(name, labels, shape)  # shape
    _check_range(name, labels, count, counted)
    return labels


def places(name: str, indices: Any, shape: Sequence[Any], T: Any) -> tf.Tensor:
    """Return indices of positions, each from 0 to T - 1.

    Raises:
        InputError: Not whole numbers, of another shape, or beyond the sequence.
    """
    indices = _whole(name, indices, shape)  # shape
    if arguments.is_readable(indices) and isinstance(T, int):
        given = indices.numpy()  # shape
        outside = given[(given < 0) | (given >= T)]
        if outside.size:
            raise InputError(
                f"{name} holds {int(outside[0])}, which is outside the sequence: its {T} positions are "
                f"numbered 0 to {T - 1}."
            )
    return indices


def values(labels: Any, shape: Sequence[Any], dtype: Any, *, shares: bool = False) -> tf.Tensor:
    """Return labels that are numbers rather than classes, in the dtype of their loss.

    Args:
        labels: What came; a last axis of one may stand behind the shape.
        shape: One number for each score.
        dtype: Of the loss.
        shares: Each number says how far a label applies, from 0 to 1.

    Raises:
        InputError: Another shape, or shares outside 0 to 1.
    """
    labels = tf.cast(_shaped("labels", arguments.tensor("labels", labels), shape), dtype)  # shape
    if shares and arguments.is_readable(labels):
        given = labels.numpy()  # shape
        outside = given[(given < 0) | (given > 1)]
        if outside.size:
            raise InputError(
                f"labels holds {float(outside[0]):g}, and each should say from 0 to 1 how far a label "
                "applies."
            )
    return labels


def _whole(name: str, labels: Any, shape: Sequence[Any]) -> tf.Tensor:
    """Return whole numbers of the given shape."""
    labels = arguments.tensor(name, labels)
    if not labels.dtype.is_integer:
        raise InputError(
            f"{name} should hold whole numbers, but its dtype is {labels.dtype.name}. Convert it with "
            "tf.cast(..., tf.int32) if that is what it holds."
        )
    return _shaped(name, arguments.indices(labels), shape)


def _shaped(name: str, labels: tf.Tensor, shape: Sequence[Any]) -> tf.Tensor:
    """Return labels of the given shape; an axis of size 1 may be there or not, behind all others or alone."""
    given, wanted = labels.shape.as_list(), list(shape)
    extra = len(given) == len(wanted) + 1 and given[-1] == 1
    alone = not given and wanted == [1]
    compared = given[:-1] if extra else given
    fits = len(compared) == len(wanted) and all(
        size is None or not isinstance(each, int) or size == each
        for size, each in zip(compared, wanted, strict=True)
    )
    if not (fits or alone):
        told = ", ".join(str(size) if isinstance(size, int) else "?" for size in wanted)
        raise arguments.shape_error(name, f"[{told}]", labels)
    return tf.reshape(labels, wanted) if extra or alone else labels  # shape


def _check_range(name: str, labels: tf.Tensor, count: Any, counted: str) -> None:
    """Refuse classes that are not there, where that can be seen."""
    if not arguments.is_readable(labels) or not isinstance(count, int):
        return
    given = labels.numpy()  # [*]
    outside = given[((given < 0) | (given >= count)) & (given != IGNORED_LABEL)]
    if outside.size:
        raise InputError(
            f"{name} holds {int(outside[0])}, which is outside 0 to {count - 1} ({counted}). Use "
            f"{IGNORED_LABEL} for what shall not count."
        )
