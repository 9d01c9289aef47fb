"""The scores of the tokens that a generation chose, out of all the scores that it returned.

Dimensions: B texts, R rows of a step (beams of all prompts), V vocabulary, N new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt2kit.errors import InputError

__all__ = ["transition_scores"]


def transition_scores(
    sequences: Tensor,
    scores: Sequence[Tensor],
    beam_indices: Tensor | None = None,
    normalize_logits: bool = False,
) -> Tensor:
    """Return the score of each new token, [B, N]; see `GenerationMixin.compute_transition_scores`.

    Raises:
        InputError: scores that were not kept, or not those of these texts.
    """
    _check(sequences, scores, beam_indices)
    stacked = torch.stack([step.to(sequences.device) for step in scores])  # [N, R, V]
    if normalize_logits:
        stacked = stacked.log_softmax(dim=-1)  # [N, R, V]
    if beam_indices is None:
        rows = torch.arange(stacked.shape[1], device=sequences.device)  # [B]
        beam_indices = rows[:, None].expand(-1, len(scores))  # [B, N]
    longest = int((beam_indices >= 0).sum(dim=-1).max())  # new tokens of the longest text
    beams = beam_indices[:, :longest].to(sequences.device)  # [B, N]
    tokens = sequences[:, sequences.shape[1] - longest :]  # [B, N]
    steps = torch.arange(longest, device=sequences.device)  # [N]
    found = stacked[steps, beams.clamp(min=0), tokens]  # [B, N]
    return found.masked_fill(beams < 0, 0.0)  # [B, N]; nothing after the end of a text


def _check(sequences: Tensor, scores: Sequence[Tensor], beam_indices: Tensor | None) -> None:
    if not scores:
        raise InputError(
            "There are no scores. Generate with output_scores=True and return_dict_in_generate=True, and "
            "pass output.scores."
        )
    texts = len(sequences) if beam_indices is None else len(beam_indices)
    if texts != len(sequences) or (beam_indices is None and len(scores[0]) != len(sequences)):
        raise InputError(
            f"There are {len(sequences)} texts, and scores of {len(scores[0])} rows. After a beam search "
            "pass output.beam_indices too, one row for each text."
        )
