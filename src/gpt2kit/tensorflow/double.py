"""Two heads on one body: the next token, and the right one of several continuations.

Dimensions: B batch, C choices, T positions, D n_embd, V vocabulary (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.tensorflow import keywords, target
from gpt2kit.tensorflow.heads import LanguageHead
from gpt2kit.tensorflow.layers import sizes
from gpt2kit.tensorflow.loss import class_losses, next_token_loss
from gpt2kit.tensorflow.outputs import TFGPT2DoubleHeadsModelOutput
from gpt2kit.tensorflow.pretrained import TFGPT2PreTrainedModel
from gpt2kit.tensorflow.summary import TFSequenceSummary

__all__ = ["TFGPT2DoubleHeadsModel"]


@keras.saving.register_keras_serializable("gpt2kit")
class TFGPT2DoubleHeadsModel(LanguageHead, TFGPT2PreTrainedModel):
    """Predict the next token, and score each of several choices by one vector of its text.

        logits = h @ wte.T        mc_logits = summary(h)        mc_loss = -log softmax(mc_logits)[mc_labels]

    Args:
        config: Sizes and switches. The `summary_*` settings are those of the second head
            (`TFSequenceSummary`), and num_labels becomes 1: a choice has one score.
        **kwargs: name, dtype and trainable, as of any Keras model.

    Source:
        Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.3;
        transformers v4.34.0, models/gpt2/modeling_tf_gpt2.py, TFGPT2DoubleHeadsModel, which takes no labels.

    Example:
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> model = TFGPT2DoubleHeadsModel(config)
        >>> choices = tf.constant([[[2, 3, 5, 7], [2, 3, 11, 0]]])  # one question, two answers of 4 and 3
        >>> output = model(choices, mc_token_ids=tf.constant([[3, 2]]), mc_labels=tf.constant([1]))
        >>> output.logits.shape, output.mc_logits.shape
        (TensorShape([1, 2, 4, 101]), TensorShape([1, 2]))
    """

    label_names = ("labels", "mc_labels")
    loss_of_each_text = False

    def __init__(self, config: GPT2Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        config.num_labels = 1
        self.add_head(config)
        deviation, policy = config.initializer_range, self.dtype_policy
        name = "multiple_choice_head"
        self.multiple_choice_head = TFSequenceSummary(config, deviation, name=name, dtype=policy)
        self.build()

    @keywords.plainly
    def call(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        mc_token_ids: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = False,
        labels: tf.Tensor | None = None,
        mc_labels: tf.Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> tuple[Any, ...] | TFGPT2DoubleHeadsModelOutput:
        """Score every next token, and every choice.

        Arguments that are not listed are those of `TFGPT2Model.call`.

        Args:
            input_ids: The choices of each question, [B, C, T], and with them attention_mask, token_type_ids
                and position_ids; or those of a single one, [C, T].
            past_key_values: See there.
            attention_mask: See there.
            token_type_ids: See there.
            position_ids: See there.
            head_mask: See there.
            inputs_embeds: In place of input_ids, [B, C, T, D] or [C, T, D].
            mc_token_ids: The position in each choice that its score is read from, usually that of the last
                token before the padding, [B, C] or [C]. By default the last position.
            use_cache: See there.
            output_attentions: See there.
            output_hidden_states: See there.
            return_dict: See there.
            training: See there.
            labels: For the next tokens, usually input_ids again; -100 counts for nothing. [B, C, T] or [C, T]
            mc_labels: The number of the right choice, [B], or [] for a single question.
            logits_to_keep: Make logits for only the last so many positions; 0 makes all.

        Returns:
            The logits [B, C, T, V] and the scores of the choices [B, C], what was asked for, and the losses
            whose labels came: [1] or [n] as those of `TFGPT2LMHeadModel`, and [B].

        Raises:
            InputError: As `TFGPT2Model.call`; labels of another shape or out of range, or mc_token_ids
                beyond the sequence.
            LengthError: Past and present are more than n_positions.
        """
        config = self.config
        target.check_kept(logits_to_keep, labels)
        body = self.transformer(
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        hidden_states = body.last_hidden_state  # [B, C, T, D]
        shape = sizes(hidden_states)[:-1]  # B, C, T
        logits = self.scored(hidden_states[..., -logits_to_keep:, :])  # [B, C, T, V]; 0 keeps all
        mc_token_ids = self._checked_places(mc_token_ids, shape)  # [B, C]
        mc_logits = self.multiple_choice_head(hidden_states, mc_token_ids, training=training)  # [B, C, 1]
        if self.multiple_choice_head.out_features == 1:
            mc_logits = tf.squeeze(mc_logits, axis=-1)  # [B, C]
        loss = mc_loss = None
        if labels is not None:
            labels = target.tokens(labels, logits, config.vocab_size)  # [B, C, T]
            loss = next_token_loss(logits, labels, each=config.tf_legacy_loss)  # [1] or [n]
        if mc_labels is not None:
            mc_loss = class_losses(mc_logits, self._checked_choices(mc_labels, mc_logits))  # [B]
        output = TFGPT2DoubleHeadsModelOutput(
            logits=logits,
            mc_logits=mc_logits,
            past_key_values=body.past_key_values,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
            loss=loss,
            mc_loss=mc_loss,
        )
        return_dict = config.use_return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _checked_places(self, mc_token_ids: Any, shape: Sequence[Any]) -> tf.Tensor | None:
        """Return the positions that are read, [B, C], and say so if the summary reads another one."""
        if mc_token_ids is None:
            return None
        if (summary_type := self.multiple_choice_head.summary_type) != "cls_index":
            self.warn_once(
                f"mc_token_ids are not read, because summary_type={summary_type!r}. Set "
                "config.summary_type='cls_index' before the model is built to have them read."
            )
        return target.places("mc_token_ids", mc_token_ids, shape[:-1], shape[-1])  # [B, C]

    @staticmethod
    def _checked_choices(mc_labels: Any, mc_logits: tf.Tensor) -> tf.Tensor:
        """Return the right choice of each question, [B].

        A summary that is a vector, because nothing maps it to one score, makes its entries the choices.
        """
        if not mc_logits.shape.rank:
            raise InputError("mc_labels came for a single text. Give the choices as input_ids of [C, T].")
        *questions, C = sizes(mc_logits)
        return target.classes("mc_labels", mc_labels, questions, C, f"{C} choices")  # [B]

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """Return what a served model is called with."""
        return {
            "input_ids": tf.TensorSpec([None, None, None], tf.int32, name="input_ids"),  # [B, C, T]
            "attention_mask": tf.TensorSpec([None, None, None], tf.int32, name="attention_mask"),  # [B, C, T]
            "mc_token_ids": tf.TensorSpec([None, None], tf.int32, name="mc_token_ids"),  # [B, C]
        }
