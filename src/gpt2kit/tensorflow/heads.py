"""The heads of GPT-2: what is put on top of `TFGPT2MainLayer` for a task.

Dimensions: B batch, T positions, D n_embd, V vocabulary (docs/shapes.md).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.tensorflow import arguments, keywords, target
from gpt2kit.tensorflow.generation.mixin import TFGenerationMixin
from gpt2kit.tensorflow.layers import TFLinear, sizes
from gpt2kit.tensorflow.loss import next_token_loss, token_loss
from gpt2kit.tensorflow.model import TFGPT2MainLayer
from gpt2kit.tensorflow.outputs import TFCausalLMOutputWithCrossAttentions
from gpt2kit.tensorflow.pretrained import TFGPT2PreTrainedModel

__all__ = ["LanguageHead", "TFGPT2LMHeadModel"]


class LanguageHead:
    """What the models share that score every next token: by the token embeddings, or by rows of their own."""

    scores_tokens = True

    def add_head(self: Any, config: GPT2Config) -> None:
        """Make the body, and the rows of the head where they are not tied."""
        policy = self.dtype_policy
        self.transformer = TFGPT2MainLayer(config, name="transformer", dtype=policy)
        self.lm_head = None
        if not config.tie_word_embeddings:
            deviation = config.initializer_range
            rows = TFLinear(config.vocab_size, config.n_embd, False, deviation, name="lm_head", dtype=policy)
            self.lm_head = rows

    def hf_compute_loss(self: Any, labels: Any, logits: Any) -> tf.Tensor:
        """Return the cross-entropy of labels with the scores at their own places: nothing is shifted here.

        Args:
            labels: [..., T]; -100 counts for nothing.
            logits: [..., T, V]

        Returns:
            The mean of those that count, [1], or with config.tf_legacy_loss each of them, [n].
        """
        logits = arguments.tensor("logits", logits)  # [..., T, V]
        labels = target.classes("labels", labels, sizes(logits)[:-1], self.config.vocab_size, "vocab_size")
        return token_loss(logits, labels, each=self.config.tf_legacy_loss)  # [1] or [n]

    def scored(self: Any, hidden_states: tf.Tensor) -> tf.Tensor:
        """Return the scores of every next token: [..., D] to [..., V]."""
        if self.lm_head is not None:
            return self.lm_head(hidden_states)  # [..., V]
        return self.transformer.wte.attend(hidden_states)  # [..., V]


@keras.saving.register_keras_serializable("gpt2kit")
class TFGPT2LMHeadModel(LanguageHead, TFGenerationMixin, TFGPT2PreTrainedModel):
    """Predict the next token: a score for each of the vocabulary, by the token embeddings themselves.

        logits = h @ wte.T

    Args:
        config: Sizes and switches. With tie_word_embeddings=False the head has rows of its own.
        **kwargs: name, dtype and trainable, as of any Keras model.

    Source:
        transformers v4.34.0, models/gpt2/modeling_tf_gpt2.py, TFGPT2LMHeadModel.

    Example:
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> model = TFGPT2LMHeadModel(config)
        >>> ids = tf.constant([[2, 3, 5, 7, 11]])
        >>> output = model(ids, labels=ids)
        >>> output.loss.shape, output.logits.shape
        (TensorShape([1]), TensorShape([1, 5, 101]))
    """

    label_names = ("labels",)
    loss_of_each_text = False

    def __init__(self, config: GPT2Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.add_head(config)
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
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: tf.Tensor | None = None,
        training: bool | None = False,
        logits_to_keep: int = 0,
    ) -> tuple[Any, ...] | TFCausalLMOutputWithCrossAttentions:
        """Compute the scores of every next token.

        Arguments that are not listed are those of `TFGPT2Model.call`.

        Args:
            input_ids: See there.
            past_key_values: See there.
            attention_mask: See there.
            token_type_ids: See there.
            position_ids: See there.
            head_mask: See there.
            inputs_embeds: See there.
            encoder_hidden_states: See there.
            encoder_attention_mask: See there.
            use_cache: See there.
            output_attentions: See there.
            output_hidden_states: See there.
            return_dict: See there.
            labels: The tokens that are to be predicted, usually input_ids again; -100 counts for nothing.
                The model shifts them itself. [B, T]
            training: See there.
            logits_to_keep: Make logits for only the last so many positions; 0 makes all.

        Returns:
            The scores [B, T, V], before them the loss if labels came, and what was asked for. The loss is
            the mean over the labels that count, [1], or that of each of them with config.tf_legacy_loss, [n].

        Raises:
            InputError: As `TFGPT2Model.call`; labels of another shape, or outside the vocabulary.
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
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        logits = self.scored(body.last_hidden_state[..., -logits_to_keep:, :])  # [B, T, V]; 0 keeps all
        loss = None
        if labels is not None:
            labels = target.tokens(labels, logits, config.vocab_size)  # [B, T]
            loss = next_token_loss(logits, labels, each=config.tf_legacy_loss)  # [1] or [n]
        output = TFCausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            past_key_values=body.past_key_values,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
            cross_attentions=body.cross_attentions,
        )
        return (
            output if (config.use_return_dict if return_dict is None else return_dict) else output.to_tuple()
        )
