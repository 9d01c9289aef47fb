"""GPT-2 without a head: embeddings, blocks, a last layer norm.

Dimensions: B batch, T query positions, S key positions (past and present), P n_positions, D n_embd, H heads,
K width of a head, L layers, E encoder positions (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.torch import arguments
from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.fresh import unfilled_while_loading
from gpt2kit.torch.layers import GPT2Block, uses_sdpa
from gpt2kit.torch.mask import complete_bias, score_dtype
from gpt2kit.torch.outputs import BaseModelOutputWithPastAndCrossAttentions
from gpt2kit.torch.pretrained import GPT2PreTrainedModel
from gpt2kit.torch.taps import begin, recomputable, tap, wanted_weights

__all__ = ["GPT2Model"]


class _Call(NamedTuple):
    """The arguments of one call, checked and in the form that the blocks take.

    Attributes:
        embeds: h_0 before its dropout, [B, T, D].
        shape: Of the tokens as they came, [B, T] or with more leading axes.
        past: Keys and values of earlier positions.
        bias: Added to the attention scores: padding, [B, 1, 1 or T, S].
        head_masks: Multiplied to the attention weights, L of [B, H, T, S], broadcast.
        encoder_bias: Added to the scores of cross-attention, [B, 1, 1 or T, E].
        kernel: One of `layers.KERNELS`.
    """

    embeds: Tensor
    shape: Sequence[int]
    past: GPT2Cache
    bias: Tensor | None
    head_masks: Sequence[Tensor | None]
    encoder_bias: Tensor | None
    kernel: str


class GPT2Model(GPT2PreTrainedModel):
    """Turn token ids into hidden states: the body of every GPT-2.

        h_0 = wte[input_ids] + wpe[position_ids]        h_(l+1) = block_l(h_l)        output = ln_f(h_L)

    Args:
        config: Sizes and switches. The weights are random until some are loaded.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3;
        transformers v4.34.0, models/gpt2/modeling_gpt2.py, GPT2Model.

    Example:
        >>> import torch
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> model = GPT2Model(config).eval()
        >>> model(torch.tensor([[2, 3, 5, 7, 11]])).last_hidden_state.shape
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
            attention_mask: 1 for the positions to see and 0 for padding, [B, S]: past and present. Or for
                each query which positions it sees, [B, T, S]: branches that go on from one past; a position
                after the query stays hidden.
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
        use_cache, output_attentions, output_hidden_states, return_dict = self._switches(
            use_cache, output_attentions, output_hidden_states, return_dict
        )
        call = self._checked(
            input_ids,
            past_key_values,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            output_attentions,
        )
        begin(self)
        hidden_states = self.drop(tap(self, "embed", call.embeds))  # [B, T, D]
        room, pasts = (
            call.past.claim(hidden_states.size(1), self.config.n_positions)
            if use_cache and call.past
            else (None, list(call.past))
        )
        same = (encoder_hidden_states, call.encoder_bias, use_cache, output_attentions, call.kernel)
        presents: list[Any] = []
        all_states: list[Tensor] = []
        attentions: list[Any] = []
        cross_attentions: list[Any] = []
        for layer, block in enumerate(self.h):
            hidden_states = tap(block, "in", hidden_states)  # [B, T, D]
            if output_hidden_states:
                all_states.append(hidden_states)
            past = pasts[layer] if pasts else None
            hidden_states, *extras = self._run(
                block, hidden_states, past, call.bias, call.head_masks[layer], *same
            )  # [B, T, D]
            if use_cache:
                presents.append(extras.pop(0))
            if output_attentions:
                attentions.append(extras.pop(0))
                cross_attentions += extras

        hidden_states = tap(self, "ln_f", self.ln_f(hidden_states)).view(*call.shape, -1)  # [B, T, D]
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

    def _switches(
        self,
        use_cache: bool | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        return_dict: bool | None,
    ) -> tuple[bool, bool, bool, bool]:
        """Return what a call shall give; the configuration answers for what the caller left open."""
        config = self.config
        use_cache = config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training and use_cache:
            self._warn_once(
                "`use_cache=True` is incompatible with gradient checkpointing, so no cache is returned while "
                "training. Pass use_cache=False to say so yourself."
            )
            use_cache = False
        return (
            use_cache,
            config.output_attentions if output_attentions is None else output_attentions,
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            config.use_return_dict if return_dict is None else return_dict,
        )

    def _checked(
        self,
        input_ids: Tensor | None,
        past_key_values: Sequence[Sequence[Tensor]] | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        head_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        encoder_hidden_states: Tensor | None,
        encoder_attention_mask: Tensor | None,
        output_attentions: bool,
    ) -> _Call:
        """Refuse what cannot be computed, and bring the rest into the form that the blocks take."""
        config, device = self.config, self.wpe.weight.device
        arguments.tensors(
            device,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )
        if attention_mask is None and arguments.has_padding(input_ids, config.pad_token_id):
            self._warn_once(
                "There is padding in `input_ids` and no `attention_mask`, so the padding is read as text. "
                "Pass the attention_mask that the tokenizer returns."
            )
        kernel = arguments.kernel(
            self.attn_implementation, output_attentions, head_mask, wanted_weights(self)
        )
        input_ids, inputs_embeds, shape = arguments.inputs(input_ids, inputs_embeds, config.n_embd)
        B, T = (inputs_embeds if input_ids is None else input_ids).shape[:2]
        past = arguments.past(past_key_values, B, self.h, device)
        by_query = arguments.branches(attention_mask, shape)
        S = arguments.length(past.get_seq_length(), T, config.n_positions, by_query)
        padding = arguments.padding(attention_mask, B, S, T, by_query)  # [B, S] or [B, T, S]
        position_ids = arguments.positions(
            position_ids, padding, B, S, T, config.n_positions, device
        )  # [B or 1, T]
        embeds = self._embeds(input_ids, inputs_embeds, position_ids, token_type_ids)  # [B, T, D]

        dtype = score_dtype(embeds, config.reorder_and_upcast_attn)
        bias = arguments.bias(padding, dtype)  # [B, 1, 1 or T, S]
        if uses_sdpa(kernel, output_attentions, head_mask):  # once here rather than in each layer
            bias = complete_bias(bias, T, S, dtype, device)  # [B or 1, 1, T, S]
        head_masks = arguments.head_masks(head_mask, config.n_head, self.h, embeds, S, encoder_hidden_states)
        encoder_bias = arguments.encoder_bias(
            encoder_hidden_states, encoder_attention_mask, config, B, T, dtype
        )  # [B, 1, 1 or T, E]
        return _Call(embeds, shape, past, bias, head_masks, encoder_bias, kernel)

    def _embeds(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        position_ids: Tensor,
        token_type_ids: Tensor | None,
    ) -> Tensor:
        """Return h_0 before its dropout, [B, T, D]: what is there, and where it stands."""
        if inputs_embeds is None:
            inputs_embeds = arguments.embed(self.wte, input_ids, "input_ids", "vocab_size")  # [B, T, D]
        places = arguments.embed(self.wpe, position_ids, "position_ids", "n_positions")  # [B or 1, T, D]
        embeds = inputs_embeds + places  # [B, T, D]
        if token_type_ids is None:
            return embeds
        types = arguments.rows("token_type_ids", token_type_ids, *embeds.shape[:2])  # [B or 1, T]
        return embeds + arguments.embed(self.wte, types, "token_type_ids", "vocab_size")  # [B, T, D]

    @staticmethod
    def _present(presents: list[Any], room: Any) -> tuple[Any, ...]:
        """Return the new cache; a traced graph gets the plain tuple, which is all that TorchScript knows."""
        return tuple(presents) if torch.jit.is_tracing() else GPT2Cache(presents, room)

    def _run(self, block: nn.Module, *given: Any) -> Any:
        """Run a block; gradient checkpointing keeps nothing of it and runs it again in the backward pass."""
        if not (self.gradient_checkpointing and self.training):
            return block(*given)
        from torch.utils.checkpoint import checkpoint

        options = {"use_reentrant": False} | self.checkpointing_options
        return checkpoint(recomputable(self, block, options), *given, **options)
