"""The ways of decoding: which one the options ask for, and which options exclude one another."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from gpt2kit.errors import InputError

if TYPE_CHECKING:
    from gpt2kit.generation.config import GenerationConfig

__all__ = ["TEXT_OF_MODE", "GenerationMode", "check_relations", "choose_mode", "refuse_unread"]


class GenerationMode(StrEnum):
    """The ways of decoding of transformers 4.34."""

    CONTRASTIVE_SEARCH = "contrastive_search"
    GREEDY_SEARCH = "greedy_search"
    SAMPLE = "sample"
    ASSISTED_GENERATION = "assisted_generation"
    BEAM_SEARCH = "beam_search"
    BEAM_SAMPLE = "beam_sample"
    CONSTRAINED_BEAM_SEARCH = "constrained_beam_search"
    GROUP_BEAM_SEARCH = "group_beam_search"


TEXT_OF_MODE: dict[GenerationMode, str] = {
    GenerationMode.GREEDY_SEARCH: "always the likeliest token",
    GenerationMode.SAMPLE: "one token drawn from the probabilities that are left",
    GenerationMode.BEAM_SEARCH: "the likeliest texts, several followed side by side",
    GenerationMode.BEAM_SAMPLE: "several texts drawn side by side, and the likeliest of them kept",
    GenerationMode.GROUP_BEAM_SEARCH: "the likeliest texts, in groups that avoid one another's tokens",
    GenerationMode.CONSTRAINED_BEAM_SEARCH: "the likeliest texts that contain what has to be written",
    GenerationMode.CONTRASTIVE_SEARCH: "a likely token that resembles the text least",
    GenerationMode.ASSISTED_GENERATION: "tokens are drafted, and the model checks a whole draft in one call",
}


def choose_mode(config: GenerationConfig, assistant: bool = False) -> GenerationMode:
    """Return the way of decoding that the options ask for, by the rules of 4.34.

    Raises:
        InputError: a draft or DoLa for a way of decoding that cannot have it.
    """
    mode = _mode_alone(config)
    plain = mode in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
    assisted = assistant or config.prompt_lookup_num_tokens is not None
    asked = "assistant_model" if assistant else "prompt_lookup_num_tokens"
    if assisted and not plain:
        raise InputError(
            f"`{asked}` drafts tokens for greedy search and sampling, but the other options ask for {mode}. "
            "Leave out one or the other."
        )
    if assistant and config.prompt_lookup_num_tokens is not None:
        raise InputError("Both `assistant_model` and `prompt_lookup_num_tokens` draft tokens; choose one.")
    if config.dola_layers is not None and (assisted or not plain):
        raise InputError(
            "`dola_layers` changes the scores of greedy search and sampling, but the other options ask for "
            f"{GenerationMode.ASSISTED_GENERATION if assisted else mode}. Leave out one or the other."
        )
    return GenerationMode.ASSISTED_GENERATION if assisted else mode


def _mode_alone(config: GenerationConfig) -> GenerationMode:
    """Return the way of decoding without what may be added to it."""
    if config.constraints is not None or config.force_words_ids is not None:
        return GenerationMode.CONSTRAINED_BEAM_SEARCH
    if config.num_beams > 1:
        if config.num_beam_groups > 1:
            return GenerationMode.GROUP_BEAM_SEARCH
        return GenerationMode.BEAM_SAMPLE if config.do_sample else GenerationMode.BEAM_SEARCH
    if not config.do_sample and (config.top_k or 0) > 1 and (config.penalty_alpha or 0) > 0:
        return GenerationMode.CONTRASTIVE_SEARCH
    return GenerationMode.SAMPLE if config.do_sample else GenerationMode.GREEDY_SEARCH


def refuse_unread(config: GenerationConfig, mode: GenerationMode) -> None:
    """Refuse options that nothing would read.

    Raises:
        InputError: the option and what to do instead.
    """
    if config.encoder_no_repeat_ngram_size:
        raise InputError(
            "`encoder_no_repeat_ngram_size` needs a model with an encoder, and GPT-2 is a decoder. "
            "`no_repeat_ngram_size` works on the prompt and the text."
        )
    if config.low_memory and mode is not GenerationMode.CONTRASTIVE_SEARCH:
        raise InputError(
            f"`low_memory` belongs to contrastive search, but the options ask for {mode}. Pass penalty_alpha "
            "and top_k above 1 too, or leave it out."
        )
    if config.generation_kwargs:
        raise InputError(
            f"`generation_kwargs` {sorted(config.generation_kwargs)} are read by nothing. Pass them to "
            "`generate`."
        )


def check_relations(config: GenerationConfig) -> None:
    """Check the options that must agree with one another."""
    least, most = config.min_new_tokens, config.max_new_tokens
    if least is not None and most is not None and least > most:
        raise InputError(
            f"`min_new_tokens` ({least}) is larger than `max_new_tokens` ({most}); swap or change them."
        )
    returns = config.num_return_sequences
    if config.num_beams == 1:
        if returns != 1 and not config.do_sample:
            raise InputError(
                f"`num_return_sequences` is {returns}, but greedy search always writes the same text. "
                "Pass do_sample=True, or num_return_sequences=1."
            )
        return
    if returns > config.num_beams:
        raise InputError(
            f"`num_return_sequences` ({returns}) is larger than `num_beams` ({config.num_beams})."
        )
    groups = config.num_beam_groups
    if config.constraints is not None and (config.do_sample or groups != 1):
        raise InputError("`constraints` go with neither `do_sample=True` nor `num_beam_groups` other than 1.")
    if config.diversity_penalty or groups != 1:
        if groups == 1:
            raise InputError(
                f"`diversity_penalty` ({config.diversity_penalty}) keeps groups of beams apart, and there is "
                "one group. Pass `num_beam_groups` above 1, or leave it out."
            )
        if config.do_sample:
            raise InputError(
                "Group beam search (`num_beam_groups`, `diversity_penalty`) needs `do_sample=False`."
            )
        if config.num_beams % groups:
            raise InputError(
                f"`num_beams` ({config.num_beams}) has to be a multiple of `num_beam_groups` ({groups})."
            )
        if not config.diversity_penalty or config.diversity_penalty < 0:
            raise InputError(
                "Group beam search needs a `diversity_penalty` above 0, or all groups are the same."
            )
