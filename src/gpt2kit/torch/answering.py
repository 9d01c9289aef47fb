"""The head that finds the answer to a question: where it starts in the text, and where it ends.

Dimensions: B batch, T positions, D n_embd (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.torch import arguments, target
from gpt2kit.torch.fresh import unfilled_while_loading
from gpt2kit.torch.loss import class_loss
from gpt2kit.torch.model import GPT2Model
from gpt2kit.torch.outputs import QuestionAnsweringModelOutput
from gpt2kit.torch.pretrained import GPT2PreTrainedModel
from gpt2kit.torch.taps import tap

__all__ = ["GPT2ForQuestionAnswering"]


class GPT2ForQuestionAnswering(GPT2PreTrainedModel):
    """Score each position as the start and as the end of the answer.

        start_logits, end_logits = qa_outputs(h)

    Args:
        config: Sizes and switches.

    Source:
        transformers v4.34.0, models/gpt2/modeling_gpt2.py, GPT2ForQuestionAnswering.

    Example:
        >>> import torch
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> model = GPT2ForQuestionAnswering(config).eval()
        >>> start, end = torch.tensor([1]), torch.tensor([2])
        >>> model(torch.tensor([[2, 3, 5]]), start_positions=start, end_positions=end).start_logits.shape
        torch.Size([1, 3])
    """

    own_activations = ("logits",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        with unfilled_while_loading():
            self.qa_outputs = nn.Linear(config.n_embd, 2)  # start and end
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Any, ...] | QuestionAnsweringModelOutput:
        """Score each position as start and as end.

        Args:
            input_ids: Question and text as one sequence, [B, T]; as `GPT2Model.forward`, like all that is not
                described here.
            attention_mask: See there.
            token_type_ids: See there.
            position_ids: See there.
            head_mask: See there.
            inputs_embeds: See there.
            start_positions: Where each answer starts, [B]. One beyond the sequence, which was cut off, counts
                for nothing; one below 0 counts as 0.
            end_positions: Where it ends, [B]; likewise.
            output_attentions: See there.
            output_hidden_states: See there.
            return_dict: See there.

        Returns:
            The scores of start and end, [B, T] each, before them the loss if both positions came, and what
            was asked for.

        Raises:
            InputError: As `GPT2Model.forward`; one of the positions alone, of another shape, or no whole
                numbers.
            LengthError: More positions than n_positions.
        """
        spans = None
        if start_positions is not None or end_positions is not None:
            shape = target.shape_of(self, input_ids, inputs_embeds)  # [B, T]
            spans = self._checked_spans(start_positions, end_positions, shape)  # [B] each
        return_dict = self.config.use_return_dict if return_dict is None else return_dict
        body = self.transformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = tap(self, "logits", self.qa_outputs(body.last_hidden_state))  # [B, T, 2]
        start_logits, end_logits = logits.unbind(-1)  # [B, T] each
        output = QuestionAnsweringModelOutput(
            loss=None if spans is None else span_loss(start_logits, end_logits, *spans),
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            hidden_states=body.hidden_states,
            attentions=body.attentions,
        )
        return output if return_dict else output.to_tuple()

    def _checked_spans(
        self, start_positions: Tensor | None, end_positions: Tensor | None, shape: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return start and end of each answer, [B] each."""
        if start_positions is None or end_positions is None:
            given, missing = ("start", "end") if end_positions is None else ("end", "start")
            raise InputError(
                f"{given}_positions came without {missing}_positions, and the loss needs both ends of a span."
            )
        start = target.positions("start_positions", start_positions, shape[:-1])  # [B]
        end = target.positions("end_positions", end_positions, shape[:-1])  # [B]
        if any(arguments.is_readable(ends) and bool((ends < 0).any()) for ends in (start, end)):
            self._warn_once(
                "A position below 0 counts as position 0, as in transformers. To leave a span out of the "
                "loss give a position beyond the sequence."
            )
        return start, end


def span_loss(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the mean of both cross-entropies, a scalar; [B, T] twice and [B] twice."""
    T = start_logits.size(-1)
    start_loss = class_loss(start_logits, start.clamp(0, T), ignored=T)  # []
    end_loss = class_loss(end_logits, end.clamp(0, T), ignored=T)  # []
    return (start_loss + end_loss) / 2  # []
