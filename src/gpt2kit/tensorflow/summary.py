"""One vector for a sequence: what the multiple-choice head reads.

Dimensions: C choices, T positions, D n_embd, N labels (docs/shapes.md); a star stands for any leading axes.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.tensorflow.activation import ACTIVATIONS
from gpt2kit.tensorflow.table import TFLinear, nan_outside, sizes

__all__ = ["TFSequenceSummary"]


class TFSequenceSummary(keras.layers.Layer):
    """Take one vector from the hidden states of a sequence, and map it by a small layer.

        vector = pick(hidden_states)        summary = dropout(activation(W dropout(vector) + b))

    Args:
        config: summary_type picks the "last" position, the "first", the "mean" of all, or the one that the
            caller names ("cls_index"). summary_use_proj switches the layer W on; its outputs are num_labels
            with summary_proj_to_labels, else n_embd. summary_activation is the name of an activation or None.
            summary_first_dropout and summary_last_dropout are the two rates; 4.34's configuration has no
            default for the second, which is 0.
        initializer_range: Deviation of a fresh weight.
        **kwargs: name, dtype and trainable, as of any Keras layer.

    Raises:
        ConfigError: summary_type="attn", which nobody has ever defined.

    Source:
        transformers v4.34.0, modeling_tf_utils.py, TFSequenceSummary.
    """

    def __init__(self, config: GPT2Config, initializer_range: float = 0.02, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if config.summary_type == "attn":
            raise ConfigError(
                "summary_type='attn' was never defined, in transformers neither. Choose 'cls_index', 'last', "
                "'first' or 'mean'."
            )
        kind, D = {"dtype": self.dtype_policy}, config.n_embd
        self.summary_type = config.summary_type
        self.out_features = D
        self.summary = None
        if config.summary_use_proj:
            if config.summary_proj_to_labels:
                self.out_features = config.num_labels
            self.summary = TFLinear(self.out_features, D, True, initializer_range, name="summary", **kind)
        self.activation = ACTIVATIONS[config.summary_activation or "linear"]
        last_rate = getattr(config, "summary_last_dropout", None) or 0.0
        self.first_dropout = keras.layers.Dropout(config.summary_first_dropout, name="first_dropout", **kind)
        self.last_dropout = keras.layers.Dropout(last_rate, name="last_dropout", **kind)

    def build(self, input_shape: Any = None) -> None:
        """Make the weights of the small layer."""
        if self.summary is not None:
            self.summary.build()

    def call(
        self, hidden_states: tf.Tensor, cls_index: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """Return the summary of each sequence.

        Args:
            hidden_states: [*, T, D]
            cls_index: For summary_type "cls_index", the position to read, [*]; None reads the last.
            training: Apply dropout.

        Returns:
            [*, N] or [*, D]
        """
        vector = self.first_dropout(self.pick(hidden_states, cls_index), training=training)  # [*, D]
        summary = vector if self.summary is None else self.summary(vector)  # [*, N or D]
        return self.last_dropout(self.activation(summary), training=training)  # [*, N or D]

    def pick(self, hidden_states: tf.Tensor, cls_index: tf.Tensor | None) -> tf.Tensor:
        """Return the vector of each sequence, [*, D], before any layer."""
        if self.summary_type == "first":
            return hidden_states[..., 0, :]  # [*, D]
        if self.summary_type == "mean":
            return tf.reduce_mean(hidden_states, axis=-2)  # [*, D]
        if self.summary_type == "last" or cls_index is None:
            return hidden_states[..., -1, :]  # [*, D]
        found = tf.gather(hidden_states, cls_index, axis=-2, batch_dims=cls_index.shape.rank)  # [*, D]
        return nan_outside(found, cls_index, sizes(hidden_states)[-2])  # [*, D]
