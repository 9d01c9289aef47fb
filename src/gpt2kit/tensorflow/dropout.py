"""Dropout whose mask may be decided beforehand, so that what is computed twice has the same mask twice."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

__all__ = ["TFDropout", "decided"]

# Seeds that are decided, by the identity of the layer that they are for.
_DECIDED: ContextVar[Mapping[int, tf.Tensor] | None] = ContextVar("decided", default=None)


class TFDropout(keras.layers.Dropout):
    """Set numbers to zero at random while training, and scale the rest so that their sum stays.

    Args:
        rate: Which part is set to zero.
        seed: Decides the masks. By default drawn from Python's random numbers, as Keras does, but at any
            rate, so that what else is drawn from them does not depend on it.
        **kwargs: name and dtype, as of Keras' own.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(rate, seed=random.randint(1, 10**9) if seed is None else seed, **kwargs)

    def call(self, inputs: tf.Tensor, training: bool | None = False) -> tf.Tensor:
        """Return the numbers that stay, and zeros."""
        if not training or self.rate == 0:
            return inputs
        seed = (_DECIDED.get() or {}).get(id(self))  # [2]
        drawn = self.seed_generator if seed is None else _Seed(seed)
        return keras.random.dropout(inputs, self.rate, seed=drawn)  # as inputs


class _Seed(keras.random.SeedGenerator):
    """A seed that is drawn already, in the form that Keras asks for."""

    def __init__(self, drawn: tf.Tensor) -> None:
        self.drawn = drawn  # [2]

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Return it."""
        return self.drawn  # [2]


@contextmanager
def decided(layers: Sequence[TFDropout], seeds: Sequence[tf.Tensor]) -> Iterator[None]:
    """Give layers the seeds of their masks for as long as the block lasts, in this thread.

    Args:
        layers: For which it is decided.
        seeds: What the generator of each returned, [2].
    """
    token = _DECIDED.set({id(layer): seed for layer, seed in zip(layers, seeds, strict=True)})
    try:
        yield
    finally:
        _DECIDED.reset(token)
