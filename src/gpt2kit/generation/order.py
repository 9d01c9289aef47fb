"""Which rules the options ask for, in the order in which they change the scores: 4.34's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import InputError
from gpt2kit.generation import rules as r
from gpt2kit.generation import stops as ends
from gpt2kit.generation.rule import as_given

if TYPE_CHECKING:
    from gpt2kit.generation.config import GenerationConfig

__all__ = ["check_vocabulary", "end_tokens", "processors_of", "warpers_of"]


def processors_of(
    config: GenerationConfig,
    prompt_length: int,
    max_length: int,
    eos: tuple[int, ...],
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None,
) -> tuple[r.Rule, ...]:
    """Return the rules that the options ask for in every way of decoding; raise on a bad number."""
    found: list[r.Rule] = []
    if config.guidance_scale not in (None, 1):
        found.append(r.Guidance(config.guidance_scale))
    if config.sequence_bias is not None:
        found.append(r.SequenceBias(as_given(config.sequence_bias)))
    if config.num_beams > 1 and config.num_beam_groups > 1 and config.diversity_penalty:
        found.append(r.HammingDiversity(config.diversity_penalty, config.num_beams, config.num_beam_groups))
    if config.encoder_repetition_penalty not in (None, 1.0):
        found.append(r.EncoderRepetitionPenalty(config.encoder_repetition_penalty))
    if config.repetition_penalty not in (None, 1.0):
        found.append(r.RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size not in (None, 0):
        found.append(r.NoRepeatNGram(config.no_repeat_ngram_size))
    if config.bad_words_ids is not None:
        found.append(r.NoBadWords(as_given(config.bad_words_ids), eos))
    if config.min_length is not None and config.min_length > 0 and eos:
        found.append(r.MinLength(config.min_length, eos))
    if config.min_new_tokens and eos:
        found.append(r.MinNewTokens(prompt_length, config.min_new_tokens, eos))
    if prefix_allowed_tokens_fn is not None:
        found.append(r.PrefixConstrained(prefix_allowed_tokens_fn, _rows_of_a_prompt(config)))
    if config.forced_bos_token_id is not None:
        found.append(r.ForcedBOS(config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        found.append(r.ForcedEOS(max_length, as_given(config.forced_eos_token_id)))
    if config.remove_invalid_values:
        found.append(r.RemoveInvalid())
    if config.exponential_decay_length_penalty is not None:
        found.append(_decay(config.exponential_decay_length_penalty, eos, prompt_length))
    if config.suppress_tokens is not None:
        found.append(r.SuppressTokens(as_given(config.suppress_tokens)))
    if config.begin_suppress_tokens is not None:
        begin = _begin_index(config, prompt_length)
        found.append(r.SuppressTokensAtBegin(as_given(config.begin_suppress_tokens), begin))
    if config.forced_decoder_ids is not None:
        found.append(r.ForceTokens(as_given(config.forced_decoder_ids)))
    return tuple(found)


def _rows_of_a_prompt(config: GenerationConfig) -> int:
    """Return how many rows of text belong to one prompt in a call of the rules."""
    if config.num_beams > 1:
        return config.num_beams // config.num_beam_groups
    return config.num_return_sequences


def warpers_of(config: GenerationConfig, without_temperature: bool = False) -> tuple[r.Rule, ...]:
    """Return the rules of sampling that the options ask for; raise on a bad number."""
    keep = 2 if config.num_beams > 1 else 1  # a beam needs one token besides an end token
    found: list[r.Rule] = []
    if config.temperature not in (None, 1.0) and not without_temperature:
        found.append(r.Temperature(config.temperature))
    if config.top_k not in (None, 0):
        found.append(r.TopK(config.top_k, keep))
    if config.top_p not in (None, 1.0):
        found.append(r.TopP(config.top_p, keep))
    if config.min_p not in (None, 0.0):
        found.append(r.MinP(config.min_p, keep))
    if config.typical_p not in (None, 1.0):
        found.append(r.Typical(config.typical_p, keep))
    if config.epsilon_cutoff not in (None, 0.0):
        found.append(r.EpsilonCutoff(config.epsilon_cutoff, keep))
    if config.eta_cutoff not in (None, 0.0):
        found.append(r.EtaCutoff(config.eta_cutoff, keep))
    return tuple(found)


def end_tokens(config: GenerationConfig) -> tuple[int, ...]:
    """Return the end tokens as a tuple; empty where the options name none."""
    if config.eos_token_id is None:
        return ()
    return ends.EosTokens(as_given(config.eos_token_id)).eos_token_ids


def _decay(given: object, eos: tuple[int, ...], prompt_length: int) -> r.ExponentialDecay:
    if not eos:
        raise InputError(
            "`exponential_decay_length_penalty` makes the end token likelier, but no `eos_token_id` of the "
            "vocabulary is set. Pass one, or leave the penalty out."
        )
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InputError(
            f"`exponential_decay_length_penalty` has to be (start_index, decay_factor), but is {given!r}."
        )
    return r.ExponentialDecay(given[0], given[1], eos, prompt_length)


def _begin_index(config: GenerationConfig, prompt_length: int) -> int:
    """Return where the free text begins: after the prompt and whatever tokens are forced."""
    index = prompt_length
    if prompt_length <= 1 and config.forced_bos_token_id is not None:
        index += 1
    if config.forced_decoder_ids:
        index += r.ForceTokens(as_given(config.forced_decoder_ids)).force_token_map[-1][0]
    return index


def check_vocabulary(found: tuple[r.Rule, ...], vocab_size: int) -> None:
    """Refuse rules that name tokens which the model does not have."""
    for rule in found:
        outside = sorted({i for i in rule.token_ids() if i >= vocab_size})
        if outside:
            raise InputError(
                f"`{rule.option}` names token ids {outside}, but the vocabulary ends at {vocab_size - 1}."
            )
