"""The rules of a generation as data: one frozen dataclass each, its numbers checked when it is made.

The rules of every way of decoding stand here, those of sampling in `warping.py`, what a rule is in `rule.py`.
A contract test holds every room's dictionary of code against `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gpt2kit.errors import InputError
from gpt2kit.generation.rule import Rule, biases, check_integer, check_real, tokens, words
from gpt2kit.generation.warping import (
    WARPERS,
    EpsilonCutoff,
    EtaCutoff,
    MinP,
    Temperature,
    TopK,
    TopP,
    Typical,
)

__all__ = [
    "RULES",
    "EncoderRepetitionPenalty",
    "EpsilonCutoff",
    "EtaCutoff",
    "ExponentialDecay",
    "ForceTokens",
    "ForcedBOS",
    "ForcedEOS",
    "Guidance",
    "HammingDiversity",
    "LogitNormalization",
    "MinLength",
    "MinNewTokens",
    "MinP",
    "NoBadWords",
    "NoRepeatNGram",
    "PrefixConstrained",
    "RemoveInvalid",
    "RepetitionPenalty",
    "Rule",
    "SequenceBias",
    "SuppressTokens",
    "SuppressTokensAtBegin",
    "Temperature",
    "TopK",
    "TopP",
    "Typical",
]


# ---------------------------------------------------------------------- processors, in 4.34's order


@dataclass(frozen=True)
class Guidance(Rule):
    """Lead the scores away from those of the same text after another prompt."""

    guidance_scale: float
    option: ClassVar[str] = "guidance_scale"
    text: ClassVar[str] = "{guidance_scale:g} times as far from the negative prompt's log-probabilities"

    def __post_init__(self) -> None:
        check_real(self.option, self.guidance_scale, lambda x: abs(x) < float("inf"), "a finite number")


@dataclass(frozen=True)
class SequenceBias(Rule):
    """Add a bias to the last token of a sequence wherever the text ends in what comes before it."""

    sequence_bias: Mapping[tuple[int, ...], float]
    option: ClassVar[str] = "sequence_bias"

    def __post_init__(self) -> None:
        given = biases(self.sequence_bias)
        for ids, bias in given.items():
            if not isinstance(ids, tuple):
                raise InputError(
                    f"Each key of `sequence_bias` has to be a tuple of token ids, but one is {ids!r}."
                )
            tokens("sequence_bias", ids)
            check_real("sequence_bias", bias, lambda b: b == b, "a dictionary with numbers as values")
        self._set(sequence_bias={ids: float(bias) for ids, bias in given.items()})

    def __str__(self) -> str:
        return f"add a bias to the end of {len(self.sequence_bias)} sequence(s)"

    def token_ids(self) -> tuple[int, ...]:
        """Return every id of every sequence."""
        return tuple(i for ids in self.sequence_bias for i in ids)


@dataclass(frozen=True)
class HammingDiversity(Rule):
    """Lower the score of a token by the penalty for each beam of an earlier group that has just chosen it."""

    diversity_penalty: float
    num_beams: int
    num_beam_groups: int
    option: ClassVar[str] = "diversity_penalty"
    text: ClassVar[str] = "tokens that earlier groups of beams chose cost {diversity_penalty:g} each"

    def __post_init__(self) -> None:
        check_real(self.option, self.diversity_penalty, lambda x: 0 < x < float("inf"), "a number above 0")
        check_integer("num_beams", self.num_beams, 2)
        check_integer("num_beam_groups", self.num_beam_groups, 2)
        if self.num_beams % self.num_beam_groups:
            raise InputError(
                f"`num_beams` ({self.num_beams}) has to be a multiple of `num_beam_groups` "
                f"({self.num_beam_groups})."
            )


@dataclass(frozen=True)
class EncoderRepetitionPenalty(Rule):
    """Raise the scores of the prompt's tokens: times the penalty where positive, divided where negative."""

    penalty: float
    option: ClassVar[str] = "encoder_repetition_penalty"
    text: ClassVar[str] = "favour the prompt's tokens by {penalty:g}"

    def __post_init__(self) -> None:
        check_real(self.option, self.penalty, lambda x: 0 < x < float("inf"), "a number above 0")


