"""Layers whose weight is a table of rows: embeddings, and linear maps that score every row.

Dimensions: B batch, T positions, D n_embd, V vocabulary, N labels (docs/shapes.md).
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from gpt2kit.tensorflow.fresh import normal

__all__ = ["TFEmbedding", "TFLinear", "nan_outside", "normal", "replace_variables", "sizes"]


def sizes(tensor: tf.Tensor) -> list[Any]:
    """Return the sizes of a tensor: numbers where they are known, else scalars of the graph."""
    static = tensor.shape.as_list()
    if None not in static:
        return static
    dynamic = tf.shape(tensor)  # [rank]
    return [dynamic[axis] if size is None else size for axis, size in enumerate(static)]


class TFEmbedding(keras.layers.Layer):
    """Look vectors up in a table, `weight`; the other way round, score every vector of it.

    Args:
        count: Rows of the table.
        width: Width of a vector.
        initializer_range: Deviation of a fresh table.
        **kwargs: name, dtype and trainable, as of any Keras layer.

    Shapes:
        ids: [...]; returns [..., D]
    """

    def __init__(self, count: int, width: int, initializer_range: float = 0.02, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count, self.width, self.initializer_range = count, width, initializer_range

    def build(self, input_shape: Any = None) -> None:
        """Make the table."""
        drawn = normal(self.initializer_range)
        shape = (self.count, self.width)
        self.weight = self.add_weight(name="weight", shape=shape, initializer=drawn)  # [V, D]

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the vectors of ids, and NaN for an id outside the table."""
        found = tf.gather(tf.convert_to_tensor(self.weight), ids)  # [..., D]
        return nan_outside(tf.cast(found, self.compute_dtype), ids, self.count)  # [..., D]

    @property
    def embeddings(self) -> Any:
        """The table under the name that Keras' own Embedding has for it, [V, D]."""
        return self.weight

    def replace_weight(self, table: tf.Tensor) -> None:
        """Put a table of another number of rows in the place of the old one."""
        _replace(self, table)
        self.count = table.shape[0]

    def attend(self, query: tf.Tensor) -> tf.Tensor:
        """Return a score for each row of the table: [..., D] to [..., V]."""
        return scores_of_rows(query, self.weight, self.compute_dtype)  # [..., V]


class TFLinear(keras.layers.Layer):
    """Map the last axis by a weight [out, in], with a bias or without one.

    Args:
        features: Width of the output.
        width: Width of the input.
        use_bias: Add a bias.
        initializer_range: Deviation of a fresh weight.
        **kwargs: name, dtype and trainable, as of any Keras layer.

    Shapes:
        x: [..., D]; returns [..., N]
    """

    def __init__(
        self,
        features: int,
        width: int,
        use_bias: bool = False,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features, self.width, self.use_bias = features, width, use_bias
        self.initializer_range = initializer_range

    def build(self, input_shape: Any = None) -> None:
        """Make the weights."""
        drawn = normal(self.initializer_range)
        shape = (self.features, self.width)
        self.weight = self.add_weight(name="weight", shape=shape, initializer=drawn)  # [N, D]
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.features,), initializer="zeros")  # [N]

    def replace_weight(self, table: tf.Tensor) -> None:
        """Put a weight of another number of rows in the place of the old one."""
        _replace(self, table)
        self.features = table.shape[0]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Return x @ weight.T, and the bias added to it."""
        scores = scores_of_rows(x, self.weight, self.compute_dtype)  # [..., N]
        return scores + tf.convert_to_tensor(self.bias) if self.use_bias else scores  # [..., N]


def _replace(layer: Any, table: tf.Tensor) -> None:
    """Give a layer another table as its weight."""
    replace_variables(layer, weight=table)


def replace_variables(layer: Any, **values: tf.Tensor) -> None:
    """Give a layer other variables under the names of old ones.

    Keras locks a layer when it is built, and has no public way to open it again or to take a variable out.
    """
    for name in values:
        layer._untrack_variable(getattr(layer, name))
    layer._tracker.unlock()
    for name, value in values.items():
        made = layer.add_weight(name=name, shape=value.shape, initializer=_is(value))  # as value
        setattr(layer, name, made)
    layer._tracker.lock()


def _is(value: tf.Tensor) -> Any:
    """Return an initializer that gives this very value."""
    return lambda shape, dtype: tf.cast(value, dtype)


def nan_outside(found: tf.Tensor, ids: tf.Tensor, count: Any) -> tf.Tensor:
    """Return what was looked up, and NaN in its place where an id is none of 0 to count - 1.

    The gather of XLA takes the nearest row there, that of a GPU zeros, without a word; that of the CPU fails.

    Args:
        found: Vectors, [..., D].
        ids: By which they were found, [...].
        count: Rows of the table.
    """
    outside = tf.logical_or(ids < 0, ids >= tf.cast(count, ids.dtype))  # [...]
    return tf.where(outside[..., None], tf.constant(math.nan, found.dtype), found)  # [..., D]


def scores_of_rows(query: tf.Tensor, rows: Any, dtype: str) -> tf.Tensor:
    """Multiply vectors with every row of a table: [..., D] and [V, D] to [..., V]."""
    *leading, width = sizes(query)
    flat = tf.cast(tf.reshape(query, [-1, width]), dtype)  # [B*T, D]
    scores = tf.matmul(flat, tf.cast(rows, dtype), transpose_b=True)  # [B*T, V]
    return tf.reshape(scores, [*leading, rows.shape[0]])  # [..., V]
