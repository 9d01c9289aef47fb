"""What the Flax models return, field by field as in transformers 4.34; trees that jax can map over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import jax
from jax import Array

from gpt2kit.flax.cache import Cache
from gpt2kit.outputs import ModelOutput

__all__ = [
    "FlaxBaseModelOutputWithPastAndCrossAttentions",
    "FlaxCausalLMOutputWithCrossAttentions",
    "register",
]


@dataclass
class FlaxModelOutput(ModelOutput):
    """Base of what the Flax models return."""

    def replace(self, **updates: Any) -> Self:
        """Return a copy with some fields changed."""
        output = type(self)()
        for name, value in (dict(self) | updates).items():
            output[name] = value
        return output


@dataclass
class FlaxBaseModelOutputWithPastAndCrossAttentions(FlaxModelOutput):
    """What `FlaxGPT2Model` returns.

    Attributes:
        last_hidden_state: After the last layer norm, [B, T, D].
        past_key_values: The cache with these positions in it, if one was given.
        hidden_states: L + 1 of [B, T, D] if output_hidden_states: after the embeddings, then after each
            block, the last one after the last layer norm.
        attentions: L of [B, H, T, S] if output_attentions.
        cross_attentions: L of [B, H, T, E] if output_attentions and the encoder's states were given.
    """

    last_hidden_state: Array | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None


@dataclass
class FlaxCausalLMOutputWithCrossAttentions(FlaxModelOutput):
    """What `FlaxGPT2LMHeadModel` returns.

    Attributes:
        logits: Scores of every token of the vocabulary, [B, T, V].
        past_key_values: As `FlaxGPT2Model`.
        hidden_states: As `FlaxGPT2Model`.
        attentions: As `FlaxGPT2Model`.
        cross_attentions: As `FlaxGPT2Model`.
    """

    logits: Array | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None


def register(output_class: type[ModelOutput]) -> None:
    """Make a class of outputs known to jax's trees, so that jit, grad and vmap may return it."""

    def flatten_with_keys(output: ModelOutput) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        return [(jax.tree_util.GetAttrKey(name), value) for name, value in output.items()], tuple(output)

    def flatten(output: ModelOutput) -> tuple[list[Any], tuple[str, ...]]:
        return list(output.values()), tuple(output)

    def unflatten(names: tuple[str, ...], values: Any) -> ModelOutput:
        output = output_class()
        for name, value in zip(names, values, strict=True):
            output[name] = value  # one by one: the constructor reads a first mapping as all fields
        return output

    jax.tree_util.register_pytree_with_keys(output_class, flatten_with_keys, unflatten, flatten)


for _output_class in (FlaxBaseModelOutputWithPastAndCrossAttentions, FlaxCausalLMOutputWithCrossAttentions):
    register(_output_class)