@dataclass(frozen=True)
class RepetitionPenalty(Rule):
    """Lower the scores of the text's tokens: divided where positive, times the penalty where negative."""

    penalty: float
    option: ClassVar[str] = "repetition_penalty"
    text: ClassVar[str] = "penalise tokens already in the text by {penalty:g}"

    def __post_init__(self) -> None:
        check_real(self.option, self.penalty, lambda x: 0 < x < float("inf"), "a number above 0")


@dataclass(frozen=True)
class NoRepeatNGram(Rule):
    """Bar the token that would repeat a run of `ngram_size` tokens of the text."""

    ngram_size: int
    option: ClassVar[str] = "no_repeat_ngram_size"
    text: ClassVar[str] = "never repeat a run of {ngram_size} token(s)"

    def __post_init__(self) -> None:
        check_integer(self.option, self.ngram_size, 1)


@dataclass(frozen=True)
class NoBadWords(Rule):
    """Bar the last token of a bad word where the text ends in those before it; never an end token."""

    bad_words_ids: tuple[tuple[int, ...], ...]
    eos_token_ids: tuple[int, ...] = ()
    option: ClassVar[str] = "bad_words_ids"

    def __post_init__(self) -> None:
        found = words(self.option, self.bad_words_ids)
        kept = tuple(word for word in found if not (len(word) == 1 and word[0] in self.eos_token_ids))
        if not kept:
            raise InputError(
                f"`bad_words_ids` holds nothing but the end token, which it never bars ({found}). "
                "To forbid an early end, use `min_new_tokens` or `suppress_tokens`."
            )
        self._set(bad_words_ids=kept)

    def __str__(self) -> str:
        return f"never write {len(self.bad_words_ids)} bad word(s)"

    def token_ids(self) -> tuple[int, ...]:
        """Return every id of every word."""
        return tuple(i for word in self.bad_words_ids for i in word)


@dataclass(frozen=True)
class MinLength(Rule):
    """Bar the end tokens until prompt and answer together have `min_length` tokens."""

    min_length: int
    eos_token_ids: tuple[int, ...]
    option: ClassVar[str] = "min_length"
    text: ClassVar[str] = "no end before {min_length} tokens, prompt included"

    def __post_init__(self) -> None:
        check_integer(self.option, self.min_length, 0)
        self._set(eos_token_ids=tokens("eos_token_id", self.eos_token_ids))

    def token_ids(self) -> tuple[int, ...]:
        """Return the end tokens."""
        return self.eos_token_ids


@dataclass(frozen=True)
class MinNewTokens(Rule):
    """Bar the end tokens until `min_new_tokens` follow the prompt."""

    prompt_length_to_skip: int
    min_new_tokens: int
    eos_token_ids: tuple[int, ...]
    option: ClassVar[str] = "min_new_tokens"
    text: ClassVar[str] = "no end before {min_new_tokens} new tokens"

    def __post_init__(self) -> None:
        check_integer("prompt_length_to_skip", self.prompt_length_to_skip, 0)
        check_integer(self.option, self.min_new_tokens, 0)
        self._set(eos_token_ids=tokens("eos_token_id", self.eos_token_ids))

    def token_ids(self) -> tuple[int, ...]:
        """Return the end tokens."""
        return self.eos_token_ids


@dataclass(frozen=True)
class PrefixConstrained(Rule):
    """Allow only the tokens that a function of the user's names for the text so far."""

    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]]
    num_beams: int = 1
    option: ClassVar[str] = "prefix_allowed_tokens_fn"

    def __post_init__(self) -> None:
        if not callable(self.prefix_allowed_tokens_fn):
            raise InputError(
                "`prefix_allowed_tokens_fn` has to be a function (batch row, ids so far) -> allowed ids, "
                f"but is {self.prefix_allowed_tokens_fn!r}."
            )
        check_integer("num_beams", self.num_beams, 1)

    def __str__(self) -> str:
        return "only tokens that prefix_allowed_tokens_fn allows"


@dataclass(frozen=True)
class ForcedBOS(Rule):
    """Force the second token of the text, the one that follows a prompt of one."""

    bos_token_id: int
    option: ClassVar[str] = "forced_bos_token_id"
    text: ClassVar[str] = "token {bos_token_id} follows a prompt of one token"

    def __post_init__(self) -> None:
        check_integer(self.option, self.bos_token_id, 0)

    def token_ids(self) -> tuple[int, ...]:
        """Return the forced token."""
        return (self.bos_token_id,)


