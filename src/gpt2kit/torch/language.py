"""The language model head, and one step of a generation by it: what every model that writes has.

Dimensions: B batch, T new positions, S all positions (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gpt2kit.errors import InputError
from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.generation import GenerationMixin
from gpt2kit.torch.loss import chunked_next_token_loss, next_token_loss
from gpt2kit.torch.scoring import ScoringMixin
from gpt2kit.torch.taps import tap

__all__ = ["LanguageHead", "check_logits_to_keep"]


class LanguageHead(ScoringMixin, GenerationMixin):
    """What a model with `lm_head` can do besides its forward pass; mixed into the classes that have one.

    Source:
        transformers v4.34.0, models/gpt2/modeling_gpt2.py, GPT2LMHeadModel and GPT2DoubleHeadsModel.
    """

    _tied_weights_keys: list[str] | None = ["lm_head.weight"]  # noqa: RUF012  # 4.34 has a list here, and others compare it

    own_activations: tuple[str, ...] = ("logits",)
    lm_head: nn.Module

    def get_output_embeddings(self) -> nn.Module:
        """Return the layer that turns hidden states into logits."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another layer in its place."""
        self.lm_head = new_embeddings

    def _scored(
        self, hidden_states: Tensor, labels: Tensor | None, logits_to_keep: int, loss_chunk_size: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the logits of the last positions, [B, T, V], and the loss if there are labels.

        A loss in chunks holds no logits that could be returned.
        """
        if labels is not None and loss_chunk_size:
            return None, chunked_next_token_loss(hidden_states, self.lm_head, labels, loss_chunk_size)
        hidden_states = hidden_states[..., -logits_to_keep:, :]  # [B, T, D]; -0 keeps all
        logits = tap(self, "logits", self.lm_head(hidden_states))  # [B, T, V]
        return logits, None if labels is None else next_token_loss(logits, labels)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Sequence[Sequence[Tensor]] | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of `forward` for one step of a generation: what the past has not seen yet.

        Args:
            input_ids: The whole text so far, [B, S].
            past_key_values: What the last step returned.
            inputs_embeds: Used in place of input_ids in the first step.
            **kwargs: attention_mask, token_type_ids, use_cache, head_mask, encoder_hidden_states,
                encoder_attention_mask.
        """
        past_length = GPT2Cache.from_legacy(past_key_values or ()).get_seq_length()
        token_type_ids, attention_mask = kwargs.get("token_type_ids"), kwargs.get("attention_mask")
        model_inputs: dict[str, Any] = {"input_ids": input_ids}
        if past_length:
            # A past longer than the text is a prefix that has no tokens: then only the last token is new.
            seen = past_length if past_length < input_ids.size(1) else input_ids.size(1) - 1
            model_inputs["input_ids"] = input_ids[:, seen:]  # [B, T]
            if token_type_ids is not None:
                token_type_ids = token_type_ids[:, seen:]  # [B, T]
        elif inputs_embeds is not None:
            model_inputs = {"inputs_embeds": inputs_embeds}

        position_ids = None
        if attention_mask is not None:
            hidden = attention_mask == 0  # [B, S]
            position_ids = ((~hidden).long().cumsum(-1) - 1).masked_fill(hidden, 1)  # [B, S]
            if past_length:
                position_ids = position_ids[:, -model_inputs["input_ids"].size(1) :]  # [B, T]
        model_inputs |= {
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "position_ids": position_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        passed_on = ("head_mask", "encoder_hidden_states", "encoder_attention_mask")
        return model_inputs | {name: kwargs[name] for name in passed_on if kwargs.get(name) is not None}

    @staticmethod
    def _reorder_cache(past_key_values: Sequence[Sequence[Tensor]], beam_idx: Tensor) -> GPT2Cache:
        """Rearrange a past as a beam search has rearranged its beams."""
        return GPT2Cache.from_legacy(past_key_values).reorder(beam_idx)


def check_logits_to_keep(logits_to_keep: int, labels: Tensor | None) -> None:
    """Refuse a number of last positions that is none, or that would leave a loss without its scores.

    Raises:
        InputError: Below 0, or together with labels.
    """
    if logits_to_keep < 0 or (labels is not None and logits_to_keep):
        raise InputError(
            f"logits_to_keep={logits_to_keep} cannot be honoured: it is the number of last positions, 0 for "
            "all, and a loss needs all."
        )
