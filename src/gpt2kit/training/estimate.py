"""About how much memory a run takes, said before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from gpt2kit.config import GPT2Config
from gpt2kit.training.config import TrainingConfig

__all__ = ["Memory", "memory"]

# Numbers of [T, D] kept per layer for the backward pass: the two layer norms' inputs and outputs (4), query,
# key, value and attention's output (4), the MLP before and after the activation (8 at M = 4D), the tanh in it
# (4), three dropout masks of a byte each (about 1), and the two sums of the residual stream (2).
_KEPT_PER_LAYER = 23
_FLOAT, _BFLOAT16 = 4, 2
# Numbers of [B, H, T, T] kept per layer, with dropout of attention weights and without. In JAX: what
# XLA's own count of a step comes to on a CPU, to a tenth; in TensorFlow 2.6 and 1.5 (peak of a process).
_ATTENTION_COPIES = {"torch": (2, 0), "flax": (4, 3), "tensorflow": (3, 2)}


@dataclass(frozen=True)
class Memory:
    """Bytes of a run, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def state(self) -> int:
        """What does not depend on the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.activations


def memory(config: TrainingConfig, model: GPT2Config, parameters: int, block_size: int) -> Memory:
    """Estimate the memory of a step. The libraries themselves (about 300 MB for PyTorch) come on top.

    AdamW keeps two averages per weight, all in float32. The activations, with w the bytes of a number, are

        23 B T L D w     what the blocks keep,
        3 R V 4          logits, a float32 copy, their log-softmax; R = loss_chunk_size positions,
        2 V D 4          gradients of the head: that of one chunk, and the sum,
        2 B L H T^2 w    attention weights, where their dropout needs them whole; JAX and TensorFlow hold
                         them in any case: 4 with their dropout and 3 without, and 3 and 2.
    """
    width = _BFLOAT16 if config.precision == "bf16" else _FLOAT
    tokens = config.batch_size * block_size
    kept = tokens * _KEPT_PER_LAYER * model.n_layer * model.n_embd * width
    at_once = min(config.loss_chunk_size or tokens, tokens)
    logits = (at_once * 3 + model.n_embd * 2) * model.vocab_size * _FLOAT
    dropout = config.dropouts().get("attn_pdrop", model.attn_pdrop) > 0
    with_dropout, without = _ATTENTION_COPIES[config.framework]
    copies = with_dropout if dropout else without
    weights_of_attention = copies * tokens * block_size * model.n_layer * model.n_head * width
    floats = parameters * _FLOAT
    return Memory(floats, floats, 2 * floats, kept + logits + weights_of_attention)
