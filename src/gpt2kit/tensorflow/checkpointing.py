"""Gradient checkpointing: keep nothing of a block while training, and compute it again for its gradient.

Dimensions: B batch, T positions, D n_embd (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from gpt2kit.tensorflow.dropout import TFDropout, decided

__all__ = ["CheckpointingMixin", "recomputed"]


class CheckpointingMixin:
    """What a model offers: switch it on and off."""

    supports_gradient_checkpointing = True

    def gradient_checkpointing_enable(self: Any) -> None:
        """Keep no activations of the blocks in training: less memory, and each block is computed twice."""
        self.transformer.gradient_checkpointing = True
        self._forget_programs()

    def gradient_checkpointing_disable(self: Any) -> None:
        """Keep the activations of the blocks in training, which is faster."""
        self.transformer.gradient_checkpointing = False
        self._forget_programs()

    @property
    def is_gradient_checkpointing(self: Any) -> bool:
        """Whether `gradient_checkpointing_enable` is in force."""
        return bool(self.transformer.gradient_checkpointing)


def recomputed(block: Any) -> Callable[..., tuple[Any, ...]]:
    """Return what computes as a `TFBlock` that trains, and keeps nothing but what it was given.

    The masks of dropout are decided before, and are the same both times. Gradients reach every tensor of
    floating-point numbers among the arguments.

    Source:
        Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """

    def call(x: tf.Tensor, **given: Any) -> tuple[Any, ...]:
        dropouts = [dropout for dropout in _dropouts(block) if dropout.rate > 0]
        seeds = [dropout.seed_generator.next() for dropout in dropouts]  # [2] each
        leaves = tf.nest.flatten((x, given))
        places = [at for at, leaf in enumerate(leaves) if tf.is_tensor(leaf) and leaf.dtype.is_floating]
        structure: list[Any] = []

        def run(*tensors: tf.Tensor) -> list[tf.Tensor]:
            whole = list(leaves)
            for at, tensor in zip(places, tensors, strict=True):
                whole[at] = tensor
            states, others = tf.nest.pack_sequence_as((x, given), whole)  # [B, T, D]
            with decided(dropouts, seeds):
                output = block(states, **others)
            structure[:] = [output]
            return [leaf for leaf in tf.nest.flatten(output) if leaf is not None]

        found = iter(tf.recompute_grad(run)(*(leaves[at] for at in places)))
        output = structure[0]
        parts = [None if leaf is None else next(found) for leaf in tf.nest.flatten(output)]
        return tuple(tf.nest.pack_sequence_as(output, parts))

    return call


def _dropouts(block: Any) -> list[TFDropout]:
    """List the dropouts of a block."""
    attentions = [block.attn, *([block.crossattention] if block.has_cross_attention else [])]
    pairs = [(attention.attn_dropout, attention.resid_dropout) for attention in attentions]
    return [*(dropout for pair in pairs for dropout in pair), block.mlp.dropout]
