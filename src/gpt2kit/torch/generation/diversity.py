"""Diversity between groups of beams: a token costs more for each earlier group that has just chosen it.

Dimensions: B prompts, W beams of a prompt, U of them in a group, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2kit.generation import rules
from gpt2kit.torch.generation.processor import LogitsProcessor

__all__ = ["HammingDiversityLogitsProcessor"]


class HammingDiversityLogitsProcessor(LogitsProcessor):
    """Lower the score of a token by the penalty for each beam of an earlier group that has just chosen it.

    Args:
        diversity_penalty: What each of those beams costs.
        num_beams: Beams of a prompt, W.
        num_beam_groups: Groups that they are divided into.

    Source:
        Vijayakumar et al. 2016, "Diverse Beam Search", section 3, with the Hamming diversity of section 5.
    """

    def __init__(self, diversity_penalty: float, num_beams: int, num_beam_groups: int) -> None:
        rule = rules.HammingDiversity(diversity_penalty, num_beams, num_beam_groups)
        self._diversity_penalty = rule.diversity_penalty
        self._num_beams = rule.num_beams
        self._num_sub_beams = rule.num_beams // rule.num_beam_groups

    def __call__(  # type: ignore[override]  # the loop of a group beam search passes more
        self, input_ids: Tensor, scores: Tensor, current_tokens: Tensor, beam_group_idx: int
    ) -> Tensor:
        """Return the changed scores of one group.

        Args:
            input_ids: The texts of this group's beams, [B*U, T].
            scores: Their scores, [B*U, V].
            current_tokens: What the beams of earlier groups have chosen in this step, [B*W].
            beam_group_idx: Number of the group.
        """
        earlier = current_tokens.view(-1, self._num_beams)[
            :, : beam_group_idx * self._num_sub_beams
        ]  # [B, ..]
        ones = torch.ones_like(earlier, dtype=scores.dtype)  # [B, beams of earlier groups]
        chosen = scores.new_zeros(len(earlier), scores.size(-1)).scatter_add_(1, earlier, ones)  # [B, V]
        return scores - self._diversity_penalty * chosen.repeat_interleave(
            self._num_sub_beams, dim=0
        )  # [B*U, V]
