"""The cross-entropy that every head is trained by, and that of each next token, whole or in chunks.

The logits are the largest tensor of a GPT-2 by far: at B=8, T=1024 and V=50257 one float32 copy of them takes
1.6 GB, and the plain loss with its backward pass needs four (logits, their log-softmax, the gradients of
both). The loss in chunks makes the logits of so many positions at a time, takes the gradients while they are
there, and forgets them:

    for each chunk h:    p = softmax(head(h))    loss += -log p[target]    dlogits = p - onehot(target)

Dimensions: B batch, T positions, D n_embd, V vocabulary, R positions of a chunk (docs/shapes.md).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2kit.errors import InputError

__all__ = [
    "IGNORED_LABEL",
    "check_chunk_size",
    "chunked_loss",
    "chunked_next_token_loss",
    "class_loss",
    "next_token_loss",
]

# Labels of this value count for nothing; it is the default of torch's cross-entropy.
IGNORED_LABEL = -100


def check_chunk_size(loss_chunk_size: int, labels: Tensor | None) -> None:
    """Refuse a chunk of a size that is none, and chunks of a loss that nobody asked for.

    Raises:
        InputError: Below 0, no whole number, or without labels.
    """
    is_size = isinstance(loss_chunk_size, int) and not isinstance(loss_chunk_size, bool)
    if not is_size or loss_chunk_size < 0 or (loss_chunk_size and labels is None):
        raise InputError(
            f"loss_chunk_size={loss_chunk_size!r} cannot be honoured: it is the number of positions whose "
            "logits are made at once for the loss, 0 for all, and needs labels."
        )


def class_loss(logits: Tensor, labels: Tensor, ignored: int = IGNORED_LABEL) -> Tensor:
    """Return the mean cross-entropy of labels that name a class each, a scalar in float32 at least.

    Args:
        logits: Scores of the classes on the last axis, [*, N].
        labels: A class for each row of scores, [*]; on any device.
        ignored: The label that counts for nothing.
    """
    log_p = _log_softmax(logits.reshape(-1, logits.size(-1)))  # [R, N]
    return F.nll_loss(log_p, labels.to(logits.device).flatten(), ignore_index=ignored)  # []


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of each next token, a scalar in float32 at least.

    Position t predicts the label at t + 1, and the last position predicts nothing. The labels are shifted
    rather than the logits, because moving [B, T, V] numbers would cost a copy of the largest tensor of all.

    Args:
        logits: [B, T, V]
        labels: [B, T], as `target.tokens` lets through.
    """
    return class_loss(logits, _next(labels))  # []


def chunked_next_token_loss(hidden_states: Tensor, head: nn.Module, labels: Tensor, size: int) -> Tensor:
    """Return what `next_token_loss` makes of head(hidden_states), without ever holding all logits.

    Args:
        hidden_states: [B, T, D]
        head: Turns hidden states into logits.
        labels: [B, T], as `target.tokens` lets through.
        size: Positions whose logits are made at once.
    """
    return chunked_loss(hidden_states, head, _next(labels), size)  # []


def chunked_loss(
    hidden_states: Tensor, head: nn.Module, targets: Tensor, size: int, reduction: str = "mean"
) -> Tensor:
    """Return the cross-entropy of head(hidden_states), holding the logits of `size` positions at a time.

    The gradients are computed together with the loss, and the backward pass only scales them; so nothing is
    computed twice, and there are no second derivatives. Where a compiler looks on, which cannot follow that,
    torch's own checkpoint makes the logits of each chunk again in the backward pass.

    Args:
        hidden_states: [..., D]
        head: Maps [R, D] to [R, V]: any module, whose hooks and adapters count.
        targets: The token that each position predicts, [...]; `IGNORED_LABEL` counts for nothing.
        size: Positions of a chunk, at least 1.
        reduction: "mean" over the positions that count (NaN where none does), or "sum".

    Raises:
        InputError: The call is being traced, which would freeze the number of chunks.
    """
    if torch.jit.is_tracing():
        raise InputError(
            "A loss in chunks cannot be traced: the number of chunks would be that of this one input. "
            "Trace the model without labels, or without chunks."
        )
    rows = hidden_states.flatten(0, -2)  # [B*T, D]
    targets = targets.flatten().to(rows.device, torch.long)  # [B*T]
    if torch.compiler.is_compiling():
        total = _recomputed_sum(rows, head, targets, size)  # []
    else:
        trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
        total = _ChunkedSum.apply(head, size, torch.is_grad_enabled(), targets, rows, *trained)  # []
    if reduction == "sum":
        return total
    count = (targets != IGNORED_LABEL).sum()  # []
    return torch.where(count > 0, total / count.clamp(min=1), math.nan)  # []; the gradient of nothing is 0


