"""The rules of a generation as data: one frozen dataclass each, its numbers checked when it is made.

A rule says what happens to the scores of the next token, and holds no tensor: each room maps the type of a
rule to code of its framework in one dictionary (`torch/logits.py`), and a contract test holds every room's
dictionary against `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

from gpt2kit.errors import InputError

__all__ = [
    "RULES",
    "EncoderRepetitionPenalty",
    "EpsilonCutoff",
    "EtaCutoff",
    "ExponentialDecay",
    "ForceTokens",
    "ForcedBOS",
    "ForcedEOS",
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
    "check_integer",
    "check_real",
    "tokens",
]


# ---------------------------------------------------------------------- checks of single values


def check_real(name: str, value: object, fits: Callable[[float], bool], wanted: str) -> None:
    """Refuse what is no number or does not fit."""
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(float(value)):
        raise InputError(f"`{name}` has to be {wanted}, but is {value!r}.")


def check_integer(name: str, value: object, least: int, hint: str = "") -> None:
    """Refuse what is no integer or too small."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InputError(f"`{name}` has to be an integer of at least {least}, but is {value!r}.{hint}")


def tokens(name: str, value: int | Iterable[int]) -> tuple[int, ...]:
    """Return one id or many as a tuple, refusing what is no token id and an empty list."""
    many = (value,) if isinstance(value, Integral) else value
    if not isinstance(many, Iterable) or isinstance(many, (str, Mapping)):
        raise InputError(f"`{name}` has to be a token id or a list of them, but is {value!r}.")
    ids = tuple(many)
    if not ids or any(isinstance(i, bool) or not isinstance(i, Integral) or i < 0 for i in ids):
        raise InputError(
            f"`{name}` has to hold token ids (integers from 0; None for none), but is {value!r}."
        )
    return tuple(int(i) for i in ids)


def _words(name: str, value: object) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(f"`{name}` has to be a non-empty list of lists of token ids, but is {value!r}.")
    if any(isinstance(word, (Integral, str)) for word in value):
        raise InputError(f"`{name}` has to be a list of lists of token ids, but is {value!r}.")
    return tuple(tokens(name, word) for word in value)


def _biases(given: object) -> Mapping[tuple[int, ...], float]:
    """Return a dictionary ids -> bias; JSON, whose keys are strings, has pairs [ids, bias] in its place."""
    found = given
    if isinstance(given, list):
        try:
            found = {tuple(ids): bias for ids, bias in given}
        except (TypeError, ValueError):
            found = None
    if not isinstance(found, Mapping) or not found:
        raise InputError(
            "`sequence_bias` has to be {(id, id): bias} or [[[id, id], bias], ...] with at least one entry, "
            f"but is {given!r}."
        )
    return found


# ---------------------------------------------------------------------- what a rule is


