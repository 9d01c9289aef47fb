"""What a served graph says of inputs that it cannot compute: where it runs, nothing of this package is there.

A wrong name or dtype is refused by TensorFlow itself before the graph runs.
Dimensions: B batch, T positions (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from gpt2kit.config import GPT2Config

__all__ = ["checked"]


def checked(
    inputs: Mapping[str, tf.Tensor], signature: Mapping[str, tf.TensorSpec], config: GPT2Config
) -> dict[str, tf.Tensor]:
    """Return the inputs of a graph, which is ended by an InvalidArgumentError where they do not fit.

    Args:
        inputs: Names to tensors.
        signature: Their ranks.
        config: How many tokens and positions there are.
    """
    ranked = {
        name: tf.ensure_shape(value, signature[name].shape, name=f"the_shape_of_{name}")
        for name, value in inputs.items()
    }  # as the inputs; TensorFlow itself does not look at their ranks
    ids, V, P = ranked["input_ids"], config.vocab_size, config.n_positions
    shape, checks = tf.shape(ids), []  # [rank]
    for name in ("attention_mask", "token_type_ids"):
        if name in ranked:
            said = f"{name} should have the shape of input_ids. The two shapes:"
            checks.append(_check(_equal(tf.shape(ranked[name]), shape), said, tf.shape(ranked[name]), shape))
    tokens = tf.math.count_nonzero(ranked["attention_mask"], axis=-1)  # [B]
    said = f"A text has more tokens than the {P} positions of the model (n_positions). The tokens of each:"
    checks.append(_check(tf.reduce_all(tokens <= P), said, tokens))
    checks.append(_check(shape[-1] > 0, "input_ids hold no token. Their shape:", shape))
    for name in ("input_ids", "token_type_ids"):
        if name in ranked:
            outside = tf.boolean_mask(ranked[name], (ranked[name] < 0) | (ranked[name] >= V))  # [n]
            said = f"{name} should be from 0 to {V - 1} (vocab_size={V}). Those that are not:"
            checks.append(_check(tf.equal(tf.size(outside), 0), said, outside))
    with tf.control_dependencies(checks):
        return {name: tf.identity(value) for name, value in ranked.items()}  # as the inputs


def _equal(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Tell whether two shapes of the same rank are equal, []."""
    return tf.reduce_all(tf.equal(one, other))


def _check(holds: tf.Tensor, said: str, *values: Any) -> tf.Operation:
    """Return the operation that ends the graph with a sentence and some values."""
    return tf.debugging.Assert(holds, [said, *values], summarize=8)
