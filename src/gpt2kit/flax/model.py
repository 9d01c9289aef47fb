"""GPT-2 without a head: embeddings, blocks, a last layer norm.

Dimensions: B batch, T query positions, S key positions (past and present), P n_positions, D n_embd, H heads,
L layers, E encoder positions (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from gpt2kit.config import GPT2Config
from gpt2kit.flax.layers import FlaxEmbedding, FlaxGPT2Block, layer_norm
from gpt2kit.flax.outputs import FlaxBaseModelOutputWithPastAndCrossAttentions
from gpt2kit.flax.pretrained import FlaxGPT2PreTrainedModel

__all__ = ["FlaxGPT2BlockCollection", "FlaxGPT2Model", "FlaxGPT2Module"]

Several = tuple[Array, ...] | None


class FlaxGPT2BlockCollection(nn.Module):
    """Run the blocks one after the other.

    Attributes:
        config: Sizes and switches.
        dtype: Of the computation.
        gradient_checkpointing: Keep nothing of a block and run it again in the backward pass.
    """

    config: GPT2Config
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    @nn.compact
    def __call__(
        self,
        hidden_states: Array,
        attention_mask: Array | None = None,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        deterministic: bool = True,
        init_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        head_mask: Sequence[Array | None] | None = None,
    ) -> tuple[Array, Several, Several, Several]:
        """Return the last states [B, T, D], all states, the weights and the cross weights; None if not asked.

        The arguments are those of `FlaxGPT2Module`, but for head_mask: one for each layer, broadcast to
        [B, H, T, S]. `return_dict` changes nothing here; 4.34 hands it down.
        """
        kind = FlaxGPT2Block
        if self.gradient_checkpointing:  # 5 to 7: deterministic, init_cache, output_attentions; 0 is self
            kind = nn.remat(FlaxGPT2Block, static_argnums=(5, 6, 7))
        head_masks = [None] * self.config.n_layer if head_mask is None else head_mask
        all_states: list[Array] = []
        attentions: list[Array] = []
        cross_attentions: list[Array] = []
        for layer, layer_mask in enumerate(head_masks):
            if output_hidden_states:
                all_states.append(hidden_states)
            block = kind(self.config, self.dtype, layer, name=str(layer))
            hidden_states, *weights = block(
                hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, deterministic,
                init_cache, output_attentions, layer_mask,
            )  # fmt: skip
            attentions += weights[:1]
            cross_attentions += weights[1:]
        return (
            hidden_states,
            tuple(all_states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
            tuple(cross_attentions) if cross_attentions else None,
        )


class FlaxGPT2Module(nn.Module):
    """Turn token ids into hidden states: the body of every GPT-2, as a Linen module.

        h_0 = wte[input_ids] + wpe[position_ids]        h_(l+1) = block_l(h_l)        output = ln_f(h_L)

    Attributes:
        config: Sizes and switches.
        dtype: Of the computation.
        gradient_checkpointing: As `FlaxGPT2BlockCollection`.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3;
        transformers v4.34.0, models/gpt2/modeling_flax_gpt2.py, FlaxGPT2Module.
    """

    config: GPT2Config
    dtype: Any = jnp.float32
    gradient_checkpointing: bool = False

    def setup(self) -> None:
        """Name the parts."""
        config = self.config
        deviation = config.initializer_range
        self.wte = FlaxEmbedding(config.vocab_size, config.n_embd, self.dtype, deviation)
        self.wpe = FlaxEmbedding(config.n_positions, config.n_embd, self.dtype, deviation)
        self.dropout = nn.Dropout(config.embd_pdrop)
        self.h = FlaxGPT2BlockCollection(config, self.dtype, self.gradient_checkpointing)
        self.ln_f = layer_norm(config, self.dtype)

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
    ) -> tuple[Any, ...] | FlaxBaseModelOutputWithPastAndCrossAttentions:
        """Compute the hidden states of T positions that follow those of the cache.

        The arguments have to be of the shapes that `FlaxGPT2PreTrainedModel.__call__` makes of its own;
        nothing is refused here.

        Args:
            input_ids: [B, T]; or None with inputs_embeds.
            attention_mask: [B, S] or [B, T, S]; with a cache S may be all its places.
            position_ids: [B or 1, T]
            encoder_hidden_states: [B, E, D]
            encoder_attention_mask: [B, E] or [B, T, E]
            deterministic: Without dropout.
            init_cache: Make a cache as long as the input, with nothing in it.
            output_attentions: Return the attention weights.
            output_hidden_states: Return the hidden states between the blocks.
            return_dict: Return an object rather than a tuple.
            token_type_ids: [B or 1, T]
            head_mask: One for each layer, broadcast to [B, H, T, S].
            inputs_embeds: In place of input_ids, [B, T, D].
        """
        embeds = self.wte(input_ids) if inputs_embeds is None else jnp.asarray(inputs_embeds, self.dtype)
        hidden_states = embeds + self.wpe(position_ids)  # [B, T, D]
        if token_type_ids is not None:
            hidden_states = hidden_states + self.wte(token_type_ids)  # [B, T, D]
        hidden_states = self.dropout(hidden_states, deterministic=deterministic)  # [B, T, D]
        hidden_states, all_states, attentions, cross_attentions = self.h(
            hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, deterministic,
            init_cache, output_attentions, output_hidden_states, return_dict, head_mask,
        )  # fmt: skip
        hidden_states = self.ln_f(hidden_states)  # [B, T, D]
        output = FlaxBaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            hidden_states=None if all_states is None else (*all_states, hidden_states),
            attentions=attentions,
            cross_attentions=cross_attentions,
        )
        return output if return_dict else output.to_tuple()


class FlaxGPT2Model(FlaxGPT2PreTrainedModel):
    """Turn token ids into hidden states: the body of every GPT-2.

    Source:
        transformers v4.34.0, models/gpt2/modeling_flax_gpt2.py, FlaxGPT2Model.

    Example:
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> model = FlaxGPT2Model(config)
        >>> model(jnp.array([[2, 3, 5, 7, 11]])).last_hidden_state.shape
        (1, 5, 33)
    """

    module_class: ClassVar[Any] = FlaxGPT2Module
