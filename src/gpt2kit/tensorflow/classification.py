"""The head that classifies a whole text.

Dimensions: B batch, T query positions, D n_embd, N labels (docs/shapes.md).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.tensorflow import arguments, keywords, target
from gpt2kit.tensorflow.layers import TFLinear, sizes
from gpt2kit.tensorflow.loss import class_losses
from gpt2kit.tensorflow.mask import score_dtype
from gpt2kit.tensorflow.model import TFGPT2MainLayer
from gpt2kit.tensorflow.outputs import TFSequenceClassifierOutputWithPast
from gpt2kit.tensorflow.pretrained import TFGPT2PreTrainedModel
from gpt2kit.tensorflow.table import nan_outside

__all__ = ["TFGPT2ForSequenceClassification"]

_WANTED = {
    "regression": "one number for each score",
    "single_label_classification": "one class for each row",
    "multi_label_classification": "one number from 0 to 1 for each label",
}


@keras.saving.register_keras_serializable("gpt2kit")
class TFGPT2ForSequenceClassification(TFGPT2PreTrainedModel):
    """Score a text by the hidden state of its last token, which has seen all of it.

        logits = score(h[last])

    The loss of a text depends on config.problem_type: "regression" is the mean squared error,
    "single_label_classification" the cross-entropy of one of N labels, "multi_label_classification" that of N
    yes-or-no questions. Where it is None, the labels decide: num_labels=1 is a regression, whole numbers are
    single labels, others several.

    Args:
        config: Sizes and switches, among them num_labels, id2label, problem_type and pad_token_id.
        **kwargs: name, dtype and trainable, as of any Keras model.

    Source:
        transformers v4.34.0, models/gpt2/modeling_tf_gpt2.py, TFGPT2ForSequenceClassification, which has no
        problem_type.

    Example:
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3, num_labels=5)
        >>> model = TFGPT2ForSequenceClassification(config)
        >>> ids, mask = tf.constant([[2, 3, 5], [7, 11, 0]]), tf.constant([[1, 1, 1], [1, 1, 0]])
        >>> output = model(ids, attention_mask=mask, labels=tf.constant([4, 0]))
        >>> output.loss.shape, output.logits.shape
        (TensorShape([2]), TensorShape([2, 5]))
    """

    label_names = ("labels",)
    loss_of_each_text = True
    scores_tokens = False

    def __init__(self, config: GPT2Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.num_labels = config.num_labels
        deviation, policy = config.initializer_range, self.dtype_policy
        self.score = TFLinear(config.num_labels, config.n_embd, False, deviation, name="score", dtype=policy)
        self.transformer = TFGPT2MainLayer(config, name="transformer", dtype=policy)
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
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: tf.Tensor | None = None,
        training: bool | None = False,
    ) -> tuple[Any, ...] | TFSequenceClassifierOutputWithPast:
        """Score each text.

        Args:
            input_ids: As `TFGPT2Model.call`, like all that is not described here. [B, T]
            past_key_values: See there.
            attention_mask: It says which token of each row is the last, whatever side is padded. Without it
                config.pad_token_id does, and without both a batch has to be a single row.
            token_type_ids: See there.
            position_ids: See there.
            head_mask: See there.
            inputs_embeds: See there; no padding is to be seen in them.
            use_cache: See there.
            output_attentions: See there.
            output_hidden_states: See there.
            return_dict: See there.
            labels: [B] whole numbers; or [B] numbers for a regression by one label, [B, N] by more; or [B, N]
                numbers from 0 to 1, one for each of several labels.
            training: See there.

        Returns:
            The scores [B, N], before them the loss of each text [B] if labels came, and what was asked for.

        Raises:
            InputError: As `TFGPT2Model.call`; labels that do not fit config.problem_type and num_labels; a
                batch in which the last token cannot be told.
            LengthError: Past and present are more than n_positions.
        """
        self._refuse_untold(input_ids, inputs_embeds, attention_mask)
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
        hidden_states = body.last_hidden_state  # [B, T, D]
        last = self._last_tokens(input_ids, attention_mask, hidden_states)  # [B]
        found = tf.gather(hidden_states, last, axis=1, batch_dims=1)  # [B, D]
        logits = self.score(nan_outside(found, last, sizes(hidden_states)[1]))  # [B, N]
        output = TFSequenceClassifierOutputWithPast(
            loss=None if labels is None else self._losses_of(logits, labels),
            logits=logits,
            past_key_values=body.past_key_values,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
        )
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def hf_compute_loss(self, labels: Any, logits: Any) -> tf.Tensor:
        """Return the loss of each text, [B], for scores [B, N] and labels as of `call`."""
        return self._losses_of(arguments.tensor("logits", logits), labels)  # [B]

    def _losses_of(self, logits: tf.Tensor, given: Any) -> tf.Tensor:
        """Return the loss of each text, [B], in float32 at least."""
        labels: Any = arguments.tensor("labels", given)
        problem_type, exact = self._problem_type(labels), score_dtype(logits.dtype)
        try:
            labels = self._fitted(labels, problem_type, logits, exact)  # [B] or [B, N]
        except InputError as error:
            way_out = (
                "The configuration set it; None lets the labels decide."
                if self.config.problem_type
                else f"It follows from num_labels={self.num_labels} and {labels.dtype.name}; or set "
                "config.problem_type."
            )
            wanted = _WANTED[problem_type]
            raise InputError(f"{error} problem_type={problem_type!r} wants {wanted}. {way_out}") from None
        if problem_type == "single_label_classification":
            return class_losses(logits, labels)  # [B]
        logits = tf.cast(logits, exact)  # [B, N]
        if problem_type == "regression":
            return tf.reduce_mean(tf.square(logits - tf.reshape(labels, tf.shape(logits))), axis=-1)  # [B]
        apart = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)  # [B, N]
        return tf.reduce_mean(apart, axis=-1)  # [B]

    def names_classes(self, name: str, labels: tf.Tensor) -> bool:
        """Tell whether labels name one class for each text."""
        return self._problem_type(labels) == "single_label_classification"

    def _problem_type(self, labels: tf.Tensor) -> str:
        """Return what kind of problem it is."""
        several = "single_label_classification" if labels.dtype.is_integer else "multi_label_classification"
        problem_type = self.config.problem_type or ("regression" if self.num_labels == 1 else several)
        if problem_type not in _WANTED:
            raise InputError(
                f"config.problem_type={problem_type!r} was not understood. Set it to one of "
                f"{', '.join(map(repr, _WANTED))}, or to None to let the labels decide."
            )
        return problem_type

    def _fitted(self, labels: tf.Tensor, problem_type: str, logits: tf.Tensor, exact: Any) -> tf.Tensor:
        """Return labels as one kind of problem wants them, [B] or [B, N]."""
        B, N = sizes(logits)
        if problem_type == "regression":
            return target.values(labels, [B] if N == 1 else [B, N], exact)  # [B] or [B, N]
        if problem_type == "multi_label_classification":
            return target.values(labels, [B, N], exact, shares=True)  # [B, N]
        if N == 1:
            raise InputError(
                "One label leaves nothing to choose. Set num_labels to the number of classes, or "
                "problem_type='regression'."
            )
        return target.classes("labels", labels, [B], N, f"num_labels={N}")  # [B]

    def _refuse_untold(self, input_ids: Any, inputs_embeds: Any, attention_mask: Any) -> None:
        """Refuse a batch in which nothing tells the last token of a row, or a row has none."""
        shape = list(getattr(input_ids if input_ids is not None else inputs_embeds, "shape", ()))
        wanted = 2 if input_ids is not None else 3
        if shape and len(shape) != wanted:
            name = "input_ids" if input_ids is not None else "inputs_embeds"
            axes = "[batch, positions]" if wanted == 2 else f"[batch, positions, {self.config.n_embd}]"
            raise InputError(f"{name} should have the shape {axes}, but it is {shape}.")
        if attention_mask is None and self.config.pad_token_id is None and shape and shape[0] != 1:
            told = shape[0] or "several"
            raise InputError(
                f"Which token is the last in each of {told} rows? Give the attention_mask that the tokenizer "
                "returns, or set model.config.pad_token_id."
            )

    def _last_tokens(self, input_ids: Any, attention_mask: Any, hidden_states: tf.Tensor) -> tf.Tensor:
        """Return the position of the last token of each row, [B]; a row that is all hidden has T, outside."""
        B, T, _ = sizes(hidden_states)
        pad = self.config.pad_token_id
        if attention_mask is not None:
            mask: Any = arguments.tensor("attention_mask", attention_mask)
            shown = tf.cast(tf.not_equal(mask, tf.zeros([], mask.dtype)), tf.int32)  # [B, S] or [B, T, S]
            shown = tf.reshape(shown, [B, -1])[:, -T:]  # [B, T]
            seen = tf.reduce_any(shown == 1, axis=1)  # [B]
            if arguments.is_readable(seen) and not bool(tf.reduce_all(seen)):
                raise InputError("attention_mask hides all of a row, which leaves no last token to read.")
            return tf.where(seen, T - 1 - tf.argmax(shown[:, ::-1], axis=1, output_type=tf.int32), T)  # [B]
        if pad is not None and input_ids is not None:
            padded = tf.cast(tf.equal(arguments.tensor("input_ids", input_ids), pad), tf.int32)  # [B, T]
            return (tf.argmax(padded, axis=1, output_type=tf.int32) - 1) % T  # [B]; first padding, or the end
        if pad is not None:
            self.warn_once(
                "Padding cannot be seen in inputs_embeds, so the last position is read. Pass attention_mask "
                "to read the last token."
            )
        return tf.fill([B], T - 1)  # [B]
