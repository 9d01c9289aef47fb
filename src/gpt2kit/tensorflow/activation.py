"""The nonlinearities of the MLP, by the names that `activation_function` may have."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

__all__ = ["ACTIVATIONS"]


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Weigh x by the normal distribution's mass below it: x * Phi(x)."""
    return 0.5 * x * (1.0 + tf.math.erf(x / math.sqrt(2.0)))


def gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    """Approximate gelu as OpenAI's GPT-2 does: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return 0.5 * x * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_10(x: tf.Tensor) -> tf.Tensor:
    """Clip gelu to [-10, 10]."""
    return tf.clip_by_value(gelu(x), -10.0, 10.0)


def laplace(x: tf.Tensor) -> tf.Tensor:
    """Return the Laplace distribution's mass below x, with the mean and deviation of the Mega paper."""
    mean, deviation = 0.707107, 0.282095  # 4.34's six digits of sqrt(1/2) and sqrt(1/(4 pi))
    return 0.5 * (1.0 + tf.math.erf((x - mean) / (deviation * math.sqrt(2.0))))


def mish(x: tf.Tensor) -> tf.Tensor:
    """Return x * tanh(log(1 + e^x))."""
    return x * tf.tanh(tf.math.softplus(x))


def quick_gelu(x: tf.Tensor) -> tf.Tensor:
    """Approximate gelu by a sigmoid: x * sigmoid(1.702 x)."""
    return x * tf.sigmoid(1.702 * x)


def relu_squared(x: tf.Tensor) -> tf.Tensor:
    """Square the positive part of x."""
    return tf.square(tf.nn.relu(x))


ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": gelu,
    "gelu_10": gelu_10,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_python": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "laplace": laplace,
    "linear": tf.identity,
    "mish": mish,
    "quick_gelu": quick_gelu,
    "relu": tf.nn.relu,
    "relu2": relu_squared,
    "relu6": tf.nn.relu6,
    "sigmoid": tf.sigmoid,
    "silu": tf.nn.silu,
    "swish": tf.nn.silu,
    "tanh": tf.tanh,
}
