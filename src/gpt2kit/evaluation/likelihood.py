"""What a score means: the logarithm of a probability, and the perplexities that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gpt2kit.errors import InputError

__all__ = ["Likelihood", "TextScore", "count_words", "finite", "perplexity"]

_LARGEST_EXPONENT = math.log(1.7e308)


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite where that is beyond the largest float."""
    return math.exp(loss) if not loss > _LARGEST_EXPONENT else math.inf


def count_words(text: str) -> int:
    """Count what stands between white space."""
    return len(text.split())


def finite(value: float | None) -> float | None:
    """Return a number that JSON can write: None for what is infinite or no number."""
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, eq=False)
class Likelihood:
    """How probable a text is to a model.

        loss = -log_prob / tokens                          perplexity          = exp(loss)
        bits_per_byte = -log_prob / (bytes * log 2)        perplexity_per_word = exp(-log_prob / words)

    Perplexities per token compare models with one tokenizer; per word or per byte they compare any.

    Attributes:
        log_prob: Sum of log p(token | tokens before it), in nats.
        tokens: How many were scored.
        words: Words of the text, as white space parts them; None where the text is not known.
        bytes: Bytes of the text in UTF-8; None where the text is not known.
    """

    log_prob: float
    tokens: int
    words: int | None = None
    bytes: int | None = None

    @property
    def loss(self) -> float:
        """Mean over the tokens of -log p, in nats; not a number where none was scored."""
        return -self.log_prob / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many tokens the model is as unsure as a fair die."""
        return perplexity(self.loss)

    @property
    def perplexity_per_word(self) -> float:
        """exp(-log_prob / words)."""
        return perplexity(self._per(self.words, "words"))

    @property
    def perplexity_per_byte(self) -> float:
        """exp(-log_prob / bytes)."""
        return perplexity(self._per(self.bytes, "bytes"))

    @property
    def bits_per_byte(self) -> float:
        """-log_prob / (bytes log 2): how well the model would compress the text."""
        return self._per(self.bytes, "bytes") / math.log(2)

    def _per(self, count: int | None, unit: str) -> float:
        if count is None:
            raise InputError(
                f"How many {unit} were scored is not known, because ids were scored. Score texts, or give "
                "the tokenizer of the ids too."
            )
        return -self.log_prob / count if count else math.nan

    @classmethod
    def total(cls, parts: Iterable[Likelihood]) -> Likelihood:
        """Add up the scores of several texts, which are independent of each other."""
        found = list(parts)
        words = [part.words for part in found]
        sizes = [part.bytes for part in found]
        return Likelihood(
            math.fsum(part.log_prob for part in found),
            sum(part.tokens for part in found),
            None if None in words else sum(count or 0 for count in words),
            None if None in sizes else sum(count or 0 for count in sizes),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every number that is known, by its name; None for what JSON has no number for."""
        numbers: dict[str, Any] = {
            "tokens": self.tokens,
            "log_prob": finite(self.log_prob),
            "loss": finite(self.loss),
            "perplexity": finite(self.perplexity),
        }
        if self.words is not None:
            numbers |= {"words": self.words, "perplexity_per_word": finite(self.perplexity_per_word)}
        if self.bytes is not None:
            numbers |= {
                "bytes": self.bytes,
                "perplexity_per_byte": finite(self.perplexity_per_byte),
                "bits_per_byte": finite(self.bits_per_byte),
            }
        return numbers


@dataclass(frozen=True, eq=False, kw_only=True)
class TextScore(Likelihood):
    """The likelihood of one text, token by token.

    Attributes:
        ids: The tokens that were scored, [tokens].
        log_probs: log p of each, in nats, [tokens].
        greedy: Whether each is the one that the model finds most probable, [tokens]; None where nobody asked.
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    greedy: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls,
        ids: NDArray[np.int64],
        log_probs: NDArray[np.float64],
        greedy: NDArray[np.bool_] | None = None,
        text: str | None = None,
    ) -> Self:
        """Make a score of the scored tokens, and of the text that they stand for if it is known."""
        words, size = (None, None) if text is None else (count_words(text), len(text.encode("utf-8")))
        total = math.fsum(log_probs.tolist())
        return cls(total, len(ids), words, size, ids=ids, log_probs=log_probs, greedy=greedy)
