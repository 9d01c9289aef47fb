"""What a loss is measured against, checked before the model runs.

Labels name a class (whole numbers) or give values (numbers). Ranges are looked at on the CPU only, because an
accelerator would have to be waited for at every call.
Dimensions: B batch, T positions, V vocabulary, C choices, N labels (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.torch import arguments
from gpt2kit.torch.arguments import is_readable
from gpt2kit.torch.loss import IGNORED_LABEL
from gpt2kit.torch.tracing import unseen

__all__ = ["check_tensor", "classes", "places", "positions", "shape_of", "tokens", "values"]


def shape_of(model: Any, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> tuple[int, ...]:
    """Return the shape of the ids, [B, T] or [B, C, T], or that which ids in place of embeddings would have.

    Args:
        model: For its device and the width of its embeddings.
        input_ids: What came.
        inputs_embeds: What came instead.

    Raises:
        InputError: Both came, or neither, or no tensors of any shape that could be meant.
    """
    arguments.tensors(model.device, input_ids=input_ids, inputs_embeds=inputs_embeds)
    with unseen():
        *_, shape = arguments.inputs(input_ids, inputs_embeds, model.config.n_embd)
        return tuple(shape)


def tokens(labels: Tensor, shape: Sequence[int], V: int) -> Tensor:
    """Return the labels of a language model, [B, T]; the first of a row is never predicted and never read.

    Args:
        labels: What came.
        shape: That of the input ids.
        V: `vocab_size`.

    Raises:
        InputError: Not whole numbers, of another shape, or outside the vocabulary.
    """
    labels = _whole("labels", labels, shape)  # [B, T]
    _check_range("labels", labels[..., 1:], V, f"vocab_size={V}")
    return labels


def classes(name: str, labels: Tensor, shape: Sequence[int], count: int, counted: str) -> Tensor:
    """Return labels that name a class each; a last axis of one is dropped.

    Args:
        name: Of the argument.
        labels: What came.
        shape: One label for each row that is scored.
        count: Number of classes.
        counted: What that number is, for the message: "num_labels=3". A number that belongs to the input is
            written "{} choices", because a compiler would take one that is spelled out for a constant.

    Raises:
        InputError: Not whole numbers, of another shape, or no such class.
    """
    labels = _whole(name, labels, shape)  # shape
    _check_range(name, labels, count, counted)
    return labels


def places(name: str, indices: Tensor, shape: Sequence[int], T: int) -> Tensor:
    """Return indices of positions, each from 0 to T - 1.

    Raises:
        InputError: Not whole numbers, of another shape, or beyond the sequence.
    """
    indices = _whole(name, indices, shape)  # shape
    if is_readable(indices) and (outside := indices[(indices < 0) | (indices >= T)]).numel():
        raise InputError(
            f"{name} holds {int(outside[0])}, which is outside the sequence: its {T} positions are numbered "
            f"0 to {T - 1}."
        )
    return indices


def positions(name: str, ends: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the ends of spans, which may lie beyond the sequence; a last axis of one is dropped.

    Raises:
        InputError: Not whole numbers, or of another shape.
    """
    return _whole(name, ends, shape)  # shape


def values(labels: Tensor, shape: Sequence[int], like: Tensor, *, shares: bool = False) -> Tensor:
    """Return labels that are numbers rather than classes, in the dtype of their loss: float32 at least.

    Args:
        labels: What came; a last axis of one is dropped.
        shape: One number for each score.
        like: For dtype and device.
        shares: Each number says how far a label applies, from 0 to 1.

    Raises:
        InputError: Another shape, or shares outside 0 to 1.
    """
    check_tensor("labels", labels)
    dtype = torch.promote_types(like.dtype, torch.float32)
    labels = _shaped("labels", labels, shape).to(like.device, dtype)  # shape
    if shares and is_readable(labels) and (outside := labels[(labels < 0) | (labels > 1)]).numel():
        raise InputError(
            f"labels holds {float(outside[0]):g}, and each should say from 0 to 1 how far a label applies."
        )
    return labels


def _whole(name: str, labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Return whole numbers as int64, of the given shape."""
    check_tensor(name, labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            f"{name} should hold whole numbers, but it is of dtype {labels.dtype}. Convert it with .long() "
            "if that is what it holds."
        )
    return _shaped(name, labels, shape).long()


def check_tensor(name: str, labels: Any) -> None:
    """Refuse what is no tensor; one on another device is moved to the scores, as 4.34 does."""
    if not isinstance(labels, Tensor):
        raise InputError(
            f"{name} should be a tensor, but it is a {type(labels).__name__}. Make one: torch.tensor({name})."
        )


def _shaped(name: str, labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Return labels of the given shape; an axis of size 1 may be there or not, behind all others or alone."""
    wanted = tuple(shape)
    with unseen():
        given = tuple(labels.shape)
    if given not in (wanted, (*wanted, 1), *([()] if wanted == (1,) else [])):
        raise InputError(f"{name} should have the shape {list(wanted)}, but it is {list(given)}.")
    return labels if given == wanted else labels.reshape(wanted)  # shape


def _check_range(name: str, labels: Tensor, count: int, counted: str) -> None:
    """Refuse classes that are not there, where finding that out costs nothing."""
    if not is_readable(labels):
        return
    outside = labels[((labels < 0) | (labels >= count)) & (labels != IGNORED_LABEL)]
    if outside.numel():
        raise InputError(
            f"{name} holds {int(outside[0])}, which is outside 0 to {count - 1} ({counted.format(count)}). "
            f"Use {IGNORED_LABEL} for what shall not count."
        )
