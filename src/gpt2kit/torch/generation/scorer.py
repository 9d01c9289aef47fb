"""The scorers of 4.34's beam searches by hand: the numbers of a search, in the class and order of 4.34.

In 4.34 a scorer also does the work of a step. Here `torch/generation/beams.py` does, and a scorer says how.
Dimensions: B prompts, W beams of each, T tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import Constraint
from gpt2kit.generation.beams import Beams
from gpt2kit.generation.constraints import constraints_of
from gpt2kit.generation.rule import check_integer
from gpt2kit.torch.generation.prompt import Prompt

__all__ = ["BeamScorer", "BeamSearchScorer", "ConstrainedBeamSearchScorer"]


class BeamScorer:
    """Say how a beam search by hand keeps and ranks its texts.

    Args:
        batch_size: Number of prompts.
        num_beams: Beams of each.
        device: Kept; the search runs where its input is.
        length_penalty: Power of the length that a text's log-probability is divided by.
        do_early_stopping: True, False or "never", as `early_stopping` of `generate`.
        num_beam_hyps_to_keep: Texts that are returned for each prompt.
        num_beam_groups: Groups that the beams are divided into.
        max_length: Tokens of a text at most; by default that of the search.
    """

    def __init__(
        self,
        batch_size: int,
        num_beams: int,
        device: torch.device | str | None,
        length_penalty: float = 1.0,
        do_early_stopping: bool | str = False,
        num_beam_hyps_to_keep: int = 1,
        num_beam_groups: int = 1,
        max_length: int | None = None,
    ) -> None:
        for name in ("process", "finalize"):
            if hasattr(self, name):
                raise InputError(
                    f"{type(self).__name__}.{name} would never be called: the search itself keeps the texts. "
                    "Change scores by a LogitsProcessor."
                )
        check_integer("num_beams", num_beams, 2)
        check_integer("num_beam_groups", num_beam_groups, 1)
        if num_beams % num_beam_groups or num_beam_hyps_to_keep > num_beams:
            raise InputError(
                f"`num_beams` ({num_beams}) has to be a multiple of `num_beam_groups` ({num_beam_groups}) "
                f"and at least `num_beam_hyps_to_keep` ({num_beam_hyps_to_keep})."
            )
        self.batch_size = batch_size
        self.num_beams = num_beams
        self.device = device
        self.length_penalty = length_penalty
        self.do_early_stopping = do_early_stopping
        self.num_beam_hyps_to_keep = num_beam_hyps_to_keep
        self.num_beam_groups = num_beam_groups
        self.group_size = num_beams // num_beam_groups
        self.max_length = max_length
        self.constraints: tuple[Constraint, ...] = ()

    @property
    def beams(self) -> Beams:
        """The same numbers as a plan has them."""
        return Beams(
            self.num_beams,
            self.num_beam_groups,
            self.length_penalty,
            self.do_early_stopping,
            self.constraints,
        )

    def prompts_of(self, prompt: Prompt) -> Prompt:
        """Return each prompt once, where it came once for each beam.

        Raises:
            InputError: another number of rows, or beams that begin with different texts.
        """
        W, rows = self.num_beams, len(prompt.ids)
        if self.batch_size * W != rows:
            raise InputError(
                f"Batch dimension of `input_ids` should be {self.batch_size * W}, but is {rows}."
            )
        once = prompt.take(torch.arange(0, rows, W, device=prompt.ids.device))
        again = once.repeat(W)
        for name in ("ids", "mask", "embeds", "position_ids", "token_type_ids"):
            given, wanted = getattr(prompt, name), getattr(again, name)
            if isinstance(given, Tensor) and not torch.equal(given, wanted):
                raise InputError(
                    f"Each prompt has to come {W} times in a row, once for each beam, and not all of {W} "
                    "are equal: input_ids.repeat_interleave(num_beams, dim=0), and so for what comes with it."
                )
        return once

    def check_length(self, max_length: int) -> None:
        """Refuse a length that is not that of the search."""
        if self.max_length not in (None, max_length):
            raise InputError(
                f"The scorer has max_length={self.max_length}, and the search writes up to {max_length} "
                "tokens. Give both the same, or the scorer none."
            )


class BeamSearchScorer(BeamScorer):
    """Say how beam search, beam sampling and groups of beams keep their texts; see `BeamScorer`."""


class ConstrainedBeamSearchScorer(BeamScorer):
    """Say how constrained beam search keeps its texts.

    Args:
        batch_size: See `BeamScorer`, like the rest.
        num_beams: See there.
        constraints: What has to be written.
        device: See there.
        **kwargs: See there; there are no groups.
    """

    def __init__(
        self,
        batch_size: int,
        num_beams: int,
        constraints: Sequence[Constraint],
        device: torch.device | str | None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("num_beam_groups", 1) != 1:
            raise InputError("Constraints do not go with `num_beam_groups`; leave it out.")
        super().__init__(batch_size, num_beams, device, **kwargs)
        self.constraints = constraints_of(constraints, None)
