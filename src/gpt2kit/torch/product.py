"""The one matrix product that GPT-2 is made of, and which kernel computes it.

Nearly all of the time of a GPT-2 goes into x W: four products in a block, one in the language model head.
PyTorch computes a float32 product on a CPU by MKL, which reads the weights slowly when x has few rows and
takes an older path on AMD processors. The same PyTorch carries oneDNN, which does neither. Measured on two
cores of an AMD Zen 5 (PyTorch 2.13, weights rotated so that the cache does not help):

    ================================  ===========  ===========
    product                           addmm (MKL)  oneDNN
    ================================  ===========  ===========
    [1, 768] x [768, 2304]            23 GB/s      32 GB/s
    [8, 3072] x [3072, 768]           12 GB/s      29 GB/s
    [1, 768] x [768, 50257], tied     16 GB/s      35 GB/s
    [1023, 768] x [768, 3072]         190 GFLOP/s  400 GFLOP/s
    the same with its gradients       182 GFLOP/s  339 GFLOP/s
    ================================  ===========  ===========

oneDNN takes the transposed view of a weight as it lies in memory: nothing is packed, and no second copy of a
weight is kept. `torch.backends.mkldnn.enabled = False` switches back to MKL.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["project"]

# The operator that torch.compile itself emits for a Linear on a CPU; present where PyTorch was built with
# oneDNN. Other processors than x86 are left alone, because nobody has measured them.
_onednn_linear: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available() and platform.machine() in {"x86_64", "AMD64"}
    else None
)
_PLAIN_TENSORS = frozenset({Tensor, nn.Parameter})
# Multiplications below which PyTorch's own product is faster: a call of oneDNN takes 15 microseconds or more,
# and so small a weight lies in the processor's cache. Measured: equal at [1, 384] x [384, 1536].
SMALLEST = 2**19


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x W + b, the affine map of GPT-2's Conv1D and of its tied head.

    Args:
        x: Rows of any leading shape.
        weight: The weight as Conv1D stores it; a head stored the other way round passes its transposed view.
        bias: Added to every row.

    Shapes:
        x [..., in], weight [in, out], bias [out] -> [..., out]

    Example:
        >>> project(torch.ones(2, 3), torch.ones(3, 5)).shape
        torch.Size([2, 5])
    """
    if _onednn_serves(x, weight):
        if torch.is_grad_enabled():
            return _OneDnnProduct.apply(x, weight, bias)  # [..., out]
        return _onednn(x, weight, bias)  # [..., out]
    if bias is None:
        return x @ weight  # [..., out]
    rows = x.reshape(-1, x.shape[-1])  # [rows, in]
    return torch.addmm(bias, rows, weight).view(*x.shape[:-1], weight.shape[1])  # [..., out]


def _onednn_serves(x: Tensor, weight: Tensor) -> bool:
    """Tell whether oneDNN takes the place of PyTorch's own product: plain float32 tensors in an eager run.

    Whatever looks at or rewrites the operators of a run (a compiler, a tracer, autocast, torch.func,
    forward-mode gradients, a dispatch mode) has to see the public ones.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or _onednn_linear is None
        or type(x) not in _PLAIN_TENSORS
        or type(weight) not in _PLAIN_TENSORS
        or x.dtype is not torch.float32
        or weight.dtype is not torch.float32
        or not x.is_cpu
        or not weight.is_cpu
        or x.shape[-1] != weight.shape[0]
        or x.numel() * weight.shape[1] < SMALLEST
        or not torch.backends.mkldnn.enabled
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Call oneDNN, which wants the weight as [out, in] in any strides; no gradient is recorded."""
    return _onednn_linear(x, weight.t(), bias, "none", [], "")  # [..., out]


class _OneDnnProduct(torch.autograd.Function):
    """The same product with gradients, which are products themselves.

    dx = dy W^T, dW = x^T dy and db = the sum of dy over the rows; they are written with `project`, so that
    second derivatives follow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the product and keep what the gradients need."""
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)  # [..., out]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Compute only the gradients that somebody asked for."""
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        (dy,) = gradients  # [..., out]
        dy_rows = dy.reshape(-1, dy.shape[-1])  # [rows, out]
        dx = project(dy, weight.t()) if need_x else None  # [..., in]
        x_rows = x.reshape(-1, x.shape[-1])  # [rows, in]
        dweight = project(x_rows.t(), dy_rows) if need_weight else None  # [in, out]
        dbias = dy_rows.sum(0) if need_bias else None  # [out]
        return dx, dweight, dbias
