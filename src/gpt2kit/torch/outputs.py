"""What the PyTorch models return, field by field as in transformers 4.34."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from gpt2kit.outputs import ModelOutput
from gpt2kit.torch.cache import GPT2Cache

__all__ = [
    "BaseModelOutputWithPastAndCrossAttentions",
    "CausalLMOutputWithCrossAttentions",
    "GPT2DoubleHeadsModelOutput",
    "QuestionAnsweringModelOutput",
    "SequenceClassifierOutputWithPast",
    "TokenClassifierOutput",
]

Pasts = tuple[tuple[Tensor, Tensor], ...]


@dataclass
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """What `GPT2Model` returns.

    Attributes:
        last_hidden_state: After the last layer norm, [B, T, D].
        past_key_values: L pairs of [B, H, S, K] if use_cache.
        hidden_states: L + 1 of [B, T, D] if output_hidden_states: after the embeddings, then after each
            block, the last one after the last layer norm.
        attentions: L of [B, H, T, S] if output_attentions.
        cross_attentions: L of [B, H, T, E] if output_attentions and the encoder's states were given.
    """

    last_hidden_state: Tensor | None = None
    past_key_values: Pasts | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """What `GPT2LMHeadModel` returns.

    Attributes:
        loss: Mean cross-entropy of each next token, a scalar, if labels were given.
        logits: Scores of every token of the vocabulary, [B, T, V].
        past_key_values: As `GPT2Model`.
        hidden_states: As `GPT2Model`.
        attentions: As `GPT2Model`.
        cross_attentions: As `GPT2Model`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Pasts | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class GPT2DoubleHeadsModelOutput(ModelOutput):
    """What `GPT2DoubleHeadsModel` returns.

    Attributes:
        loss: Mean cross-entropy of each next token, a scalar, if labels were given.
        mc_loss: Mean cross-entropy of the right choices, a scalar, if mc_labels were given.
        logits: Scores of every token of the vocabulary, [B, C, T, V].
        mc_logits: Scores of the choices, [B, C].
        past_key_values: As `GPT2Model`; the choices of all questions are one batch, [B C, H, S, K].
        hidden_states: As `GPT2Model`; [B C, T, D] but for the last, which is [B, C, T, D].
        attentions: As `GPT2Model`, [B C, H, T, S].
    """

    loss: Tensor | None = None
    mc_loss: Tensor | None = None
    logits: Tensor | None = None
    mc_logits: Tensor | None = None
    past_key_values: Pasts | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SequenceClassifierOutputWithPast(ModelOutput):
    """What `GPT2ForSequenceClassification` returns.

    Attributes:
        loss: A scalar if labels were given: squared error, or cross-entropy of one or of several labels.
        logits: Scores of each text, [B, N].
        past_key_values: As `GPT2Model`.
        hidden_states: As `GPT2Model`.
        attentions: As `GPT2Model`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Pasts | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """What `GPT2ForTokenClassification` returns.

    Attributes:
        loss: Mean cross-entropy of each token's label, a scalar, if labels were given.
        logits: Scores of each token, [B, T, N].
        hidden_states: As `GPT2Model`.
        attentions: As `GPT2Model`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """What `GPT2ForQuestionAnswering` returns.

    Attributes:
        loss: Mean of the cross-entropies of start and end, a scalar, if both positions were given.
        start_logits: How well the answer would start at each position, [B, T].
        end_logits: How well it would end there, [B, T].
        hidden_states: As `GPT2Model`.
        attentions: As `GPT2Model`.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def register(output_class: type[ModelOutput]) -> None:
    """Make a class of outputs known to torch's trees, for FSDP and export, and to the careful torch.load."""

    def flatten(output: ModelOutput) -> tuple[list[Any], list[str]]:
        return list(output.values()), list(output.keys())

    def flatten_with_keys(output: ModelOutput) -> tuple[list[Any], list[str]]:
        return [(pytree.MappingKey(name), value) for name, value in output.items()], list(output.keys())

    def unflatten(values: Any, names: Any) -> ModelOutput:
        return output_class(**dict(zip(names, values, strict=True)))

    pytree.register_pytree_node(
        output_class,
        flatten,
        unflatten,
        serialized_type_name=f"{output_class.__module__}.{output_class.__qualname__}",
        flatten_with_keys_fn=flatten_with_keys,
    )
    torch.serialization.add_safe_globals([output_class])


for _output_class in (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    GPT2DoubleHeadsModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
    QuestionAnsweringModelOutput,
):
    register(_output_class)
pytree.register_pytree_node(
    GPT2Cache,
    lambda cache: (list(cache), None),
    lambda pairs, _: GPT2Cache(pairs),
    serialized_type_name="gpt2kit.torch.cache.GPT2Cache",
    flatten_with_keys_fn=lambda cache: (
        [(pytree.SequenceKey(layer), pair) for layer, pair in enumerate(cache)],
        None,
    ),
)
torch.serialization.add_safe_globals([GPT2Cache])
