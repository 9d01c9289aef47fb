"""The parts of a search, made from a plan: what changes the scores, what ends the text, what is kept.

Dimensions: B prompts, T tokens of a prompt (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt2kit.errors import InputError
from gpt2kit.generation import GenerationConfig, GenerationPlan, make_plan
from gpt2kit.generation.stops import EosTokens, StopStrings
from gpt2kit.torch.generation.logits import LogitNormalization, LogitsProcessorList, processor_of
from gpt2kit.torch.generation.processor import Setting
from gpt2kit.torch.generation.prompt import Prompt
from gpt2kit.torch.generation.record import Record
from gpt2kit.torch.generation.stopping import (
    CRITERION_OF,
    EosTokenCriteria,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

__all__ = ["criteria_of", "plan_of", "processors_of", "record_of", "refuse", "warpers_of"]


def plan_of(model: Any, config: GenerationConfig, prompt: Prompt, **more: Any) -> GenerationPlan:
    """Return what a model will do with a prompt, whose places are checked too.

    Args:
        model: The language model.
        config: The options.
        prompt: What the texts begin with.
        **more: What else `make_plan` shall know.
    """
    plan = make_plan(
        config,
        prompt_length=prompt.ids.shape[1],
        batch_size=prompt.ids.shape[0],
        prompt_positions=prompt.positions,
        n_positions=model.config.n_positions,
        vocab_size=model.config.vocab_size,
        **more,
    )
    prompt.check_places(plan.max_new_tokens, plan.n_positions)
    return plan


def processors_of(plan: GenerationPlan, setting: Setting, own: Sequence[Any]) -> LogitsProcessorList:
    """Return the rules of the plan with the user's own behind them, as in 4.34."""
    made = LogitsProcessorList(processor_of(rule, setting) for rule in plan.processors)
    _refuse_twice(made, own, "logits processor")
    normalize = [LogitNormalization()] if plan.renormalize else []
    return LogitsProcessorList([*made, *own, *normalize])


def warpers_of(plan: GenerationPlan, setting: Setting) -> LogitsProcessorList:
    """Return the rules of sampling; none where nothing is drawn."""
    normalize = [LogitNormalization()] if plan.renormalize and plan.sampled else []
    return LogitsProcessorList([*(processor_of(rule, setting) for rule in plan.warpers), *normalize])


def criteria_of(plan: GenerationPlan, tokenizer: Any, own: Sequence[Any]) -> StoppingCriteriaList:
    """Return what ends the text before its full length: the plan's stops, then the user's own criteria."""
    if tokenizer is None and any(isinstance(stop, StopStrings) for stop in plan.stops):
        raise InputError(
            "`stop_strings` are compared with text: pass the tokenizer too, generate(..., tokenizer=...)."
        )
    stops = [
        stop for stop in plan.stops if plan.beams is None or not isinstance(stop, EosTokens)
    ]  # beams see to it
    made = [CRITERION_OF[type(stop)](stop, tokenizer, plan.prompt_length) for stop in stops]
    # An end token is an option of its own in 4.34, so a criterion of that type is no second one.
    _refuse_twice([c for c in made if not isinstance(c, EosTokenCriteria)], own, "stopping criterion")
    return StoppingCriteriaList([c for c in made if not isinstance(c, MaxLengthCriteria)] + list(own))


def _refuse_twice(made: Sequence[Any], own: Sequence[Any], what: str) -> None:
    if not isinstance(own, Sequence):
        raise InputError(
            f"A list of each {what} is wanted, but {type(own).__name__} came. Put it into a list."
        )
    for mine in made:
        for yours in own:
            if type(mine) is type(yours):
                raise InputError(
                    f"A {what} of type {type(yours).__name__} was passed, but the options of this call "
                    "already make "
                    "one. Give its numbers as options, or leave those options out."
                )


def record_of(config: GenerationConfig) -> Record | None:
    """Return empty places for what the options ask to keep."""
    if not config.return_dict_in_generate:
        return None
    return Record(
        scores=[] if config.output_scores else None,
        attentions=[] if config.output_attentions else None,
        hidden_states=[] if config.output_hidden_states else None,
    )


def refuse(value: object, name: str, why: str) -> None:
    """Refuse an argument that came, and say why."""
    if value is not None and value is not False:
        raise InputError(f"`{name}` cannot be honoured: {why}.")
