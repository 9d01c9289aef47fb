"""GPT-2 without a head: embeddings, blocks, a last layer norm.

Dimensions: B batch, T query positions, S key positions (past and present), P n_positions, D n_embd, H heads,
K width of a head, L layers, E encoder positions (docs/shapes.md).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError, LengthError
from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.fresh import unfilled_while_loading
from gpt2kit.torch.layers import GPT2Block, causal_bias, padding_bias, score_dtype, uses_sdpa
from gpt2kit.torch.outputs import BaseModelOutputWithPastAndCrossAttentions
from gpt2kit.torch.pretrained import GPT2PreTrainedModel

__all__ = ["GPT2Model", "embed"]

_logger = logging.getLogger(__name__)


class GPT2Model(GPT2PreTrainedModel):
    """Turn token ids into hidden states: the body of every GPT-2.

        h_0 = wte[input_ids] + wpe[position_ids]        h_(l+1) = block_l(h_l)        output = ln_f(h_L)

    Args:
        config: Sizes and switches. The weights are random until some are loaded.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3;
        transformers v4.34.0, models/gpt2/modeling_gpt2.py, GPT2Model.

    Example:
        >>> model = GPT2Model(GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3,
        n_head=3)).eval() >>> model(torch.tensor([[2, 3, 5, 7, 11]])).last_hidden_state.shape
        torch.Size([1, 5, 33])
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.embed_dim = config.n_embd
        with unfilled_while_loading():
            self.wte = nn.Embedding(config.vocab_size, config.n_embd)
            self.wpe = nn.Embedding(config.n_positions, config.n_embd)
            self.drop = nn.Dropout(config.embd_pdrop)
            self.h = nn.ModuleList([GPT2Block(config, layer_idx=layer) for layer in range(config.n_layer)])
            self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.checkpointing_options: dict[str, Any] = {}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings."""
        return self.wte

    def set_input_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put other token embeddings in their place."""
        self.wte = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Sequence[Sequence[Tensor]] | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | BaseModelOutputWithPastAndCrossAttentions:
        """Compute the hidden states of T positions that follow those of the cache.

        Args:
            input_ids: Tokens, [B, T]. On an accelerator ids outside the vocabulary are not looked for,
                because that would wait for the device at every call.
            past_key_values: What an earlier call returned: a `GPT2Cache`, or 4.34's tuple.
            attention_mask: 1 for the positions to see and 0 for padding, [B, S]: past and present.
            token_type_ids: More token ids whose embeddings are added, [B, T].
            position_ids: Place of each token, [B, T]. By default counted from the attention mask, so that
                padding on either side changes nothing; without a mask, from the length of the past.
            head_mask: Factors on the attention weights: [H], [L, H], or [L, B, H, T, S] with ones where it
                shall repeat.
            inputs_embeds: Embeddings in place of input_ids, [B, T, D].
            encoder_hidden_states: What cross-attention looks at, [B, E, D]; needs add_cross_attention.
            encoder_attention_mask: 1 for the encoder positions to see, [B, E] or [B, T, E].
            use_cache: Return past_key_values (config.use_cache).
            output_attentions: Return the attention weights (config.output_attentions).
            output_hidden_states: Return the hidden states between the blocks (config.output_hidden_states).
            return_dict: Return an object rather than a tuple (config.use_return_dict).

        Returns:
            The states after the last layer norm, [B, T, D], and what was asked for.

        Raises:
            InputError: Arguments that exclude each other, or of a shape that fits nothing.
            LengthError: Past and present are more than n_positions.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = (
            config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        use_cache = config.use_cache if use_cache is None else use_cache
        return_dict = config.use_return_dict if return_dict is None else return_dict
        if self.gradient_checkpointing and self.training and use_cache:
            self._warn_of_cache_while_checkpointing()
            use_cache = False

        input_ids, inputs_embeds, input_shape = self._checked_inputs(input_ids, inputs_embeds)
        B, T = (inputs_embeds if input_ids is None else input_ids).shape[:2]
        past = self._checked_past(past_key_values)
        S = T + past.get_seq_length()
        if config.n_positions < S:
            raise LengthError(self._too_long(S, T))
        padding = self._checked_padding(attention_mask, B, S, T)
        position_ids = self._checked_positions(position_ids, padding, B, S, T, self.wpe.weight.device)

        if inputs_embeds is None:
            inputs_embeds = embed(self.wte, input_ids, "input_ids", "vocab_size")  # [B, T, D]
        hidden_states = inputs_embeds + embed(
            self.wpe, position_ids, "position_ids", "n_positions"
        )  # [B, T, D]
        if token_type_ids is not None:
            types = self._rows("token_type_ids", token_type_ids, T, B)  # [B, T]
            hidden_states = hidden_states + embed(
                self.wte, types, "token_type_ids", "vocab_size"
            )  # [B, T, D]
        hidden_states = self.drop(hidden_states)  # [B, T, D]

        kernel = self._checked_kernel(output_attentions, head_mask)
        sdpa = uses_sdpa(kernel, output_attentions, head_mask)
        upcast = config.reorder_and_upcast_attn
        dtype = score_dtype(hidden_states, upcast)
        bias = None if padding is None else padding_bias(padding, dtype)[:, None, None, :]  # [B, 1, 1, S]
        bias = causal_bias(bias, T, S, sdpa, hidden_states, upcast)  # [B or 1, 1, T, S]
        head_masks = self._checked_head_mask(head_mask, hidden_states)
        encoder_bias = self._checked_encoder(encoder_hidden_states, encoder_attention_mask, B, dtype)

        room, layer_pasts = past.claim(T, config.n_positions) if use_cache and past else (None, list(past))
        presents: list[Any] = []
        all_states: list[Tensor] = []
        attentions: list[Any] = []
        cross_attentions: list[Any] = []
        for layer, block in enumerate(self.h):
            if output_hidden_states:
                all_states.append(hidden_states)
            arguments = (
                hidden_states,
                layer_pasts[layer] if past else None,
                bias,
                head_masks[layer],
                encoder_hidden_states,
                encoder_bias,
                use_cache,
                output_attentions,
                kernel,
            )
            hidden_states, *extras = (
                self._recomputed(block, *arguments)
                if self.gradient_checkpointing and self.training
                else block(*arguments)
            )  # [B, T, D]
            if use_cache:
                presents.append(extras.pop(0))
            if output_attentions:
                attentions.append(extras.pop(0))
                cross_attentions += extras

        hidden_states = self.ln_f(hidden_states).view(*input_shape, -1)  # [B, T, D]
        if output_hidden_states:
            all_states.append(hidden_states)
        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            past_key_values=self._present(presents, room) if use_cache else None,
            hidden_states=tuple(all_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if cross_attentions else None,
        )
        return output if return_dict else output.to_tuple()

    # ------------------------------------------------------------------ arguments

    def _checked_inputs(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[Any, Any, Sequence[int]]:
        """Return ids [B, T] or embeddings [B, T, D], the other None, and the shape the ids came in."""
        if input_ids is not None and inputs_embeds is not None:
            raise InputError("Both input_ids and inputs_embeds came; give one of the two.")
        if input_ids is not None:
            if input_ids.dim() < 1 or 0 in input_ids.shape:
                raise InputError(
                    f"input_ids must hold at least one token, but their shape is {list(input_ids.shape)}."
                )
            return input_ids.reshape(-1, input_ids.size(-1)), None, input_ids.shape  # [B, T]
        if inputs_embeds is None:
            raise InputError("Neither input_ids nor inputs_embeds came; give one of the two.")
        if inputs_embeds.dim() != 3 or inputs_embeds.size(-1) != self.embed_dim or 0 in inputs_embeds.shape:
            raise InputError(
                f"inputs_embeds should have the shape [batch, positions, {self.embed_dim}], but it is "
                f"{list(inputs_embeds.shape)}."
            )
        return None, inputs_embeds, inputs_embeds.shape[:-1]

    def _checked_past(self, past_key_values: Sequence[Sequence[Tensor]] | None) -> GPT2Cache:
        """Return the past as a cache, empty if there is none."""
        if past_key_values is None:
            return GPT2Cache()
        past = GPT2Cache.from_legacy(past_key_values)
        if len(past) != len(self.h):
            raise InputError(
                f"past_key_values has {len(past)} layers and the model has {len(self.h)}. Give the past "
                f"that this "
                "model returned."
            )
        return past

    def _too_long(self, S: int, T: int) -> str:
        """Say why S positions are too many, and the ways out."""
        made_of = f"{S} positions" if S == T else f"{S} positions ({S - T} in past_key_values and {T} new)"
        return (
            f"{made_of} were given, and the model has n_positions={self.config.n_positions}. Shorten the "
            f"input "
            "(tokenizers: truncation=True, max_length=), take the last part of it, or use a model with "
            "more positions."
        )

    @staticmethod
    def _rows(name: str, ids: Tensor, T: int, B: int) -> Tensor:
        """Return ids as [B, T] or [1, T]."""
        if ids.dim() < 1 or ids.size(-1) != T or ids.numel() not in (T, B * T):
            raise InputError(f"{name} should have the shape [{B}, {T}], but it is {list(ids.shape)}.")
        return ids.reshape(-1, T)  # [B or 1, T]

    @staticmethod
    def _checked_padding(attention_mask: Tensor | None, B: int, S: int, T: int) -> Tensor | None:
        """Return the mask as [B, S], or None where it hides nothing and reading it costs nothing."""
        if attention_mask is None:
            return None
        if attention_mask.numel() != B * S:
            past = (
                "" if S == T else f" ({S - T} in past_key_values and {T} new: give ones for the past as well)"
            )
            raise InputError(
                f"attention_mask should have the shape [{B}, {S}]{past}, but it is "
                f"{list(attention_mask.shape)}."
            )
        mask = attention_mask.reshape(B, S)  # [B, S]
        return None if _is_readable(mask) and bool((mask == 1).all()) else mask

    def _checked_positions(
        self,
        position_ids: Tensor | None,
        padding: Tensor | None,
        B: int,
        S: int,
        T: int,
        device: torch.device,
    ) -> Tensor:
        """Return the place of each token, [B, T] or [1, T]."""
        if position_ids is not None:
            return self._rows("position_ids", position_ids, T, B)
        if padding is None:
            return torch.arange(S - T, S, device=device)[None]  # [1, T]
        hidden = padding == 0  # [B, S]
        places = (~hidden).long().cumsum(-1) - 1  # [B, S]
        # Padding must be somewhere too; 4.34's generate puts it at 1. A model of one position has only 0.
        return places.masked_fill(hidden, min(1, self.config.n_positions - 1))[:, S - T :]  # [B, T]

    def _checked_kernel(self, output_attentions: bool, head_mask: Tensor | None) -> str:
        """Return the attention kernel of this call; the fused one has no weights to show or to mask."""
        kernel = self.attn_implementation
        if kernel == "sdpa" and (output_attentions or head_mask is not None):
            asked = "output_attentions" if output_attentions else "head_mask"
            raise InputError(
                f"{asked} needs the attention weights, which attn_implementation='sdpa' does not make. "
                f"Choose "
                "'auto' or 'eager' with model.set_attn_implementation(...)."
            )
        return kernel

    def _checked_head_mask(self, head_mask: Tensor | None, like: Tensor) -> Sequence[Tensor | None]:
        """Return one mask for each layer, broadcast to [B, H, T, S]."""
        L, H = len(self.h), self.config.n_head
        if head_mask is None:
            return [None] * L
        head_mask = head_mask.to(like.device, like.dtype)
        widths = {1, H, *(block.attn.num_heads for block in self.h)}
        if head_mask.dim() == 1 and head_mask.size(0) in widths:
            return [head_mask[None, :, None, None]] * L  # [1, H, 1, 1]
        if head_mask.dim() == 2 and head_mask.size(0) == L and head_mask.size(1) in widths:
            return list(head_mask[:, None, :, None, None])  # L of [1, H, 1, 1]
        if head_mask.dim() == 5 and head_mask.size(0) == L and head_mask.size(2) in widths:
            return list(head_mask)  # L of [B, H, T, S]
        raise InputError(
            f"head_mask should have the shape [{H}], [{L}, {H}] or [{L}, batch, {H}, queries, keys], but "
            f"it is "
            f"{list(head_mask.shape)}."
        )

    def _checked_encoder(
        self, states: Tensor | None, mask: Tensor | None, B: int, dtype: torch.dtype
    ) -> Tensor | None:
        """Return what is added to the scores of cross-attention, broadcast to [B, H, T, E]."""
        if states is None:
            if mask is not None:
                raise InputError(
                    "encoder_attention_mask came without encoder_hidden_states; give both or neither."
                )
            return None
        if not self.config.add_cross_attention:
            raise InputError(
                "encoder_hidden_states were given to a model without cross-attention; build it with "
                "add_cross_attention=True in its configuration."
            )
        if states.dim() != 3 or states.size(0) not in (1, B) or states.size(-1) != self.embed_dim:
            raise InputError(
                f"encoder_hidden_states should have the shape [{B}, positions, {self.embed_dim}], but it is "
                f"{list(states.shape)}."
            )
        if mask is None:
            return None
        if mask.dim() not in (2, 3) or mask.size(-1) != states.size(1):
            raise InputError(
                f"encoder_attention_mask should have the shape [{B}, {states.size(1)}] or [{B}, queries, "
                f"{states.size(1)}], but it is {list(mask.shape)}."
            )
        bias = padding_bias(mask, dtype)  # [B, E] or [B, T, E]
        return bias[:, None, None, :] if mask.dim() == 2 else bias[:, None]  # [B, 1, 1 or T, E]

    # ------------------------------------------------------------------ cache and recomputation

    @staticmethod
    def _present(presents: list[Any], room: Any) -> tuple[Any, ...]:
        """Return the new cache; a traced graph gets the plain tuple, which is all that TorchScript knows."""
        return tuple(presents) if torch.jit.is_tracing() else GPT2Cache(presents, room)

    def _recomputed(self, block: nn.Module, *arguments: Any) -> Any:
        """Run a block without keeping its activations; the backward pass computes them again."""
        from torch.utils.checkpoint import checkpoint

        options = {"use_reentrant": False} | self.checkpointing_options
        return checkpoint(block, *arguments, **options)

    def _warn_of_cache_while_checkpointing(self) -> None:
        """Say once that gradient checkpointing and a cache exclude each other."""
        if not self.warnings_issued.get("use_cache"):
            self.warnings_issued["use_cache"] = True
            _logger.warning(
                "`use_cache=True` is incompatible with gradient checkpointing, so no cache is returned while "
                "training. Pass use_cache=False to say so yourself."
            )


def embed(table: nn.Module, ids: Tensor, name: str, size_name: str) -> Tensor:
    """Look ids up in an embedding table; [B, T] to [B, T, D].

    Raises:
        InputError: An id lies outside the table. Only the CPU tells; an accelerator reports it later, as an
            assertion of its own.
    """
    try:
        return table(ids)
    except IndexError:
        size = table.weight.size(0)
        outside = ids[(ids < 0) | (ids >= size)]
        if outside.numel() == 0:
            raise
        message = f"{name} holds {int(outside.flatten()[0])}, outside 0 to {size - 1} ({size_name}={size})."
        if size_name == "vocab_size":
            message += " Use this model's tokenizer, or resize_token_embeddings if tokens were added."
        raise InputError(message) from None


def _is_readable(tensor: Tensor) -> bool:
    """Tell whether the values of a tensor may be looked at: on a CPU, and while nothing traces the call."""
    return (
        type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch._C._functorch.maybe_current_level() is None
        and torch._C._len_torch_dispatch_stack() == 0
    )
