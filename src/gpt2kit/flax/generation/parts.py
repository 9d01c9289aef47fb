"""The parts of a search, made from a plan: what changes the scores, what ends the text; what is refused.

Dimensions: B prompts, T tokens of a prompt (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt2kit.errors import InputError
from gpt2kit.flax.generation.logits import REFUSED, FlaxLogitNormalization, Setting, processor_of
from gpt2kit.flax.generation.processor import FlaxLogitsProcessorList
from gpt2kit.flax.generation.program import fixed
from gpt2kit.flax.generation.prompt import Prompt
from gpt2kit.flax.generation.search import Ends
from gpt2kit.generation import GenerationConfig, GenerationMode, GenerationPlan, make_plan
from gpt2kit.generation.mode import choose_mode
from gpt2kit.generation.stops import EosTokens, MaxLength, MaxTime, Stop, StopStrings

__all__ = [
    "ELSEWHERE",
    "REFUSED_MODES",
    "REFUSED_STOPS",
    "SERVED_STOPS",
    "ends_of",
    "plan_of",
    "processors_of",
    "refuse_mode",
    "refuse_unserved",
    "warpers_of",
]

ELSEWHERE = "GPT2LMHeadModel of the PyTorch room does it"

# Ways of decoding that one program of fixed shapes does not serve, and the way out.
REFUSED_MODES: dict[GenerationMode, str] = {
    GenerationMode.GROUP_BEAM_SEARCH: f"leave out num_beam_groups, or: {ELSEWHERE}",
    GenerationMode.CONSTRAINED_BEAM_SEARCH: f"leave out force_words_ids and constraints, or: {ELSEWHERE}",
    GenerationMode.CONTRASTIVE_SEARCH: f"leave out penalty_alpha, or: {ELSEWHERE}",
    GenerationMode.ASSISTED_GENERATION: f"leave out prompt_lookup_num_tokens, or: {ELSEWHERE}",
}
SERVED_STOPS: tuple[type[Stop], ...] = (MaxLength, EosTokens)
# Why a program cannot look for these ends, and the way out.
REFUSED_STOPS: dict[type[Stop], str] = {
    MaxTime: "a compiled program has no clock. Bound the text by max_new_tokens",
    StopStrings: "a compiled program sees tokens, not text. Pass eos_token_id, or cut the text afterwards",
}
# What would be returned, were there a place for it in 4.34's Flax outputs.
_RECORDED = ("output_scores", "output_attentions", "output_hidden_states")


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
        n_layer=model.config.n_layer,
        tied=model.config.tie_word_embeddings,
        **more,
    )
    prompt.check_places(plan.max_new_tokens, plan.n_positions)
    return plan


def refuse_mode(config: GenerationConfig) -> None:
    """Refuse a way of decoding that one program of fixed shapes cannot take.

    Raises:
        InputError: the way and the way out.
    """
    mode = choose_mode(config)
    if mode in REFUSED_MODES:
        raise _refusal(f"{mode} is not there", REFUSED_MODES[mode])


def refuse_unserved(plan: GenerationPlan, config: GenerationConfig, prompt: Prompt) -> None:
    """Refuse what a plan asks for and one program of fixed shapes cannot do.

    Raises:
        InputError: the option by its name, and the way out.
    """
    for rule in plan.rules:
        if type(rule) in REFUSED:
            raise _refusal(f"`{rule.option}` cannot be followed", REFUSED[type(rule)])
    for stop in plan.stops:
        if type(stop) in REFUSED_STOPS:
            raise _refusal(f"`{stop.option}` cannot be followed", REFUSED_STOPS[type(stop)])
    if plan.dola:
        raise _refusal("`dola_layers` is not there", f"leave it out, or: {ELSEWHERE}")
    for name in _RECORDED:
        if getattr(config, name):
            raise _refusal(
                f"`{name}` has no place in what comes back",
                f"call the model on the sequences, or: {ELSEWHERE}",
            )
    if prompt.embeds is not None and not plan.use_cache:
        raise _refusal("inputs_embeds do not go with `use_cache=False`", "leave out one of them")


def _refusal(what: str, way_out: str) -> InputError:
    return InputError(f"In the Flax room {what}: {way_out}.")


def processors_of(plan: GenerationPlan, prompt: Prompt, own: Sequence[Any]) -> FlaxLogitsProcessorList:
    """Return the rules of the plan with the user's own behind them, as in 4.34."""
    setting = Setting(prompt.ids, plan.prompt_length)
    made = [processor_of(rule, setting) for rule in plan.processors]
    _refuse_twice(made, own)
    normalize = [FlaxLogitNormalization()] if plan.renormalize else []
    return FlaxLogitsProcessorList([*made, *map(fixed, own), *normalize])


def warpers_of(plan: GenerationPlan, prompt: Prompt) -> FlaxLogitsProcessorList:
    """Return the rules of sampling; none where nothing is drawn."""
    setting = Setting(prompt.ids, plan.prompt_length)
    normalize = [FlaxLogitNormalization()] if plan.renormalize and plan.sampled else []
    return FlaxLogitsProcessorList([*(processor_of(rule, setting) for rule in plan.warpers), *normalize])


def ends_of(plan: GenerationPlan) -> Ends:
    """Return what ends a text."""
    pad = 0 if plan.pad_token_id is None else plan.pad_token_id  # without one, no row ends before the others
    return Ends(plan.max_length, pad, np.array(plan.eos_token_ids, np.int32))


def _refuse_twice(made: Sequence[Any], own: Sequence[Any]) -> None:
    if not isinstance(own, Sequence):
        raise InputError(
            f"A list of each logits processor is wanted, but {type(own).__name__} came. Put it into a list."
        )
    for mine in made:
        for yours in own:
            if type(mine) is type(yours):
                raise InputError(
                    f"A logits processor of type {type(yours).__name__} was passed, but the options of this "
                    "call already make one. Give its numbers as options, or leave those options out."
                )