def _next(labels: Tensor) -> Tensor:
    """Return the label that each position predicts; the last position predicts nothing."""
    return F.pad(labels[..., 1:].long(), (0, 1), value=IGNORED_LABEL)  # [B, T]


def _log_softmax(logits: Tensor) -> Tensor:
    """Return log softmax in float32 at least: a sum over V numbers needs the digits."""
    return F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))  # [R, V]


def _sum(log_p: Tensor, targets: Tensor) -> Tensor:
    """Add up -log p of the targets that count."""
    return F.nll_loss(log_p, targets, ignore_index=IGNORED_LABEL, reduction="sum")  # []


def _recomputed_sum(rows: Tensor, head: nn.Module, targets: Tensor, size: int) -> Tensor:
    """Add up -log p of all targets; the backward pass makes the logits of each chunk again."""
    from torch.utils.checkpoint import checkpoint

    def part(chunk: Tensor, wanted: Tensor) -> Tensor:
        return _sum(_log_softmax(head(chunk)), wanted)  # []

    parts = [
        checkpoint(part, chunk, wanted, use_reentrant=False)
        for chunk, wanted in zip(rows.split(size), targets.split(size), strict=True)
    ]  # [] each
    return torch.stack(parts).sum()  # []


class _ChunkedSum(torch.autograd.Function):
    """Add up -log p of all targets, and have the gradients ready before anyone asks for them."""

    @staticmethod
    def forward(
        ctx: Any,
        head: nn.Module,
        size: int,
        grad_enabled: bool,
        targets: Tensor,
        rows: Tensor,
        *trained: Tensor,
    ) -> Tensor:
        """Go through the chunks; rows [B*T, D], targets [B*T], and the parameters of the head."""
        ctx.dtypes = [tensor.dtype for tensor in (rows, *trained)]
        with_rows = grad_enabled and rows.requires_grad
        drows = torch.empty_like(rows) if with_rows else None  # [B*T, D]
        dtrained: list[Tensor] = []
        total = rows.new_zeros((), dtype=torch.promote_types(rows.dtype, torch.float32))  # []
        for start in range(0, rows.size(0), size):
            chunk = rows[start : start + size].detach().requires_grad_(with_rows)  # [R, D]
            asked = ([chunk] if with_rows else []) + (list(trained) if grad_enabled else [])
            part, gradients = _chunk(head, chunk, targets[start : start + size], asked)
            total += part  # []
            if drows is not None:
                drows[start : start + size] = gradients.pop(0)  # [R, D]
            dtrained = (
                [known.add_(new) for known, new in zip(dtrained, gradients, strict=True)]
                if dtrained
                else [new.to(total.dtype) for new in gradients]
            )  # as the parameters
        ctx.save_for_backward(drows, *dtrained)
        return total  # []

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what is there by the gradient of the sum."""
        if torch.is_grad_enabled():  # create_graph=True, which would take the gradients for constants
            raise InputError("A loss in chunks has no second derivatives. Take them with loss_chunk_size=0.")
        ready = [
            None if tensor is None else (tensor * gradient).to(dtype)
            for tensor, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return None, None, None, None, *ready


def _chunk(
    head: nn.Module, chunk: Tensor, targets: Tensor, asked: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return the sum of -log p for one chunk, and its gradients for what is asked; the logits end here."""
    with torch.set_grad_enabled(bool(asked)):
        logits = head(chunk)  # [R, V]
    log_p = _log_softmax(logits.detach())  # [R, V]
    total = _sum(log_p, targets)  # []
    if not asked:
        return total, []
    dlogits = _dlogits(log_p, targets).to(logits.dtype)  # [R, V]
    return total, list(torch.autograd.grad(logits, asked, dlogits, materialize_grads=True))


def _dlogits(log_p: Tensor, targets: Tensor) -> Tensor:
    """Turn log p into the gradient of the sum of -log p[target], in its own memory: p - onehot(target)."""
    counted = (targets != IGNORED_LABEL)[:, None]  # [R, 1]
    minus_one = -torch.ones_like(counted, dtype=log_p.dtype)  # [R, 1]
    return log_p.exp_().scatter_add_(1, targets[:, None].clamp(min=0), minus_one).mul_(counted)  # [R, V]
