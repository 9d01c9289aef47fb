"""Rules that bar the repetition of runs of tokens.

Dimensions: B rows of text, T tokens so far, E tokens of an encoder's row, V vocabulary, n tokens of a run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import rules
from gpt2kit.generation.rule import check_integer
from gpt2kit.torch.generation.processor import LogitsProcessor

__all__ = ["EncoderNoRepeatNGramLogitsProcessor", "NoRepeatNGramLogitsProcessor"]

_NEVER = -float("inf")


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """Bar the token that would repeat a run of n tokens of the same row."""

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = rules.NoRepeatNGram(ngram_size).ngram_size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the changed scores, [B, V]."""
        n = self.ngram_size
        T = input_ids.shape[1]
        if n > T:
            return scores
        runs = input_ids.unfold(1, n, 1)  # [B, T - n + 1, n]
        return _without_repeats(scores, runs, input_ids[:, T - n + 1 :])  # [B, V]


class EncoderNoRepeatNGramLogitsProcessor(LogitsProcessor):
    """Bar the token that would repeat a run of n tokens of the encoder's text.

    `generate` has no use for it, as GPT-2 has no encoder of its own; with cross-attention, hand it the tokens
    that the encoder read.

    Args:
        encoder_ngram_size: n.
        encoder_input_ids: What the encoder read, [B, E] or [E].
    """

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: Tensor) -> None:
        check_integer("encoder_ngram_size", encoder_ngram_size, 1)
        self.ngram_size = encoder_ngram_size
        self.encoder_input_ids = torch.atleast_2d(encoder_input_ids)  # [B, E]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the changed scores, [B, V]."""
        n = self.ngram_size
        R, T = input_ids.shape
        B, E = self.encoder_input_ids.shape
        if n > E or n > T + 1:
            return scores
        if R % B:
            raise InputError(f"There are {R} rows of text and {B} of the encoder; give one for each prompt.")
        runs = self.encoder_input_ids.to(input_ids.device).unfold(1, n, 1)  # [B, E - n + 1, n]
        runs = runs.repeat_interleave(R // B, dim=0)  # [R, E - n + 1, n]
        return _without_repeats(scores, runs, input_ids[:, T - n + 1 :])  # [R, V]


def _without_repeats(scores: Tensor, runs: Tensor, end: Tensor) -> Tensor:
    """Bar the last token of each run [B, runs, n] whose other tokens are the end of the text [B, n - 1]."""
    repeated = (runs[..., :-1] == end[:, None]).all(dim=-1)  # [B, runs]
    barred = torch.zeros_like(scores).scatter_add_(1, runs[..., -1], repeated.to(scores.dtype))  # [B, V]
    return scores.masked_fill(barred > 0, _NEVER)  # [B, V]
