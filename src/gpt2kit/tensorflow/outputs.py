"""What the TensorFlow models return, field by field as in transformers 4.34.

They are dictionaries to `tf.nest`, and so to tf.function and tf.distribute; Keras' own trees learn of them
here, so that `predict` joins the batches of each field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optree  # Keras brings it along
import tensorflow as tf

from gpt2kit.outputs import ModelOutput

__all__ = [
    "TFBaseModelOutputWithPastAndCrossAttentions",
    "TFCausalLMOutputWithCrossAttentions",
    "TFGPT2DoubleHeadsModelOutput",
    "TFSequenceClassifierOutputWithPast",
    "register",
]

Several = tuple[tf.Tensor, ...] | None


@dataclass
class TFBaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """What `TFGPT2Model` returns.

    Attributes:
        last_hidden_state: After the last layer norm, [B, T, D].
        past_key_values: Keys and values of each layer, L of [2, B, H, S, K], if asked for.
        hidden_states: Before each block, and the last one, L + 1 of [B, T, D], if asked for.
        attentions: Weights of each layer, L of [B, H, T, S], if asked for.
        cross_attentions: Those of cross-attention, L of [B, H, T, E], if asked for.
    """

    last_hidden_state: tf.Tensor | None = None
    past_key_values: Any = None
    hidden_states: Several = None
    attentions: Several = None
    cross_attentions: Several = None


@dataclass
class TFCausalLMOutputWithCrossAttentions(ModelOutput):
    """What `TFGPT2LMHeadModel` returns.

    Attributes:
        loss: Cross-entropy of the next tokens if labels came: their mean, [1], or with
            config.tf_legacy_loss that of each label that counts, [n].
        logits: Scores of every token of the vocabulary, [B, T, V].
        past_key_values: As `TFGPT2Model`.
        hidden_states: As `TFGPT2Model`.
        attentions: As `TFGPT2Model`.
        cross_attentions: As `TFGPT2Model`.
    """

    loss: tf.Tensor | None = None
    logits: tf.Tensor | None = None
    past_key_values: Any = None
    hidden_states: Several = None
    attentions: Several = None
    cross_attentions: Several = None


@dataclass
class TFGPT2DoubleHeadsModelOutput(ModelOutput):
    """What `TFGPT2DoubleHeadsModel` returns.

    Attributes:
        logits: Scores of every token of the vocabulary, [B, C, T, V].
        mc_logits: Scores of the choices, [B, C].
        past_key_values: As `TFGPT2Model`; the choices of all questions are one batch, [2, B C, H, S, K].
        hidden_states: As `TFGPT2Model`; [B C, T, D] but for the last, which is [B, C, T, D].
        attentions: As `TFGPT2Model`, [B C, H, T, S].
        loss: As `TFGPT2LMHeadModel`, if labels came; 4.34 has no such field.
        mc_loss: Cross-entropy of the right choice of each question, [B], if mc_labels came; likewise.
    """

    logits: tf.Tensor | None = None
    mc_logits: tf.Tensor | None = None
    past_key_values: Any = None
    hidden_states: Several = None
    attentions: Several = None
    loss: tf.Tensor | None = None
    mc_loss: tf.Tensor | None = None


@dataclass
class TFSequenceClassifierOutputWithPast(ModelOutput):
    """What `TFGPT2ForSequenceClassification` returns.

    Attributes:
        loss: That of each text if labels came, [B]: squared error, or cross-entropy of one or several labels.
        logits: Scores of each text, [B, N].
        past_key_values: As `TFGPT2Model`.
        hidden_states: As `TFGPT2Model`.
        attentions: As `TFGPT2Model`.
    """

    loss: tf.Tensor | None = None
    logits: tf.Tensor | None = None
    past_key_values: Any = None
    hidden_states: Several = None
    attentions: Several = None


def register(output_class: type[ModelOutput]) -> None:
    """Make a class of outputs known to Keras' trees; `tf.nest` knows every mapping by itself."""

    def flatten(output: ModelOutput) -> tuple[list[Any], tuple[str, ...], tuple[str, ...]]:
        return list(output.values()), tuple(output), tuple(output)

    def unflatten(names: tuple[str, ...], values: Any) -> ModelOutput:
        return output_class(**dict(zip(names, values, strict=True)))

    # keras.tree has no way to register a class; this is what it is made of.
    optree.register_pytree_node(output_class, flatten, unflatten, namespace="keras")


for _output_class in (
    TFBaseModelOutputWithPastAndCrossAttentions,
    TFCausalLMOutputWithCrossAttentions,
    TFGPT2DoubleHeadsModelOutput,
    TFSequenceClassifierOutputWithPast,
):
    register(_output_class)
