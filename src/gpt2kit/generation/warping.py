"""The rules of sampling as data: which tokens may be drawn. They come after all other rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gpt2kit.generation.rule import Rule, check_integer, check_real

__all__ = [
    "WARPERS",
    "EpsilonCutoff",
    "EtaCutoff",
    "MinP",
    "Temperature",
    "TopK",
    "TopP",
    "Typical",
]


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


WARPERS: tuple[type[Rule], ...] = (Temperature, TopK, TopP, MinP, Typical, EpsilonCutoff, EtaCutoff)
