"""Classifier-free guidance: away from what the model would say without the prompt, or after another one.

    scores = scale (log p(v | prompt, text) - log p(v | other, text)) + log p(v | other, text)

Dimensions: B prompts, R rows of text (several for each prompt where there are beams), S tokens so far,
n tokens of the other context, V vocabulary.

Source:
    Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance", equation 7.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import rules
from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.generation.processor import LogitsProcessor, Setting

__all__ = ["UnbatchedClassifierFreeGuidanceLogitsProcessor", "guided"]


class UnbatchedClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Weigh the scores against those that the same text gets after another prompt.

    The answer depends on the arguments of the call alone: keys and values are kept from call to call, but
    only those whose tokens a row still begins with are used. So rows may be reordered (beams), and a text
    may be taken back (assisted decoding).

    Args:
        guidance_scale: 1 changes nothing, more leads away from the other context, 0 gives its own scores.
        model: What computes the other scores; usually the model that writes.
        unconditional_ids: The other prompt, [B, n]; by default the last token of the prompt.
        unconditional_attention_mask: 0 where that is padding, [B, n].
        use_cache: Whether keys and values are kept.
    """

    knows_rows = True

    def __init__(
        self,
        guidance_scale: float,
        model: Any,
        unconditional_ids: Tensor | None = None,
        unconditional_attention_mask: Tensor | None = None,
        use_cache: bool | None = True,
    ) -> None:
        self.guidance_scale = rules.Guidance(guidance_scale).guidance_scale
        self.model = model
        self.unconditional_ids = unconditional_ids
        self.unconditional_attention_mask = unconditional_attention_mask
        self.use_cache = use_cache
        self._prompt_length: int | None = None
        self._past: GPT2Cache | None = None
        self._read: Tensor | None = None  # the tokens that the past holds, [R, n]; -1 for padding

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return log-probabilities, led away from the other context, [R, V]."""
        scores = scores.log_softmax(dim=-1)  # [R, V]
        if self.guidance_scale == 1:
            return scores
        if self._prompt_length is None:
            self._prompt_length = input_ids.shape[1]
        context, mask = self._context(input_ids, self._prompt_length)  # [R, n] each
        other = self._logits(context, mask).log_softmax(dim=-1)  # [R, V]
        return self.guidance_scale * (scores - other) + other  # [R, V]

    def _context(self, input_ids: Tensor, prompt_length: int) -> tuple[Tensor, Tensor | None]:
        """Return the other prompt with the text behind it, and its mask, [R, n] each."""
        text = input_ids[:, prompt_length:]  # [R, new]
        ids, mask = self.unconditional_ids, self.unconditional_attention_mask
        if ids is None:
            ids, mask = input_ids[:, prompt_length - 1 : prompt_length], None  # [R, 1]
        R, B = len(input_ids), len(ids)
        if R % B:
            raise InputError(
                f"Guidance has {B} other prompt(s) for {R} row(s) of text. Give one for each prompt."
            )
        context = torch.cat((ids.repeat_interleave(R // B, dim=0), text), dim=1)  # [R, n]
        if mask is not None:
            mask = torch.cat(
                (mask.repeat_interleave(R // B, dim=0), mask.new_ones(text.shape)), dim=1
            )  # [R, n]
        return context, mask

    def _logits(self, context: Tensor, mask: Tensor | None) -> Tensor:
        """Return the model's scores after a context [R, n], as [R, V]."""
        past = self._kept(context, mask) if self.use_cache else None
        seen = 0 if past is None else past.get_seq_length()
        outputs = self.model(
            context[:, seen:],  # [R, n - seen]
            attention_mask=mask,
            past_key_values=past,
            use_cache=self.use_cache,
            return_dict=True,
            logits_to_keep=1,
        )
        if self.use_cache and outputs.past_key_values is not None:
            self._past = GPT2Cache.from_legacy(outputs.past_key_values)
            self._read = context if mask is None else context.masked_fill(mask == 0, -1)  # [R, n]
        logits: Tensor = outputs.logits[:, -1, :]  # [R, V]
        return logits

    def _kept(self, context: Tensor, mask: Tensor | None) -> GPT2Cache | None:
        """Return the keys and values of what each row begins with, as far as they were computed before."""
        if self._past is None or self._read is None:
            return None
        tokens = context if mask is None else context.masked_fill(mask == 0, -1)  # [R, n]
        most = min(tokens.shape[1] - 1, self._read.shape[1])  # one token at least is read
        same = tokens[:, None, :most] == self._read[None, :, :most]  # [R, R', most]
        lengths, rows = same.long().cumprod(dim=-1).sum(dim=-1).max(dim=1)  # [R] each
        length = int(lengths.min())
        if length == 0:
            return None
        if len(rows) != len(self._read) or rows.tolist() != list(range(len(rows))):
            self._past = self._past.reorder(rows)
        return self._past.rewind(length)


def guided(rule: rules.Guidance, at: Setting) -> UnbatchedClassifierFreeGuidanceLogitsProcessor:
    """Return the code of the rule of guidance."""
    ids, mask = (None, None) if at.negative is None else (at.negative.ids, at.negative.mask)
    return UnbatchedClassifierFreeGuidanceLogitsProcessor(
        rule.guidance_scale, at.model, ids, mask, at.use_cache
    )
