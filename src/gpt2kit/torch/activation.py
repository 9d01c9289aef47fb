"""The nonlinearities of the MLP, by the names that `activation_function` may have."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "Activation"]

# torch rounds once where 4.34's formulas round at every step; the difference is the last bit or two.


def gelu(x: Tensor) -> Tensor:
    """Weigh x by the normal distribution's mass below it: x * Phi(x)."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """Approximate gelu as OpenAI's GPT-2 does: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return F.gelu(x, approximate="tanh")


def gelu_10(x: Tensor) -> Tensor:
    """Clip gelu to [-10, 10]."""
    return F.gelu(x).clamp(-10.0, 10.0)


def laplace(x: Tensor) -> Tensor:
    """Return the Laplace distribution's mass below x, with the mean and deviation of the Mega paper."""
    mean, deviation = 0.707107, 0.282095  # 4.34's six digits of sqrt(1/2) and sqrt(1/(4 pi))
    return 0.5 * (1.0 + torch.erf((x - mean) / (deviation * math.sqrt(2.0))))


def linear(x: Tensor) -> Tensor:
    """Return x itself."""
    return x


def quick_gelu(x: Tensor) -> Tensor:
    """Approximate gelu by a sigmoid: x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def relu_squared(x: Tensor) -> Tensor:
    """Square the positive part of x."""
    return torch.square(torch.relu(x))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_10": gelu_10,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "laplace": laplace,
    "linear": linear,
    "mish": F.mish,
    "quick_gelu": quick_gelu,
    "relu": torch.relu,
    "relu2": relu_squared,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class Activation(nn.Module):
    """Apply one of `ACTIVATIONS` to every element; a module, so that hooks find it at `mlp.act`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.function = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of each element of x; the shape stays."""
        return self.function(x)

    def extra_repr(self) -> str:
        """Show the name in the printed model."""
        return self.name
