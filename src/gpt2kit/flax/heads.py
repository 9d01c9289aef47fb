"""The heads of GPT-2: what is put on top of `FlaxGPT2Module` for a task.

Dimensions: B batch, T positions, D n_embd, V vocabulary (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.flax.generation.mixin import FlaxGenerationMixin
from gpt2kit.flax.model import FlaxGPT2Module
from gpt2kit.flax.outputs import FlaxCausalLMOutputWithCrossAttentions
from gpt2kit.flax.pretrained import FlaxGPT2PreTrainedModel

__all__ = ["FlaxGPT2LMHeadModel", "FlaxGPT2LMHeadModule"]


class FlaxGPT2LMHeadModule(nn.Module):
    """Predict the next token: a score for each of the vocabulary, by the token embeddings themselves.

        logits = h @ wte.T

    Attributes:
        config: Sizes and switches. With tie_word_embeddings=False the head has a kernel of its own, [D, V].
        dtype: Of the computation.
        gradient_checkpointing: As `FlaxGPT2BlockCollection`.
    """

    config: GPT2Config
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def setup(self) -> None:
        """Name the parts."""
        config = self.config
        self.transformer = FlaxGPT2Module(config, self.dtype, self.gradient_checkpointing)
        if not config.tie_word_embeddings:
            drawn = nn.initializers.normal(config.initializer_range)
            self.lm_head = nn.Dense(config.vocab_size, use_bias=False, dtype=self.dtype, kernel_init=drawn)

    def __call__(
        self,
        input_ids: Array | None,
        attention_mask: Array | None,
        position_ids: Array,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        deterministic: bool = True,
        init_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        token_type_ids: Array | None = None,
        head_mask: Sequence[Array | None] | None = None,
        inputs_embeds: Array | None = None,
        logits_to_keep: int = 0,
    ) -> tuple[Any, ...] | FlaxCausalLMOutputWithCrossAttentions:
        """Compute the scores of every next token, [B, T, V].

        The arguments are those of `FlaxGPT2Module`.

        Args:
            input_ids: See there, like all that is not listed here.
            attention_mask: See there.
            position_ids: See there.
            encoder_hidden_states: See there.
            encoder_attention_mask: See there.
            deterministic: See there.
            init_cache: See there.
            output_attentions: See there.
            output_hidden_states: See there.
            return_dict: See there.
            token_type_ids: See there.
            head_mask: See there.
            inputs_embeds: See there.
            logits_to_keep: Make logits for only the last so many positions; 0 makes all.
        """
        body: Any = self.transformer(
            input_ids, attention_mask, position_ids, encoder_hidden_states, encoder_attention_mask,
            deterministic, init_cache, output_attentions, output_hidden_states, True, token_type_ids,
            head_mask, inputs_embeds,
        )  # fmt: skip
        states = body.last_hidden_state[:, -logits_to_keep:]  # [B, T, D]; 0 keeps all
        tied = self.config.tie_word_embeddings
        logits = self.transformer.wte.attend(states) if tied else self.lm_head(states)  # [B, T, V]
        output = FlaxCausalLMOutputWithCrossAttentions(
            logits=logits,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
            cross_attentions=body.cross_attentions,
        )
        return output if return_dict else output.to_tuple()


class FlaxGPT2LMHeadModel(FlaxGenerationMixin, FlaxGPT2PreTrainedModel):
    """Predict the next token: a score for each of the vocabulary, by the token embeddings themselves.

    Source:
        transformers v4.34.0, models/gpt2/modeling_flax_gpt2.py, FlaxGPT2LMHeadModel.

    Example:
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> model = FlaxGPT2LMHeadModel(config)
        >>> model(jnp.array([[2, 3, 5, 7, 11]])).logits.shape
        (1, 5, 101)
    """

    module_class: ClassVar[Any] = FlaxGPT2LMHeadModule

    def prepare_inputs_for_generation(
        self, input_ids: Array, max_length: int, attention_mask: Array | None = None
    ) -> dict[str, Any]:
        """Return the arguments of the first call of a generation: a cache, a mask of its length, positions.

        Args:
            input_ids: The prompt, [B, T].
            max_length: Places of the cache: the prompt and what is to be written.
            attention_mask: 1 to see and 0 for padding, [B, T].

        Raises:
            InputError: The prompt does not fit into the cache, or the mask not the prompt.
        """
        B, T = input_ids.shape
        if max_length < T:
            raise InputError(
                f"The prompt has {T} tokens, and a cache of max_length={max_length} is too short."
            )
        if attention_mask is not None and attention_mask.shape != (B, T):
            raise InputError(
                f"attention_mask should have the shape [{B}, {T}], but it is {list(attention_mask.shape)}."
            )
        mask = jnp.ones((B, max_length), jnp.int32)  # [B, max_length]
        if attention_mask is None:
            position_ids = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))  # [B, T]
        else:
            attention_mask = jnp.asarray(attention_mask, jnp.int32)  # [B, T]
            position_ids = jnp.maximum(attention_mask.cumsum(axis=-1) - 1, 0)  # [B, T]
            mask = lax.dynamic_update_slice(mask, attention_mask, (0, 0))  # [B, max_length]
        return {
            "past_key_values": self.init_cache(B, max_length),
            "attention_mask": mask,
            "position_ids": position_ids,
        }

    def update_inputs_for_generation(
        self, model_outputs: Any, model_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of the next call: the new cache, and the position after the last."""
        model_kwargs["past_key_values"] = model_outputs.past_key_values
        model_kwargs["position_ids"] = model_kwargs["position_ids"][:, -1:] + 1  # [B, 1]
        return model_kwargs
