"""Heads that classify: a whole text, or each of its tokens.

Dimensions: B batch, T query positions, D n_embd, N labels (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.torch import arguments, target
from gpt2kit.torch.fresh import unfilled_while_loading
from gpt2kit.torch.loss import class_loss
from gpt2kit.torch.model import GPT2Model
from gpt2kit.torch.outputs import SequenceClassifierOutputWithPast, TokenClassifierOutput
from gpt2kit.torch.pretrained import GPT2PreTrainedModel
from gpt2kit.torch.taps import tap
from gpt2kit.torch.tracing import unseen

__all__ = ["GPT2ForSequenceClassification", "GPT2ForTokenClassification"]

_WANTED = {
    "regression": "one number for each score",
    "single_label_classification": "one class for each row",
    "multi_label_classification": "one number from 0 to 1 for each label",
}


class GPT2ForSequenceClassification(GPT2PreTrainedModel):
    """Score a text by the hidden state of its last token, which has seen all of it.

        logits = score(h[last])

    The loss depends on config.problem_type: "regression" is the mean squared error,
    "single_label_classification" the cross-entropy of one of N labels, "multi_label_classification" that of N
    yes-or-no questions. Where it is None, the first labels decide, and what they decide is kept in the
    configuration: num_labels=1 is a regression, whole numbers are single labels, others several.

    Args:
        config: Sizes and switches, among them num_labels, id2label, problem_type and pad_token_id.

    Source:
        transformers v4.34.0, models/gpt2/modeling_gpt2.py, GPT2ForSequenceClassification.

    Example:
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3, num_labels=5)
        >>> model = GPT2ForSequenceClassification(config).eval()
        >>> ids, mask = torch.tensor([[2, 3, 5], [7, 11, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> model(ids, attention_mask=mask, labels=torch.tensor([4, 0])).logits.shape
        torch.Size([2, 5])
    """

    own_activations = ("logits",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        with unfilled_while_loading():
            self.score = nn.Linear(config.n_embd, config.num_labels, bias=False)
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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | SequenceClassifierOutputWithPast:
        """Score each text.

        Args:
            input_ids: As `GPT2Model.forward`, like all that is not described here. [B, T]
            past_key_values: See there.
            attention_mask: It says which token of each row is the last, whatever side is padded. Without it
                config.pad_token_id does, and without both a batch has to be a single row.
            token_type_ids: See there.
            position_ids: See there.
            head_mask: See there.
            inputs_embeds: See there; no padding is to be seen in them.
            labels: [B] whole numbers; or [B] numbers for a regression by one label, [B, N] by more; or [B, N]
                numbers from 0 to 1, one for each of several labels.
            use_cache: See there.
            output_attentions: See there.
            output_hidden_states: See there.
            return_dict: See there.

        Returns:
            The scores [B, N], before them the loss if labels came, and what was asked for.

        Raises:
            InputError: As `GPT2Model.forward`; labels that do not fit config.problem_type and num_labels; a
                batch in which the last token cannot be told.
            LengthError: Past and present are more than n_positions.
        """
        shape = target.shape_of(self, input_ids, inputs_embeds)
        if len(shape) != 2:
            raise InputError(f"input_ids should have the shape [batch, positions], but it is {list(shape)}.")
        if labels is not None:
            labels = self._checked_labels(labels, shape[0])  # [B] or [B, N]
        self._refuse_untold(attention_mask, *shape)
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        body = self.transformer(
            input_ids,
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
        )
        hidden_states = body.last_hidden_state  # [B, T, D]
        B, T = hidden_states.shape[:2]
        rows = torch.arange(B, device=hidden_states.device)  # [B]
        last = self._last_tokens(input_ids, attention_mask, B, T).to(rows.device)  # [B]
        logits = tap(self, "logits", self.score(hidden_states[rows, last]))  # [B, N]
        output = SequenceClassifierOutputWithPast(
            loss=None if labels is None else self._loss(logits, labels.to(logits.device)),
            logits=logits,
            past_key_values=body.past_key_values,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
        )
        return output if return_dict else output.to_tuple()

    def _checked_labels(self, labels: Tensor, B: int) -> Tensor:
        """Return labels as the kind of problem wants them, which the first ones decide."""
        target.check_tensor("labels", labels)
        N, config = self.num_labels, self.config
        numbers = labels.is_floating_point() or labels.dtype == torch.bool
        several = "multi_label_classification" if numbers else "single_label_classification"
        problem_type = config.problem_type or ("regression" if N == 1 else several)
        if problem_type not in _WANTED:
            raise InputError(
                f"config.problem_type={problem_type!r} was not understood. Set it to one of "
                f"{', '.join(map(repr, _WANTED))}, or to None to let the labels decide."
            )
        try:
            labels = self._fitted(labels, problem_type, B)  # [B] or [B, N]
        except InputError as error:
            way_out = (
                "The configuration or the first labels set it; None lets the next labels decide."
                if config.problem_type
                else f"It follows from num_labels={N} and {labels.dtype}; or set config.problem_type."
            )
            wanted = _WANTED[problem_type]
            raise InputError(f"{error} problem_type={problem_type!r} wants {wanted}. {way_out}") from None
        config.problem_type = problem_type
        return labels

    def _fitted(self, labels: Tensor, problem_type: str, B: int) -> Tensor:
        """Return labels as one kind of problem wants them, [B] or [B, N]."""
        N = self.num_labels
        if problem_type == "regression":
            return target.values(labels, (B,) if N == 1 else (B, N), self.score.weight)  # [B] or [B, N]
        if problem_type == "multi_label_classification":
            return target.values(labels, (B, N), self.score.weight, shares=True)  # [B, N]
        if N == 1:
            raise InputError(
                "One label leaves nothing to choose. Set num_labels to the number of classes, or "
                "problem_type='regression'."
            )
        return target.classes("labels", labels, (B,), N, f"num_labels={N}")  # [B]

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the kind of problem, a scalar in float32 at least."""
        if self.config.problem_type == "single_label_classification":
            return class_loss(logits, labels)  # []
        logits = logits.to(labels.dtype)  # [B, N]
        if self.config.problem_type == "regression":
            return F.mse_loss(logits.reshape(labels.shape), labels)  # []
        return F.binary_cross_entropy_with_logits(logits, labels)  # []

    def _refuse_untold(self, attention_mask: Tensor | None, B: int, T: int) -> None:
        """Refuse a batch in which nothing tells the last token of a row, or a row has none."""
        with unseen():
            if attention_mask is None and self.config.pad_token_id is None and B > 1:
                raise InputError(
                    f"Which token is the last in each of {B} rows? Give the attention_mask that the "
                    "tokenizer returns, or set model.config.pad_token_id."
                )
        if not arguments.is_readable(attention_mask) or attention_mask.dim() != 2:
            return
        if bool((attention_mask[:, -T:] == 0).all(dim=1).any()):
            raise InputError("attention_mask hides all of a row, which leaves no last token to read.")

    def _last_tokens(self, input_ids: Tensor | None, attention_mask: Tensor | None, B: int, T: int) -> Tensor:
        """Return the position of the last token of each row, [B]."""
        if attention_mask is not None:
            shown = attention_mask.reshape(B, -1)[:, -T:] != 0  # [B, T]
            return T - 1 - shown.flip(1).long().argmax(dim=1)  # [B]
        if self.config.pad_token_id is not None and input_ids is not None:
            first_padding = (input_ids == self.config.pad_token_id).long().argmax(dim=1)  # [B]; 0 if none
            return (first_padding - 1) % T  # [B]; what begins with padding ends with text
        if self.config.pad_token_id is not None:
            self._warn_once(
                "Padding cannot be seen in inputs_embeds, so the last position is read. Pass attention_mask "
                "to read the last token."
            )
        return torch.full((B,), T - 1)  # [B]


class GPT2ForTokenClassification(GPT2PreTrainedModel):
    """Score each token by its own hidden state, which has seen what stands before it.

        logits = classifier(dropout(h))

    Args:
        config: Sizes and switches, among them num_labels and id2label. The rate of the dropout is
            classifier_dropout, else hidden_dropout, else 0.1.

    Source:
        transformers v4.34.0, models/gpt2/modeling_gpt2.py, GPT2ForTokenClassification.

    Example:
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3, num_labels=5)
        >>> model = GPT2ForTokenClassification(config).eval()
        >>> model(torch.tensor([[2, 3, 5]]), labels=torch.tensor([[4, -100, 0]])).logits.shape
        torch.Size([1, 3, 5])
    """

    own_activations = ("logits",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        named = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout"))
        self.dropout = nn.Dropout(next((rate for rate in named if rate is not None), 0.1))
        with unfilled_while_loading():
            self.classifier = nn.Linear(config.n_embd, config.num_labels)
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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | TokenClassifierOutput:
        """Score each token.

        Args:
            input_ids: As `GPT2Model.forward`, like all that is not described here. [B, T]
            past_key_values: See there.
            attention_mask: See there.
            token_type_ids: See there.
            position_ids: See there.
            head_mask: See there.
            inputs_embeds: See there.
            labels: The class of each token, or -100 for "do not count". [B, T]
            use_cache: Has the body make a cache, which the output has no place for; off unless asked for.
            output_attentions: See there.
            output_hidden_states: See there.
            return_dict: See there.

        Returns:
            The scores [B, T, N], before them the loss if labels came, and what was asked for.

        Raises:
            InputError: As `GPT2Model.forward`; labels of another shape, or beyond num_labels.
            LengthError: Past and present are more than n_positions.
        """
        if labels is not None:
            shape = target.shape_of(self, input_ids, inputs_embeds)  # [B, T]
            N = self.num_labels
            labels = target.classes("labels", labels, shape, N, f"num_labels={N}")  # [B, T]
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        body = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=bool(use_cache),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = tap(self, "logits", self.classifier(self.dropout(body.last_hidden_state)))  # [B, T, N]
        output = TokenClassifierOutput(
            loss=None if labels is None else class_loss(logits, labels),
            logits=logits,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
        )
        return output if return_dict else output.to_tuple()
