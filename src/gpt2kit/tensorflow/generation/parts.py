"""The parts of a search, made from a plan: what changes the scores, what ends the text; what is refused.

Dimensions: B prompts, T tokens of a prompt (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt2kit.errors import InputError
from gpt2kit.generation import GenerationConfig, GenerationMode, GenerationPlan, make_plan
from gpt2kit.generation.mode import choose_mode
from gpt2kit.generation.stops import EosTokens, MaxLength, MaxTime, Stop, StopStrings
from gpt2kit.tensorflow.generation.logits import REFUSED, Setting, TFLogitNormalization, processor_of
from gpt2kit.tensorflow.generation.processor import TFLogitsProcessorList
from gpt2kit.tensorflow.generation.prompt import Prompt

__all__ = [
    "ELSEWHERE",
    "REFUSED_MODES",
    "REFUSED_STOPS",
    "SERVED_STOPS",
    "plan_of",
    "processors_of",
    "refuse_in_graph",
    "refuse_mode",
    "refuse_unserved",
    "warpers_of",
]

ELSEWHERE = "GPT2LMHeadModel of the PyTorch room does it"

# Ways of decoding that this room does not serve, and the way out.
REFUSED_MODES: dict[GenerationMode, str] = {
    GenerationMode.GROUP_BEAM_SEARCH: f"leave out num_beam_groups, or: {ELSEWHERE}",
    GenerationMode.CONSTRAINED_BEAM_SEARCH: f"leave out force_words_ids and constraints, or: {ELSEWHERE}",
    GenerationMode.ASSISTED_GENERATION: f"leave out prompt_lookup_num_tokens, or: {ELSEWHERE}",
}
SERVED_STOPS: tuple[type[Stop], ...] = (MaxLength, EosTokens)
# Why a search in this room does not look for these ends, and the way out.
REFUSED_STOPS: dict[type[Stop], str] = {
    MaxTime: "a compiled program has no clock. Bound the text by max_new_tokens",
    StopStrings: "a compiled program sees tokens, not text. Pass eos_token_id, or cut the text afterwards",
}
# What a step-by-step run alone can give.
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
    prompt.check_places(plan.max_new_tokens, plan.n_positions, plan.contrast is not None)
    return plan


def refuse_mode(config: GenerationConfig) -> None:
    """Refuse a way of decoding that is not there.

    Raises:
        InputError: the way and the way out.
    """
    mode = choose_mode(config)
    if mode in REFUSED_MODES:
        raise _refusal(f"{mode} is not there", REFUSED_MODES[mode])


def refuse_unserved(plan: GenerationPlan, config: GenerationConfig, prompt: Prompt) -> None:
    """Refuse what a plan asks for and this room does not do.

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
    for name in ("output_attentions", "output_hidden_states"):
        if plan.beams is not None and getattr(config, name):
            raise _refusal(
                f"beam search does not keep what `{name}` asks for",
                f"call the model on the sequences, or: {ELSEWHERE}",
            )
    if plan.contrast is not None and prompt.past is not None:
        raise InputError(
            "Contrastive search compares each candidate with the hidden states of the whole text, and "
            "past_key_values do not hold them. Leave past_key_values out."
        )
    if prompt.embeds is not None and not plan.use_cache:
        raise _refusal("inputs_embeds do not go with `use_cache=False`", "leave out one of them")


def refuse_in_graph(config: GenerationConfig, prompt: Prompt) -> None:
    """Refuse what arrays of fixed sizes have no place for.

    Raises:
        InputError: the option by its name, and the way out.
    """
    for name in _RECORDED:
        if getattr(config, name):
            raise InputError(
                f"`{name}` is kept by a run step by step, and this one is compiled. Leave out jit_compile "
                "and tf.function, or call the model on the sequences."
            )
    if config.low_memory:
        raise InputError(
            "`low_memory` reads candidates one after the other, step by step, and a compiled program reads "
            "them in one call. Leave out low_memory, or jit_compile and tf.function."
        )
    if prompt.past is not None:
        raise InputError(
            "`past_key_values` have no place in a compiled search, whose cache begins with the prompt. Pass "
            "the whole text without them, or leave out jit_compile and tf.function."
        )


def _refusal(what: str, way_out: str) -> InputError:
    return InputError(f"In the TensorFlow room {what}: {way_out}.")


def processors_of(plan: GenerationPlan, prompt: Prompt, own: Sequence[Any]) -> TFLogitsProcessorList:
    """Return the rules of the plan with the user's own behind them, as in 4.34."""
    setting = Setting(prompt.ids, prompt.length)
    made = [processor_of(rule, setting) for rule in plan.processors]
    _refuse_twice(made, own)
    normalize = [TFLogitNormalization()] if plan.renormalize else []
    return TFLogitsProcessorList([*made, *own, *normalize])


def warpers_of(plan: GenerationPlan, prompt: Prompt) -> TFLogitsProcessorList:
    """Return the rules of sampling; none where nothing is drawn."""
    setting = Setting(prompt.ids, prompt.length)
    normalize = [TFLogitNormalization()] if plan.renormalize and plan.sampled else []
    return TFLogitsProcessorList([*(processor_of(rule, setting) for rule in plan.warpers), *normalize])


def _refuse_twice(made: Sequence[Any], own: Sequence[Any]) -> None:
    if not isinstance(own, Sequence):
        raise InputError(
            f"A list of each logits processor is wanted, but {type(own).__name__} came. Put it into a list."
        )
    for yours in own:
        if not callable(yours):
            raise InputError(
                f"A logits processor has to be a callable, such as a TFLogitsProcessor, but a "
                f"{type(yours).__name__} came."
            )
        for mine in made:
            if type(mine) is type(yours):
                raise InputError(
                    f"A logits processor of type {type(yours).__name__} was passed, but the options of this "
                    "call already make one. Give its numbers as options, or leave those options out."
                )
