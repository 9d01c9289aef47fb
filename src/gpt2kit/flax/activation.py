"""The nonlinearities of the MLP, by the names that `activation_function` may have."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["ACTIVATIONS"]


def gelu(x: Array) -> Array:
    """Weigh x by the normal distribution's mass below it: x * Phi(x)."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Array) -> Array:
    """Approximate gelu as OpenAI's GPT-2 does: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return jax.nn.gelu(x, approximate=True)


def gelu_10(x: Array) -> Array:
    """Clip gelu to [-10, 10]."""
    return jnp.clip(gelu(x), -10.0, 10.0)


def laplace(x: Array) -> Array:
    """Return the Laplace distribution's mass below x, with the mean and deviation of the Mega paper."""
    mean, deviation = 0.707107, 0.282095  # 4.34's six digits of sqrt(1/2) and sqrt(1/(4 pi))
    return 0.5 * (1.0 + jax.lax.erf((x - mean) / (deviation * math.sqrt(2.0))))


def linear(x: Array) -> Array:
    """Return x itself."""
    return x


def quick_gelu(x: Array) -> Array:
    """Approximate gelu by a sigmoid: x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def relu_squared(x: Array) -> Array:
    """Square the positive part of x."""
    return jnp.square(jax.nn.relu(x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_10": gelu_10,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "laplace": laplace,
    "linear": linear,
    "mish": jax.nn.mish,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "relu2": relu_squared,
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