@dataclass(frozen=True)
class Rule:
    """Change the scores of the next token in one way.

    Attributes:
        option: The option of `generate` that asks for the rule.
        text: What the rule does, with its numbers in braces.
    """

    option: ClassVar[str] = ""
    text: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.text.format(**vars(self))

    def token_ids(self) -> tuple[int, ...]:
        """Return the ids that the rule names, which have to be in the vocabulary."""
        return ()

    def _set(self, **values: Any) -> None:
        """Store values in the form they are kept in; only for `__post_init__`."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


# ---------------------------------------------------------------------- processors, in 4.34's order


@dataclass(frozen=True)
class SequenceBias(Rule):
    """Add a bias to the last token of a sequence wherever the text ends in what comes before it."""

    sequence_bias: Mapping[tuple[int, ...], float]
    option: ClassVar[str] = "sequence_bias"

    def __post_init__(self) -> None:
        given = _biases(self.sequence_bias)
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
        words = _words(self.option, self.bad_words_ids)
        kept = tuple(word for word in words if not (len(word) == 1 and word[0] in self.eos_token_ids))
        if not kept:
            raise InputError(
                f"`bad_words_ids` holds nothing but the end token, which it never bars ({words}). "
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


# ---------------------------------------------------------------------- warpers, in 4.34's order


@dataclass(frozen=True)
class Temperature(Rule):
    """Divide the scores by the temperature."""

    temperature: float
    option: ClassVar[str] = "temperature"
    text: ClassVar[str] = "divide the scores by {temperature:g}"

    def __post_init__(self) -> None:
        wanted = "a number above 0 (for the likeliest token alone, set `do_sample=False`)"
        check_real(self.option, self.temperature, lambda x: 0 < x < float("inf"), wanted)


@dataclass(frozen=True)
class TopK(Rule):
    """Keep the k best scores, and those equal to the last of them."""

    top_k: int
    min_tokens_to_keep: int = 1
    option: ClassVar[str] = "top_k"
    text: ClassVar[str] = "keep the {top_k} likeliest tokens"

    def __post_init__(self) -> None:
        check_integer(self.option, self.top_k, 1, " 0 or None in `generate` switches it off.")
        check_integer("min_tokens_to_keep", self.min_tokens_to_keep, 1)


@dataclass(frozen=True)
class TopP(Rule):
    """Keep the smallest set of likeliest tokens whose probabilities add up to p."""

    top_p: float
    min_tokens_to_keep: int = 1
    option: ClassVar[str] = "top_p"
    text: ClassVar[str] = "keep the likeliest tokens that add up to {top_p:g}"

    def __post_init__(self) -> None:
        check_real(self.option, self.top_p, lambda x: 0 < x <= 1, "above 0 and at most 1 (1 switches it off)")
        check_integer("min_tokens_to_keep", self.min_tokens_to_keep, 1)


@dataclass(frozen=True)
class MinP(Rule):
    """Keep the tokens at least `min_p` times as likely as the likeliest."""

    min_p: float
    min_tokens_to_keep: int = 1
    option: ClassVar[str] = "min_p"
    text: ClassVar[str] = "keep tokens at least {min_p:g} times as likely as the likeliest"

    def __post_init__(self) -> None:
        check_real(self.option, self.min_p, lambda x: 0 <= x <= 1, "between 0 and 1")
        check_integer("min_tokens_to_keep", self.min_tokens_to_keep, 1)


@dataclass(frozen=True)
class Typical(Rule):
    """Keep the tokens whose surprise is closest to the expected one, until they add up to the mass."""

    mass: float
    min_tokens_to_keep: int = 1
    option: ClassVar[str] = "typical_p"
    text: ClassVar[str] = "keep the most typical tokens that add up to {mass:g}"

    def __post_init__(self) -> None:
        check_real(self.option, self.mass, lambda x: 0 < x < 1, "above 0 and below 1 (1 switches it off)")
        check_integer("min_tokens_to_keep", self.min_tokens_to_keep, 1)


@dataclass(frozen=True)
class EpsilonCutoff(Rule):
    """Keep the tokens at least as likely as epsilon."""

    epsilon: float
    min_tokens_to_keep: int = 1
    option: ClassVar[str] = "epsilon_cutoff"
    text: ClassVar[str] = "keep tokens likelier than {epsilon:g}"

    def __post_init__(self) -> None:
        check_real(self.option, self.epsilon, lambda x: 0 < x < 1, "above 0 and below 1 (0 switches it off)")
        check_integer("min_tokens_to_keep", self.min_tokens_to_keep, 1)


@dataclass(frozen=True)
class EtaCutoff(Rule):
    """Keep the tokens at least as likely as min(epsilon, sqrt(epsilon) exp(-entropy))."""

    epsilon: float
    min_tokens_to_keep: int = 1
    option: ClassVar[str] = "eta_cutoff"
    text: ClassVar[str] = "keep tokens likelier than an entropy-scaled {epsilon:g}"

    def __post_init__(self) -> None:
        check_real(self.option, self.epsilon, lambda x: 0 < x < 1, "above 0 and below 1 (0 switches it off)")
        check_integer("min_tokens_to_keep", self.min_tokens_to_keep, 1)


RULES: tuple[type[Rule], ...] = tuple(Rule.__subclasses__())
