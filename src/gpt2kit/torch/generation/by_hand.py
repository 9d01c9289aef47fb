"""Searches by hand, as 4.34 has them: the caller makes the rules and the ends, and `generate` is not asked.

Dimensions: B prompts, T tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpt2kit.generation import GenerationConfig, GenerationPlan
from gpt2kit.generation.way import Contrast
from gpt2kit.torch.generation.beams_by_hand import BeamsByHand
from gpt2kit.torch.generation.contrastive import contrastive_search
from gpt2kit.torch.generation.parts import criteria_of, plan_of, record_of, refuse
from gpt2kit.torch.generation.processor import LogitsProcessorList
from gpt2kit.torch.generation.prompt import Prompt
from gpt2kit.torch.generation.scorer import BeamScorer
from gpt2kit.torch.generation.search import Search, search, streaming
from gpt2kit.torch.generation.stopping import MaxLengthCriteria, StoppingCriteriaList

__all__ = ["SearchByHand"]

# The options that searches by hand read; the rest is made by the caller.
_OPTIONS_BY_HAND = (
    "pad_token_id",
    "eos_token_id",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "return_dict_in_generate",
    "use_cache",
)


def _token_by_token(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan) -> Any:
    return search(model, prompt, how)


class SearchByHand(BeamsByHand):
    """Give a language model the single ways of decoding as methods."""

    config: Any
    generation_config: GenerationConfig
    _check_model_kwargs: Callable[[dict[str, Any]], None]
    _prompt: Callable[..., Prompt]

    def greedy_search(
        self,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write on from a prompt by ready-made rules, taking the likeliest token.

        Args:
            input_ids: The prompt's tokens, [B, T].
            logits_processor: The rules, in order.
            stopping_criteria: What ends the text besides an end token.
            max_length: Tokens at most; by default that of the stopping criteria, or all that fit.
            **kwargs: `pad_token_id`, `eos_token_id`, `output_scores`, `output_attentions`,
                `output_hidden_states`, `return_dict_in_generate` (by default those of `generation_config`),
                `use_cache`, `streamer`, and arguments of the model.
        """
        processors = LogitsProcessorList(logits_processor or [])
        return self._search_by_hand(
            _token_by_token, False, input_ids, processors, stopping_criteria, max_length, kwargs
        )

    def sample(
        self,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        logits_warper: LogitsProcessorList | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write on from a prompt by ready-made rules, drawing each token; otherwise as `greedy_search`.

        Args:
            input_ids: The prompt's tokens, [B, T].
            logits_processor: The rules, in order.
            stopping_criteria: What ends the text besides an end token.
            logits_warper: More rules, which follow.
            max_length: Tokens at most.
            **kwargs: As of `greedy_search`.
        """
        processors = LogitsProcessorList([*(logits_processor or []), *(logits_warper or [])])
        return self._search_by_hand(
            _token_by_token, True, input_ids, processors, stopping_criteria, max_length, kwargs
        )

    @torch.no_grad()
    def contrastive_search(
        self,
        input_ids: Tensor,
        top_k: int = 1,
        penalty_alpha: float = 0,
        logits_processor: LogitsProcessorList | None = None,
        logits_warper: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        sequential: bool | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write on from a prompt by ready-made rules and contrastive search; otherwise as `greedy_search`.

        Args:
            input_ids: The prompt's tokens, [B, T].
            top_k: Candidates of a step.
            penalty_alpha: How much resemblance counts, from 0 to 1.
            logits_processor: The rules, in order.
            logits_warper: More rules, which follow.
            stopping_criteria: What ends the text besides an end token.
            sequential: Whether candidates are read one after the other; by default `low_memory` of
                `generation_config`.
            max_length: Tokens at most.
            **kwargs: As of `greedy_search`.
        """
        one_by_one = self.generation_config.low_memory if sequential is None else sequential
        contrast = Contrast(top_k, penalty_alpha, bool(one_by_one))
        contrast.check(self.config.vocab_size, kwargs.get("use_cache") is not False)

        def run(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan) -> Any:
            return contrastive_search(model, prompt, how, contrast=contrast)

        processors = LogitsProcessorList([*(logits_processor or []), *(logits_warper or [])])
        return self._search_by_hand(run, False, input_ids, processors, stopping_criteria, max_length, kwargs)

    def _search_by_hand(
        self,
        run: Callable[[Any, Prompt, Search, GenerationPlan], Any],
        sampled: bool,
        input_ids: Tensor,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList | None,
        max_length: int | None,
        kwargs: dict[str, Any],
        scorer: BeamScorer | None = None,
    ) -> Any:
        """Run a search whose rules the caller has made; options add ends, padding and what to keep."""
        streamer = kwargs.pop("streamer", None)
        with streaming(streamer):
            refuse(
                kwargs.pop("synced_gpus", None),
                "synced_gpus",
                "a generation runs in one process. Leave it out",
            )
            model_kwargs = {name: value for name, value in kwargs.items() if name not in _OPTIONS_BY_HAND}
            self._check_model_kwargs(model_kwargs)
            config = GenerationConfig(max_length=None, num_return_sequences=1)
            for name in _OPTIONS_BY_HAND:
                default = getattr(self.generation_config, name)
                setattr(config, name, default if kwargs.get(name) is None else kwargs[name])
            given = StoppingCriteriaList(criteria or [])
            config.max_length = given.max_length if max_length is None else max_length
            prompt = self._prompt(input_ids, model_kwargs, config)
            if scorer is not None:
                prompt = scorer.prompts_of(prompt)
            plan = plan_of(self, config, prompt, max_length_given=True)
            if scorer is not None:
                plan = replace(plan, beams=scorer.beams, returns=scorer.num_beam_hyps_to_keep)
            others = [criterion for criterion in given if not isinstance(criterion, MaxLengthCriteria)]
            how = Search(
                max_length=plan.max_length,
                processors=processors,
                sampled=sampled,
                criteria=criteria_of(plan, None, others),
                pad_token_id=plan.pad_token_id,
                use_cache=plan.use_cache,
                record=record_of(config),
                streamer=streamer,
                own_code=bool(processors or others),
            )
            return run(self, prompt, how, plan)