@dataclass(frozen=True)
class ForcedEOS(Rule):
    """Force an end token as the last one that `max_length` leaves room for."""

    max_length: int
    eos_token_ids: tuple[int, ...]
    option: ClassVar[str] = "forced_eos_token_id"

    def __post_init__(self) -> None:
        check_integer("max_length", self.max_length, 1)
        self._set(eos_token_ids=tokens(self.option, self.eos_token_ids))

    def __str__(self) -> str:
        return f"token number {self.max_length} is {' or '.join(map(str, self.eos_token_ids))}"

    def token_ids(self) -> tuple[int, ...]:
        """Return the forced tokens."""
        return self.eos_token_ids


@dataclass(frozen=True)
class RemoveInvalid(Rule):
    """Turn NaN into 0 and +inf into the largest number."""

    option: ClassVar[str] = "remove_invalid_values"
    text: ClassVar[str] = "NaN becomes 0, +inf the largest number"


@dataclass(frozen=True)
class ExponentialDecay(Rule):
    """Raise the score s of the end tokens to s + |s| (factor ** n - 1), n tokens after `start_index`."""

    start_index: int
    factor: float
    eos_token_ids: tuple[int, ...]
    prompt_length: int
    option: ClassVar[str] = "exponential_decay_length_penalty"
    text: ClassVar[str] = "after {start_index} new tokens the end grows likelier by {factor:g} a token"

    def __post_init__(self) -> None:
        check_integer(f"{self.option}[0]", self.start_index, 0)
        check_real(f"{self.option}[1]", self.factor, lambda x: 0 < x < float("inf"), "a number above 0")
        check_integer("prompt_length", self.prompt_length, 0)
        self._set(eos_token_ids=tokens("eos_token_id", self.eos_token_ids))

    def token_ids(self) -> tuple[int, ...]:
        """Return the end tokens."""
        return self.eos_token_ids


@dataclass(frozen=True)
class SuppressTokens(Rule):
    """Never write these tokens."""

    tokens: tuple[int, ...]
    option: ClassVar[str] = "suppress_tokens"

    def __post_init__(self) -> None:
        self._set(tokens=tokens(self.option, self.tokens) if self.tokens else ())

    def __str__(self) -> str:
        return f"never write {len(self.tokens)} suppressed token(s)"

    def token_ids(self) -> tuple[int, ...]:
        """Return the suppressed tokens."""
        return self.tokens


@dataclass(frozen=True)
class SuppressTokensAtBegin(Rule):
    """Do not begin with these tokens: not when the text has `begin_index` tokens."""

    tokens: tuple[int, ...]
    begin_index: int
    option: ClassVar[str] = "begin_suppress_tokens"

    def __post_init__(self) -> None:
        self._set(tokens=tokens(self.option, self.tokens) if self.tokens else ())
        check_integer("begin_index", self.begin_index, 0)

    def __str__(self) -> str:
        return f"do not write {len(self.tokens)} token(s) as token number {self.begin_index + 1}"

    def token_ids(self) -> tuple[int, ...]:
        """Return the suppressed tokens."""
        return self.tokens


@dataclass(frozen=True)
class ForceTokens(Rule):
    """Force tokens at given places of the text, counted from 0 with the prompt."""

    force_token_map: tuple[tuple[int, int], ...]
    option: ClassVar[str] = "forced_decoder_ids"

    def __post_init__(self) -> None:
        given = self.force_token_map
        pairs = given.items() if isinstance(given, Mapping) else given
        try:
            kept = tuple((int(place), int(token)) for place, token in pairs)
        except (TypeError, ValueError):
            raise InputError(
                f"`{self.option}` has to be a list of [place, token id], but is {given!r}."
            ) from None
        for place, token in kept:
            check_integer(self.option, place, 0)
            check_integer(self.option, token, 0)
        self._set(force_token_map=kept)

    def __str__(self) -> str:
        return f"force {len(self.force_token_map)} token(s) at fixed places"

    def token_ids(self) -> tuple[int, ...]:
        """Return the forced tokens."""
        return tuple(token for _, token in self.force_token_map)


@dataclass(frozen=True)
class LogitNormalization(Rule):
    """Turn scores into log-probabilities."""

    option: ClassVar[str] = "renormalize_logits"
    text: ClassVar[str] = "scores become log-probabilities"


RULES: tuple[type[Rule], ...] = (*(kind for kind in Rule.__subclasses__() if kind not in WARPERS), *WARPERS)
