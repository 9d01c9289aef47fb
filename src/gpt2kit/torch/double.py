"""Two heads on one body: the next token, and the right one of several continuations.

Dimensions: B batch, C choices, T positions, D n_embd, V vocabulary (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.torch import target
from gpt2kit.torch.fresh import unfilled_while_loading
from gpt2kit.torch.language import LanguageHead, check_logits_to_keep
from gpt2kit.torch.layers import Unembedding
from gpt2kit.torch.loss import check_chunk_size, class_loss
from gpt2kit.torch.model import GPT2Model
from gpt2kit.torch.outputs import GPT2DoubleHeadsModelOutput
from gpt2kit.torch.pretrained import GPT2PreTrainedModel
from gpt2kit.torch.summary import SequenceSummary, check_summary_type
from gpt2kit.torch.taps import tap

__all__ = ["GPT2DoubleHeadsModel"]


class GPT2DoubleHeadsModel(LanguageHead, GPT2PreTrainedModel):
    """Predict the next token, and score each of several choices by one vector of its text.

        logits = h @ wte.T        mc_logits = summary(h)        mc_loss = -log softmax(mc_logits)[mc_labels]

    Args:
        config: Sizes and switches. The `summary_*` settings are those of the second head
            (`SequenceSummary`), and num_labels becomes 1: a choice has one score.

    Source:
        Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.3;
        transformers v4.34.0, models/gpt2/modeling_gpt2.py, GPT2DoubleHeadsModel.

    Example:
        >>> import torch
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> model = GPT2DoubleHeadsModel(config).eval()
        >>> choices = torch.tensor([[[2, 3, 5, 7], [2, 3, 11, 0]]])  # one question, two answers of 4 and 3
        >>> output = model(choices, mc_token_ids=torch.tensor([[3, 2]]), mc_labels=torch.tensor([1]))
        >>> output.logits.shape, output.mc_logits.shape
        (torch.Size([1, 2, 4, 101]), torch.Size([1, 2]))
    """

    own_activations = ("logits", "mc_logits")

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        check_summary_type(config)
        config.num_labels = 1
        self.transformer = GPT2Model(config)
        with unfilled_while_loading():
            self.lm_head = Unembedding(config.n_embd, config.vocab_size, bias=False)
        self.multiple_choice_head = SequenceSummary(config)
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
        mc_token_ids: Tensor | None = None,
        labels: Tensor | None = None,
        mc_labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        loss_chunk_size: int = 0,
    ) -> tuple[Any, ...] | GPT2DoubleHeadsModelOutput:
        """Score every next token, and every choice.

        Arguments that are not listed are those of `GPT2Model.forward`.

        Args:
            input_ids: The choices of each question, [B, C, T], and with them attention_mask, token_type_ids
                and position_ids; or those of a single one, [C, T].
            past_key_values: See there.
            attention_mask: See there.
            token_type_ids: See there.
            position_ids: See there.
            head_mask: See there.
            inputs_embeds: Those of a single question, [C, T, D].
            mc_token_ids: The position in each choice that its score is read from, usually that of the last
                token before the padding, [B, C] or [C]. By default the last position.
            labels: For the next tokens, usually input_ids again; -100 counts for nothing. [B, C, T] or [C, T]
            mc_labels: The number of the right choice, [B], or [] for a single question.
            use_cache: See there.
            output_attentions: See there.
            output_hidden_states: See there.
            return_dict: See there.
            logits_to_keep: Make logits for only the last so many positions; 0 makes all.
            loss_chunk_size: As `GPT2LMHeadModel.forward`.

        Returns:
            The logits [B, C, T, V] and the scores of the choices [B, C], before them the losses whose labels
            came, and what was asked for.

        Raises:
            InputError: As `GPT2Model.forward`; labels of another shape or out of range, or mc_token_ids
                beyond the sequence.
            LengthError: Past and present are more than n_positions.
        """
        check_logits_to_keep(logits_to_keep, labels)
        check_chunk_size(loss_chunk_size, labels)
        shape = target.shape_of(self, input_ids, inputs_embeds)  # [B, C, T] or [C, T]
        if labels is not None:
            labels = target.tokens(labels, shape, self.config.vocab_size)  # [B, C, T]
        if mc_token_ids is not None:
            mc_token_ids = self._checked_places(mc_token_ids, shape)  # [B, C]
        if mc_labels is not None:
            mc_labels = self._checked_choices(mc_labels, shape[:-1])  # [B]
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
        hidden_states = body.last_hidden_state  # [B, C, T, D]
        logits, loss = self._scored(hidden_states, labels, logits_to_keep, loss_chunk_size)  # [B, C, T, V]
        mc_logits = self.multiple_choice_head(hidden_states, mc_token_ids).squeeze(-1)  # [B, C]
        mc_logits = tap(self, "mc_logits", mc_logits)  # [B, C]
        output = GPT2DoubleHeadsModelOutput(
            loss=loss,
            mc_loss=None if mc_labels is None else class_loss(mc_logits, mc_labels),
            logits=logits,
            mc_logits=mc_logits,
            past_key_values=body.past_key_values,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
        )
        return output if return_dict else output.to_tuple()

    def _checked_places(self, mc_token_ids: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the positions that are read, [B, C], and say so if the summary reads another one."""
        if (summary_type := self.multiple_choice_head.summary_type) != "cls_index":
            self._warn_once(
                f"mc_token_ids are not read, because summary_type={summary_type!r}. Set "
                "config.summary_type='cls_index' before the model is built to have them read."
            )
        return target.places("mc_token_ids", mc_token_ids, shape[:-1], shape[-1])

    def _checked_choices(self, mc_labels: Tensor, scored: Sequence[int]) -> Tensor:
        """Return the right choice of each question, [B].

        A summary that is a vector, because nothing maps it to one score, makes its entries the choices.
        """
        width = self.multiple_choice_head.out_features
        scored = scored if width == 1 else (*scored, width)
        if not scored:
            raise InputError("mc_labels came for a single text. Give the choices as input_ids of [C, T].")
        *questions, C = scored
        return target.classes("mc_labels", mc_labels, questions, C, "{} choices")
