"""The plan of a generation: a pure function from options and lengths to decisions, before any tensor is made.

`make_plan` settles the way of decoding, the lengths, the rules in the order in which they change the scores
(that of transformers 4.34), what ends the text, and refuses what cannot work. A room carries the plan out;
`explain` writes it down for people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import InputError, LengthError
from gpt2kit.generation import rules as r
from gpt2kit.generation import stops as ends

if TYPE_CHECKING:
    from gpt2kit.generation.config import GenerationConfig

__all__ = [
    "AVAILABLE_MODES",
    "GenerationMode",
    "GenerationPlan",
    "choose_mode",
    "end_tokens",
    "make_plan",
    "processors_of",
    "warpers_of",
]

_DEFAULT_MAX_LENGTH = 20  # of GenerationConfig: short enough that a user who did not choose should be told


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


AVAILABLE_MODES: dict[GenerationMode, str] = {
    GenerationMode.GREEDY_SEARCH: "always the likeliest token",
    GenerationMode.SAMPLE: "one token drawn from the probabilities that are left",
}


@dataclass(frozen=True)
class GenerationPlan:
    """What a generation will do.

    Attributes:
        mode: The way of decoding.
        batch_size: Number of prompts.
        returns: Number of texts written for each prompt.
        prompt_length: Tokens of a prompt, padding included.
        prompt_positions: Positions that the prompt takes; differs from `prompt_length` where embeddings or
            a cache stand for a part of it.
        max_length: Tokens of prompt and answer together, at most.
        n_positions: Positions that the model has.
        processors: Rules of every way of decoding, in order; the user's own follow them.
        warpers: Rules of sampling, which come last.
        renormalize: Whether scores become log-probabilities after the processors and after the warpers.
        stops: What ends a row or the whole generation.
        eos_token_ids: End tokens; empty where none ends a text.
        pad_token_id: What fills a row that ended before the others.
        use_cache: Whether keys and values of earlier tokens are kept.
        warnings: What the user should change, for `warnings.warn`.
        remarks: What was decided for the user, for the log.
    """

    mode: GenerationMode
    batch_size: int
    returns: int
    prompt_length: int
    prompt_positions: int
    max_length: int
    n_positions: int
    processors: tuple[r.Rule, ...]
    warpers: tuple[r.Rule, ...]
    renormalize: bool
    stops: tuple[ends.Stop, ...]
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    use_cache: bool
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def max_new_tokens(self) -> int:
        """Tokens that may be written after the prompt."""
        return self.max_length - self.prompt_length

    @property
    def capacity(self) -> int:
        """Positions that the prompt and every new token take together."""
        return self.prompt_positions + self.max_new_tokens

    @property
    def rules(self) -> tuple[r.Rule, ...]:
        """Every rule in the order in which it changes the scores (the user's own come before the warpers)."""
        normalize = (r.LogitNormalization(),) if self.renormalize else ()
        warping = self.warpers + normalize if self.mode is GenerationMode.SAMPLE else ()
        return self.processors + normalize + warping

    def explain(self) -> str:
        """Return the plan as a block of lines for people."""
        rows = "1 row" if self.batch_size == 1 else f"{self.batch_size} rows"
        texts = "1 text each" if self.returns == 1 else f"{self.returns} texts each"
        lines = [
            _line("decoding", f"{self.mode}: {AVAILABLE_MODES[self.mode]}"),
            _line("prompt", f"{rows} of {self.prompt_length} token(s), {texts}"),
            _line(
                "length",
                f"{self.max_new_tokens} new tokens at most, {self.max_length} in all; "
                f"{self.capacity} of the model's {self.n_positions} positions",
            ),
        ]
        for number, rule in enumerate(self.rules, start=1):
            lines.append(_line("scores" if number == 1 else "", f"{number}. {rule.option}: {rule}"))
        if not self.rules:
            lines.append(_line("scores", "as the model gives them"))
        for number, stop in enumerate(self.stops):
            lines.append(_line("ends" if number == 0 else "", f"{stop} ({stop.option})"))
        padding = "none" if self.pad_token_id is None else f"token {self.pad_token_id} after the end of a row"
        lines.append(_line("padding", padding))
        kept = "keys and values of earlier tokens are kept"
        lines.append(
            _line("cache", kept if self.use_cache else "none: the whole text is computed for every token")
        )
        lines.extend(_line("note", text) for text in (*self.warnings, *self.remarks))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.explain()


def _line(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def make_plan(
    config: GenerationConfig,
    *,
    prompt_length: int,
    n_positions: int,
    vocab_size: int,
    batch_size: int = 1,
    prompt_positions: int | None = None,
    max_length_given: bool = False,
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None,
    assistant: bool = False,
) -> GenerationPlan:
    """Decide everything about a generation that can be decided before a model is run.

    Args:
        config: The options, already updated with the arguments of the call.
        prompt_length: Tokens of a prompt, padding included.
        n_positions: Positions that the model has.
        vocab_size: Tokens that the model knows.
        batch_size: Number of prompts.
        prompt_positions: Positions that the prompt takes, where that is not `prompt_length`.
        max_length_given: Whether `max_length` was an argument of the call, and not a default.
        prefix_allowed_tokens_fn: The user's function (row, ids) -> allowed ids.
        assistant: Whether a second model was given for assisted decoding.

    Raises:
        InputError: an option that cannot be honoured, and what to do instead.
        LengthError: more tokens than fit, or no room for a single new one.
    """
    mode = choose_mode(config, assistant)
    _refuse_unavailable(config, mode)
    positions = prompt_length if prompt_positions is None else prompt_positions
    max_length = _choose_max_length(config, prompt_length, positions, n_positions)
    _check_min_lengths(config, prompt_length, max_length)
    eos = end_tokens(config)
    reachable = tuple(i for i in eos if i < vocab_size)
    processors = processors_of(config, prompt_length, max_length, reachable, prefix_allowed_tokens_fn)
    _check_vocabulary(processors, vocab_size)
    stops: list[ends.Stop] = [ends.MaxLength(max_length)]
    if eos:
        stops.append(ends.EosTokens(eos))
    if config.max_time is not None:
        stops.append(ends.MaxTime(config.max_time))
    if config.stop_strings is not None:
        stops.append(ends.StopStrings(config.stop_strings))  # type: ignore[arg-type]  # made a tuple there
    rows = batch_size * config.num_return_sequences
    return GenerationPlan(
        mode=mode,
        batch_size=batch_size,
        returns=config.num_return_sequences,
        prompt_length=prompt_length,
        prompt_positions=positions,
        max_length=max_length,
        n_positions=n_positions,
        processors=processors,
        warpers=warpers_of(config) if mode is GenerationMode.SAMPLE else (),
        renormalize=bool(config.renormalize_logits),
        stops=tuple(stops),
        eos_token_ids=eos,
        pad_token_id=_choose_padding(config, eos, rows, bool(reachable), vocab_size),
        use_cache=bool(config.use_cache),
        warnings=tuple(_warnings(config, max_length_given)),
        remarks=tuple(_remarks(config, eos, max_length_given)),
    )


# ---------------------------------------------------------------------- which way


def choose_mode(config: GenerationConfig, assistant: bool = False) -> GenerationMode:
    """Return the way of decoding that the options ask for, available or not, by the rules of 4.34."""
    if config.constraints is not None or config.force_words_ids is not None:
        return GenerationMode.CONSTRAINED_BEAM_SEARCH
    if config.num_beams > 1:
        if config.num_beam_groups > 1:
            return GenerationMode.GROUP_BEAM_SEARCH
        return GenerationMode.BEAM_SAMPLE if config.do_sample else GenerationMode.BEAM_SEARCH
    if not config.do_sample and (config.top_k or 0) > 1 and (config.penalty_alpha or 0) > 0:
        return GenerationMode.CONTRASTIVE_SEARCH
    if assistant:
        return GenerationMode.ASSISTED_GENERATION
    return GenerationMode.SAMPLE if config.do_sample else GenerationMode.GREEDY_SEARCH


def _refuse_unavailable(config: GenerationConfig, mode: GenerationMode) -> None:
    if mode not in AVAILABLE_MODES:
        ways = " and ".join(AVAILABLE_MODES)
        raise InputError(
            f"These options ask for {mode}, which this release does not have; it has {ways}. Leave out "
            "num_beams, constraints, force_words_ids, penalty_alpha and assistant_model."
        )
    if config.guidance_scale is not None and config.guidance_scale != 1:
        raise InputError(
            f"`guidance_scale` ({config.guidance_scale}) asks for classifier-free guidance, which this "
            "release does not have. Leave it out."
        )
    if config.encoder_no_repeat_ngram_size:
        raise InputError(
            "`encoder_no_repeat_ngram_size` needs a model with an encoder, and GPT-2 is a decoder. "
            "`no_repeat_ngram_size` works on the prompt and the text."
        )
    if config.low_memory:
        raise InputError(
            "`low_memory` belongs to contrastive search, which this release does not have. Leave it out."
        )
    if config.generation_kwargs:
        raise InputError(
            f"`generation_kwargs` {sorted(config.generation_kwargs)} are read by nothing. Pass them to "
            "`generate`."
        )


# ---------------------------------------------------------------------- how long


def _choose_max_length(config: GenerationConfig, prompt_length: int, positions: int, n_positions: int) -> int:
    if config.max_new_tokens is not None:
        max_length = prompt_length + config.max_new_tokens
    elif config.max_length is not None:
        max_length = config.max_length
    else:  # as far as the model reaches
        max_length = prompt_length + n_positions - positions
    new_tokens = max_length - prompt_length
    if positions + max(new_tokens, 1) > n_positions:
        raise LengthError(
            f"A prompt of {positions} token(s) and {max(new_tokens, 1)} new one(s) need "
            f"{positions + max(new_tokens, 1)} positions, but the model has n_positions={n_positions}. "
            "Shorten the "
            f"prompt or ask for at most max_new_tokens={max(n_positions - positions, 0)}."
        )
    if new_tokens < 1:
        raise LengthError(
            f"The prompt has {prompt_length} token(s) and max_length is {max_length}, prompt included, so "
            "nothing can be written. Pass max_new_tokens, which counts new tokens only, or a larger "
            "max_length."
        )
    return max_length


def _check_min_lengths(config: GenerationConfig, prompt_length: int, max_length: int) -> None:
    if config.min_length is not None and config.min_length > max_length:
        raise InputError(
            f"`min_length` ({config.min_length}) is larger than the largest possible length ({max_length}). "
            "Lower min_length or raise max_new_tokens."
        )
    if config.min_new_tokens is not None and config.min_new_tokens > max_length - prompt_length:
        raise InputError(
            f"`min_new_tokens` ({config.min_new_tokens}) is larger than the {max_length - prompt_length} "
            f"token(s) that max_length={max_length} leaves after a prompt of {prompt_length}. Lower it or "
            "raise max_new_tokens."
        )


# ---------------------------------------------------------------------- rules, in 4.34's order


def processors_of(
    config: GenerationConfig,
    prompt_length: int,
    max_length: int,
    eos: tuple[int, ...],
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None,
) -> tuple[r.Rule, ...]:
    """Return the rules that the options ask for in every way of decoding; raise on a bad number."""
    found: list[r.Rule] = []
    if config.sequence_bias is not None:
        found.append(r.SequenceBias(config.sequence_bias))  # type: ignore[arg-type]  # checked there
    if config.encoder_repetition_penalty not in (None, 1.0):
        found.append(r.EncoderRepetitionPenalty(config.encoder_repetition_penalty))
    if config.repetition_penalty not in (None, 1.0):
        found.append(r.RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size not in (None, 0):
        found.append(r.NoRepeatNGram(config.no_repeat_ngram_size))
    if config.bad_words_ids is not None:
        found.append(r.NoBadWords(config.bad_words_ids, eos))  # type: ignore[arg-type]  # made tuples there
    if config.min_length is not None and config.min_length > 0 and eos:
        found.append(r.MinLength(config.min_length, eos))
    if config.min_new_tokens and eos:
        found.append(r.MinNewTokens(prompt_length, config.min_new_tokens, eos))
    if prefix_allowed_tokens_fn is not None:
        found.append(r.PrefixConstrained(prefix_allowed_tokens_fn))
    if config.forced_bos_token_id is not None:
        found.append(r.ForcedBOS(config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        found.append(r.ForcedEOS(max_length, config.forced_eos_token_id))  # type: ignore[arg-type]
    if config.remove_invalid_values:
        found.append(r.RemoveInvalid())
    if config.exponential_decay_length_penalty is not None:
        found.append(_decay(config.exponential_decay_length_penalty, eos, prompt_length))
    if config.suppress_tokens is not None:
        found.append(r.SuppressTokens(config.suppress_tokens))  # type: ignore[arg-type]
    if config.begin_suppress_tokens is not None:
        begin = _begin_index(config, prompt_length)
        found.append(r.SuppressTokensAtBegin(config.begin_suppress_tokens, begin))  # type: ignore[arg-type]
    if config.forced_decoder_ids is not None:
        found.append(r.ForceTokens(config.forced_decoder_ids))  # type: ignore[arg-type]
    return tuple(found)


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
    return ends.EosTokens(config.eos_token_id).eos_token_ids  # type: ignore[arg-type]  # made a tuple there


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
        index += r.ForceTokens(config.forced_decoder_ids).force_token_map[-1][0]  # type: ignore[arg-type]
    return index


def _check_vocabulary(found: tuple[r.Rule, ...], vocab_size: int) -> None:
    for rule in found:
        outside = sorted({i for i in rule.token_ids() if i >= vocab_size})
        if outside:
            raise InputError(
                f"`{rule.option}` names token ids {outside}, but the vocabulary ends at {vocab_size - 1}."
            )


# ---------------------------------------------------------------------- padding and what to tell


def _choose_padding(
    config: GenerationConfig, eos: tuple[int, ...], rows: int, may_end: bool, vocab_size: int
) -> int | None:
    pad = config.pad_token_id if config.pad_token_id is not None else (eos[0] if eos else None)
    rows_end_apart = rows > 1 and (may_end or config.stop_strings is not None)
    if rows_end_apart and (pad is None or not 0 <= pad < vocab_size):
        raise InputError(
            f"Rows that end before the others are filled with `pad_token_id`, which is {pad}. Pass a token "
            "id of "
            f"the vocabulary (0 to {vocab_size - 1}), such as the tokenizer's end token."
        )
    return pad


def _warnings(config: GenerationConfig, max_length_given: bool) -> list[str]:
    found = []
    default = config.max_length == _DEFAULT_MAX_LENGTH and config.max_new_tokens is None
    if default and not max_length_given:
        found.append(
            f"Using the model-agnostic default `max_length` (={config.max_length}), prompt included, as the "
            "length of the text. Pass `max_new_tokens` to choose it."
        )
    if not config.return_dict_in_generate:
        for name in ("output_scores", "output_attentions", "output_hidden_states"):
            if getattr(config, name):
                found.append(f"`{name}` returns nothing without `return_dict_in_generate=True`.")
    if config.decoder_start_token_id is not None:
        found.append(
            "`decoder_start_token_id` is read by models with an encoder only; GPT-2 starts with the prompt."
        )
    return found


def _remarks(config: GenerationConfig, eos: tuple[int, ...], max_length_given: bool) -> list[str]:
    found = []
    if config.pad_token_id is None and eos:
        found.append(f"Setting `pad_token_id` to `eos_token_id`:{eos[0]} for open-end generation.")
    if max_length_given and config.max_length is not None and config.max_new_tokens is not None:
        found.append(
            f"Both `max_new_tokens` (={config.max_new_tokens}) and `max_length`(={config.max_length}) seem "
            "to have "
            "been set. `max_new_tokens` will take precedence."
        )
    return found
