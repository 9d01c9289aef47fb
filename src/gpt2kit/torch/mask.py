"""What is added to attention scores to hide positions, and the dtype that scores are computed in.

Dimensions: B batch, T query positions, S key positions (docs/shapes.md).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gpt2kit.torch.tracing import unseen

__all__ = ["complete_bias", "hiding", "padding_bias", "score_dtype", "without_autocast"]


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype that autocast computes in on a device; None where it is off."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):  # meta has no autocast to ask for
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off for a block, where it is on."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


def score_dtype(states: Tensor, upcast: bool) -> torch.dtype:
    """Return the dtype in which attention scores of these hidden states are computed."""
    lower = None if states.dtype == torch.float64 else autocast_dtype(states.device)  # float64 is left alone
    dtype = lower or states.dtype
    return torch.promote_types(dtype, torch.float32) if upcast else dtype


def hiding(dtype: torch.dtype) -> float:
    """Return what is added to a score to hide it: half of the dtype's minimum.

    A score is lost beside this number, so a hidden position has weight 0, and where every position of a row
    is hidden the weights are those of 4.34, without NaN. Half, because a position hidden both as later and as
    padding gets it twice, and because fused kernels multiply it by log2(e): with the whole minimum both would
    overflow.
    """
    return torch.finfo(dtype).min / 2


def padding_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask of ones (to see) and zeros (not to see) into what is added to the scores."""
    return (1.0 - mask.to(dtype)) * hiding(dtype)


def complete_bias(
    bias: Tensor | None, T: int, S: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Hide the later positions as well, for the fused kernel, which can do only one of the two by itself.

    Args:
        bias: Padding, [B, 1, 1, S]; or complete already, [B, 1, T, S]; or None.
        T: Queries, which are the last T of S positions.
        S: Keys.
        dtype: Of the scores.
        device: Of the scores.

    Returns:
        [B, 1, T, S] or [1, 1, T, S]; or None where nothing is padded and the kernel's own causal mask will
        do.
    """
    traced = torch.jit.is_tracing()  # a trace of one query has to serve more
    with unseen():
        if (T == 1 and not traced) or (T == S if bias is None else 1 < T == bias.size(-2)):
            return bias
    later = torch.full((T, S), hiding(dtype), dtype=dtype, device=device).triu(S - T + 1)  # [T, S]
    return later[None, None] if bias is None else later + bias  # [1, 1, T, S] or [B, 1, T, S]
