"""The plan of a generation: a pure function from options and lengths to decisions, before any tensor is made.

`make_plan` settles the way of decoding, the lengths, the rules in the order in which they change the scores
(that of transformers 4.34), what ends the text, and refuses what cannot work. A room carries the plan out;
`explain` writes it down for people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import InputError, LengthError
from gpt2kit.generation import rules as r
from gpt2kit.generation import stops as ends
from gpt2kit.generation.beams import Beams, plan_beams
from gpt2kit.generation.mode import TEXT_OF_MODE, GenerationMode, choose_mode, refuse_unread
from gpt2kit.generation.order import check_vocabulary, end_tokens, processors_of, warpers_of
from gpt2kit.generation.rule import as_given
from gpt2kit.generation.way import Assistance, Contrast, dola_candidates

if TYPE_CHECKING:
    from gpt2kit.generation.config import GenerationConfig

__all__ = ["GenerationPlan", "make_plan"]

_DEFAULT_MAX_LENGTH = 20  # of GenerationConfig: short enough that a user who did not choose should be told


@dataclass(frozen=True)
class GenerationPlan:
    """What a generation will do.

    Attributes:
        mode: The way of decoding.
        sampled: Whether tokens are drawn, or the likeliest taken.
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
        beams: The numbers of the beams, in the modes that have any.
        contrast: The numbers of contrastive search, in that mode.
        assistance: The numbers of assisted decoding, in that mode.
        dola: Layers that DoLa may contrast the last one with; empty without DoLa.
    """

    mode: GenerationMode
    sampled: bool
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
    beams: Beams | None = None
    contrast: Contrast | None = None
    assistance: Assistance | None = None
    dola: tuple[int, ...] = ()

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
        warping = self.warpers + normalize if self.sampled else ()
        return self.processors + normalize + warping

    def explain(self) -> str:
        """Return the plan as a block of lines for people."""
        rows = "1 row" if self.batch_size == 1 else f"{self.batch_size} rows"
        texts = "1 text each" if self.returns == 1 else f"{self.returns} texts each"
        lines = [
            _line("decoding", f"{self.mode}: {TEXT_OF_MODE[self.mode]}"),
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
        if self.beams is not None:
            lines.insert(1, _line("beams", str(self.beams)))
        for way in (self.contrast, self.assistance):
            if way is not None:
                lines.insert(1, _line("", str(way)))
        if self.dola:
            layers = ", ".join(map(str, self.dola))
            lines.insert(1, _line("", f"by what the last layer adds to the most different of {layers}"))
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
    streaming: bool = False,
    prompts: Sequence[Sequence[int]] = (),
    negative_positions: int | None = None,
    n_layer: int | None = None,
    tied: bool = True,
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
        streaming: Whether a streamer waits for the tokens.
        prompts: The tokens of each prompt; only constraints look at them.
        negative_positions: Tokens of the negative prompt of guidance, if there is one.
        n_layer: Layers of the model; DoLa needs the number.
        tied: Whether the model's head is its embeddings, which DoLa asks too.

    Raises:
        InputError: an option that cannot be honoured, and what to do instead.
        LengthError: more tokens than fit, or no room for a single new one.
    """
    mode = choose_mode(config, assistant)
    refuse_unread(config, mode)
    positions = prompt_length if prompt_positions is None else prompt_positions
    max_length = _choose_max_length(config, prompt_length, positions, n_positions)
    new_tokens = max_length - prompt_length
    _check_min_lengths(config, prompt_length, max_length)
    _check_guidance(config, negative_positions, new_tokens, n_positions)
    eos = end_tokens(config)
    reachable = tuple(i for i in eos if i < vocab_size)
    processors = processors_of(config, prompt_length, max_length, reachable, prefix_allowed_tokens_fn)
    check_vocabulary(processors, vocab_size)
    beams = plan_beams(
        config,
        mode,
        rules=processors,
        max_new_tokens=new_tokens,
        vocab_size=vocab_size,
        prompts=prompts,
        streaming=streaming,
    )
    sampled = bool(config.do_sample)
    return GenerationPlan(
        mode=mode,
        sampled=sampled,
        batch_size=batch_size,
        returns=config.num_return_sequences,
        prompt_length=prompt_length,
        prompt_positions=positions,
        max_length=max_length,
        n_positions=n_positions,
        processors=processors,
        warpers=warpers_of(config) if sampled else (),
        renormalize=bool(config.renormalize_logits),
        stops=_stops(config, eos, max_length),
        eos_token_ids=eos,
        pad_token_id=_choose_padding(config, eos, beams, batch_size, vocab_size),
        use_cache=bool(config.use_cache),
        warnings=(*_warnings(config, max_length_given), *_unread(config, mode, assistant)),
        remarks=tuple(_remarks(config, eos, max_length_given)),
        beams=beams,
        contrast=_contrast(config, mode, vocab_size),
        assistance=_assistance(config, mode, batch_size),
        dola=_dola(config, n_layer, tied),
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


def _check_guidance(
    config: GenerationConfig, negative: int | None, new_tokens: int, n_positions: int
) -> None:
    if config.guidance_scale in (None, 1):
        if negative is not None:
            raise InputError(
                "`negative_prompt_ids` tell guidance what to lead away from, but there is no guidance "
                f"(guidance_scale={config.guidance_scale}). Pass guidance_scale, above 1 to lead away."
            )
        return
    needed = (negative or 1) + new_tokens - 1  # the last new token is never read
    if needed > n_positions:
        raise LengthError(
            f"The negative prompt of {negative or 1} token(s) and {new_tokens} new one(s) need {needed} "
            f"positions, but the model has n_positions={n_positions}. Shorten it or lower max_new_tokens."
        )


# ---------------------------------------------------------------------- numbers of one way of decoding


def _contrast(config: GenerationConfig, mode: GenerationMode, vocab_size: int) -> Contrast | None:
    if mode is not GenerationMode.CONTRASTIVE_SEARCH or config.top_k is None or config.penalty_alpha is None:
        return None
    contrast = Contrast(int(config.top_k), float(config.penalty_alpha), bool(config.low_memory))
    contrast.check(vocab_size, bool(config.use_cache))
    return contrast


def _assistance(config: GenerationConfig, mode: GenerationMode, batch_size: int) -> Assistance | None:
    if mode is not GenerationMode.ASSISTED_GENERATION:
        return None
    rows = batch_size * config.num_return_sequences
    if rows != 1:
        raise InputError(
            f"Assisted decoding writes one text at a time, but {rows} were asked for (prompts times "
            "num_return_sequences). Call it for each."
        )
    if not config.use_cache:
        raise InputError("Assisted decoding requires `use_cache=True`: a draft is checked on top of a past.")
    lookup = config.prompt_lookup_num_tokens
    if lookup is not None:
        return Assistance(lookup, by_lookup=True, longest=config.max_matching_ngram_size or 2)
    return Assistance(config.num_assistant_tokens, config.num_assistant_tokens_schedule)


def _dola(config: GenerationConfig, n_layer: int | None, tied: bool) -> tuple[int, ...]:
    if config.dola_layers is None:
        return ()
    if n_layer is None:
        raise InputError("`dola_layers` chooses among the layers of a model: pass n_layer to make_plan too.")
    return dola_candidates(config.dola_layers, n_layer, tied)


# ---------------------------------------------------------------------- ends, padding and what to tell


def _stops(config: GenerationConfig, eos: tuple[int, ...], max_length: int) -> tuple[ends.Stop, ...]:
    stops: list[ends.Stop] = [ends.MaxLength(max_length)]
    if eos:
        stops.append(ends.EosTokens(eos))
    if config.max_time is not None:
        stops.append(ends.MaxTime(config.max_time))
    if config.stop_strings is not None:
        stops.append(ends.StopStrings(as_given(config.stop_strings)))
    return tuple(stops)


def _choose_padding(
    config: GenerationConfig, eos: tuple[int, ...], beams: Beams | None, batch_size: int, vocab_size: int
) -> int | None:
    pad = config.pad_token_id if config.pad_token_id is not None else (eos[0] if eos else None)
    rows = batch_size * max(config.num_return_sequences, 1 if beams is None else beams.groups)
    may_end = any(token < vocab_size for token in eos) or config.stop_strings is not None
    rows_end_apart = rows > 1 and may_end
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


def _unread(config: GenerationConfig, mode: GenerationMode, assistant: bool) -> list[str]:
    """Tell of options that another way of decoding would read."""
    readers = {
        "penalty_alpha": (
            mode is GenerationMode.CONTRASTIVE_SEARCH,
            "contrastive search (top_k above 1, no sampling, no beams)",
        ),
        "num_assistant_tokens": (assistant, "assisted decoding by an assistant_model"),
        "num_assistant_tokens_schedule": (assistant, "assisted decoding by an assistant_model"),
        "max_matching_ngram_size": (
            config.prompt_lookup_num_tokens is not None,
            "assisted decoding by prompt_lookup_num_tokens",
        ),
    }
    return [
        f"`{name}` is set to `{getattr(config, name)}`, but only {way} reads it, and this is {mode}."
        for name, (is_read, way) in readers.items()
        if getattr(config, name) and not is_read
    ]


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
