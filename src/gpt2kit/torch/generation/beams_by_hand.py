"""Beam searches by hand, as 4.34 has them: the caller makes rules, ends and a scorer with the numbers.

Dimensions: B prompts, W beams of each, T tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import GenerationPlan
from gpt2kit.torch.generation.beams import beam_search
from gpt2kit.torch.generation.processor import LogitsProcessorList
from gpt2kit.torch.generation.prompt import Prompt
from gpt2kit.torch.generation.scorer import BeamScorer, ConstrainedBeamSearchScorer
from gpt2kit.torch.generation.search import Search
from gpt2kit.torch.generation.stopping import StoppingCriteriaList

__all__ = ["BeamsByHand"]


class BeamsByHand:
    """Give a language model the beam searches of 4.34 as methods."""

    _search_by_hand: Callable[..., Any]

    @torch.no_grad()
    def beam_search(
        self,
        input_ids: Tensor,
        beam_scorer: BeamScorer,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write on from prompts by ready-made rules and beams.

        Args:
            input_ids: Each prompt once for each of its beams, [B*W, T].
            beam_scorer: The numbers of the search.
            logits_processor: The rules, in order.
            stopping_criteria: What ends the text besides an end token.
            max_length: Tokens at most; by default that of the stopping criteria, or all that fit.
            **kwargs: As of `greedy_search`, of B*W rows where they are of rows; no streamer.
        """
        return self._by_beams(beam_scorer, input_ids, logits_processor, stopping_criteria, max_length, kwargs)

    @torch.no_grad()
    def beam_sample(
        self,
        input_ids: Tensor,
        beam_scorer: BeamScorer,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        logits_warper: LogitsProcessorList | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Draw beams by ready-made rules; otherwise as `beam_search`.

        Args:
            input_ids: Each prompt once for each of its beams, [B*W, T].
            beam_scorer: The numbers of the search.
            logits_processor: The rules, in order.
            stopping_criteria: What ends the text besides an end token.
            logits_warper: The rules of sampling, applied to the sums of the beams.
            max_length: Tokens at most.
            **kwargs: As of `beam_search`.
        """
        return self._by_beams(
            beam_scorer,
            input_ids,
            logits_processor,
            stopping_criteria,
            max_length,
            kwargs,
            True,
            logits_warper,
        )

    def group_beam_search(
        self,
        input_ids: Tensor,
        beam_scorer: BeamScorer,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write on by groups of beams, as many as the scorer says; otherwise as `beam_search`.

        Args:
            input_ids: Each prompt once for each of its beams, [B*W, T].
            beam_scorer: The numbers of the search.
            logits_processor: The rules, in order, a HammingDiversityLogitsProcessor among them.
            stopping_criteria: What ends the text besides an end token.
            max_length: Tokens at most.
            **kwargs: As of `beam_search`.
        """
        return self.beam_search(
            input_ids, beam_scorer, logits_processor, stopping_criteria, max_length, **kwargs
        )

    def constrained_beam_search(
        self,
        input_ids: Tensor,
        constrained_beam_scorer: ConstrainedBeamSearchScorer,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write texts that contain what the scorer's constraints say; otherwise as `beam_search`.

        Args:
            input_ids: Each prompt once for each of its beams, [B*W, T].
            constrained_beam_scorer: The numbers of the search, and the constraints.
            logits_processor: The rules, in order.
            stopping_criteria: What ends the text besides an end token.
            max_length: Tokens at most.
            **kwargs: As of `beam_search`.
        """
        return self.beam_search(
            input_ids, constrained_beam_scorer, logits_processor, stopping_criteria, max_length, **kwargs
        )

    def _by_beams(
        self,
        scorer: BeamScorer,
        input_ids: Tensor,
        processors: LogitsProcessorList | None,
        criteria: StoppingCriteriaList | None,
        max_length: int | None,
        kwargs: dict[str, Any],
        sampled: bool = False,
        warpers: LogitsProcessorList | None = None,
    ) -> Any:
        if not isinstance(scorer, BeamScorer):
            raise InputError(
                f"A scorer of gpt2kit is wanted, such as BeamSearchScorer, but {type(scorer).__name__} came."
            )
        if kwargs.get("streamer") is not None:
            raise InputError("`streamer` cannot be used with beam search: no token is sure before the end.")
        run = partial(_run, warpers=LogitsProcessorList(warpers or []), sampled=sampled, scorer=scorer)
        rules = LogitsProcessorList(processors or [])
        return self._search_by_hand(run, sampled, input_ids, rules, criteria, max_length, kwargs, scorer)


def _run(
    model: Any,
    prompt: Prompt,
    how: Search,
    plan: GenerationPlan,
    warpers: LogitsProcessorList,
    sampled: bool,
    scorer: BeamScorer,
) -> Any:
    """Run a search whose parts came ready-made."""
    scorer.check_length(how.max_length)
    how = replace(how, warpers=warpers, own_code=how.own_code or bool(warpers))
    return beam_search(model, prompt, how, replace(plan, sampled=sampled))
