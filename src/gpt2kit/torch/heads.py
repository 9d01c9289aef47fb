"""The heads of GPT-2: what is put on top of `GPT2Model` for a task.

Each class is the body under the name `transformer`, one or two small layers, and a loss.
Dimensions: B batch, T positions, D n_embd, V vocabulary (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gpt2kit.config import GPT2Config
from gpt2kit.torch import target
from gpt2kit.torch.fresh import unfilled_while_loading
from gpt2kit.torch.language import LanguageHead, check_logits_to_keep
from gpt2kit.torch.layers import Unembedding
from gpt2kit.torch.loss import check_chunk_size
from gpt2kit.torch.model import GPT2Model
from gpt2kit.torch.outputs import CausalLMOutputWithCrossAttentions
from gpt2kit.torch.pretrained import GPT2PreTrainedModel

__all__ = ["GPT2LMHeadModel"]


class GPT2LMHeadModel(LanguageHead, GPT2PreTrainedModel):
    """Predict the next token: a score for each of the vocabulary, by the token embeddings themselves.

        logits = h @ wte.T        loss = mean over t of -log softmax(logits_t)[labels_(t+1)]

    Args:
        config: Sizes and switches. With tie_word_embeddings=False the head has a weight of its own.

    Source:
        transformers v4.34.0, models/gpt2/modeling_gpt2.py, GPT2LMHeadModel.

    Example:
        >>> import torch
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> model = GPT2LMHeadModel(config).eval()
        >>> model(torch.tensor([[2, 3, 5, 7, 11]])).logits.shape
        torch.Size([1, 5, 101])
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        with unfilled_while_loading():
            self.lm_head = Unembedding(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        loss_chunk_size: int = 0,
    ) -> tuple[Any, ...] | CausalLMOutputWithCrossAttentions:
        """Compute the scores of every next token.

        Args:
            input_ids: As `GPT2Model.forward`, like all that is not listed here.
            past_key_values: See there.
            attention_mask: See there.
            token_type_ids: See there.
            position_ids: See there.
            head_mask: See there.
            inputs_embeds: See there.
            encoder_hidden_states: See there.
            encoder_attention_mask: See there.
            labels: Usually input_ids again: the shift by one happens here. Positions labelled -100 count for
                nothing. [B, T]
            use_cache: See there.
            output_attentions: See there.
            output_hidden_states: See there.
            return_dict: See there.
            logits_to_keep: Make logits for only the last so many positions; 0 makes all.
            loss_chunk_size: Compute the loss of so many positions at a time, without ever holding the logits
                of all; then none are returned. 0 makes and returns them.

        Returns:
            The logits [B, T, V], before them the loss if labels came, and what was asked for.

        Raises:
            InputError: As `GPT2Model.forward`; labels of another shape or outside the vocabulary.
            LengthError: Past and present are more than n_positions.
        """
        check_logits_to_keep(logits_to_keep, labels)
        check_chunk_size(loss_chunk_size, labels)
        if labels is not None:
            shape = target.shape_of(self, input_ids, inputs_embeds)  # [B, T]
            labels = target.tokens(labels, shape, self.config.vocab_size)  # [B, T]
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        body = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits, loss = self._scored(body.last_hidden_state, labels, logits_to_keep, loss_chunk_size)
        output = CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            past_key_values=body.past_key_values,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
            cross_attentions=body.cross_attentions,
        )
        return output if return_dict else output.to_tuple()
