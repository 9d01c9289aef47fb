"""How weights begin: drawn as GPT-2 draws them, or left unfilled where a file is about to fill them."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf

__all__ = ["draw_missing", "loading", "normal"]

_loading: ContextVar[bool] = ContextVar("gpt2kit_tensorflow_loading", default=False)


def normal(deviation: float) -> Any:
    """Return what fresh weights are drawn by; while a model is being loaded, what draws nothing.

    Random numbers that are overwritten at once would take longer than the loading, and memory that nobody
    has touched is not there yet.
    """
    return _unfilled if _loading.get() else keras.initializers.RandomNormal(stddev=deviation)


def _unfilled(shape: Any, dtype: Any = None) -> tf.Tensor:
    """Return memory as it is."""
    return tf.raw_ops.Empty(shape=shape, dtype=tf.as_dtype(dtype), init=False)


@contextmanager
def loading() -> Iterator[None]:
    """Build models without drawing their weights, inside the block and in this thread.

    What is not filled afterwards has to be drawn by `draw_missing`.
    """
    token = _loading.set(True)
    try:
        yield
    finally:
        _loading.reset(token)


def draw_missing(model: Any, filled: Container[int]) -> None:
    """Draw those weights of GPT-2's own layers that no file has filled; other layers drew theirs.

    Args:
        model: A model that was built while loading.
        filled: id() of each variable that was filled.
    """
    for layer in model._flatten_layers():
        weight = getattr(layer, "weight", None)
        if hasattr(layer, "initializer_range") and weight is not None and id(weight) not in filled:
            weight.assign(normal(layer.initializer_range)(weight.shape, weight.dtype))  # as the weight
