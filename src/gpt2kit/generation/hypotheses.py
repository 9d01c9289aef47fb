"""The finished texts of a beam search: the best few of one prompt or of a group of its beams. No tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Hypotheses", "Hypothesis"]


@dataclass(frozen=True, eq=False)  # texts of a room do not compare to one truth
class Hypothesis:
    """A finished text.

    Attributes:
        score: Its log-probability, divided by its length to the power of the length penalty.
        text: Its tokens in the form of the room, prompt included and the end token excluded.
        end: The token that ended it; None where the length or a criterion did.
        beams: The row of the scores that each new token was chosen from, where that is recorded.
        fulfilled: Whether it has everything that had to be written.
    """

    score: float
    text: Any
    end: int | None = None
    beams: Any = None
    fulfilled: bool = True


class Hypotheses:
    """Keep the best finished texts, and know when no better one can come.

    Args:
        size: How many to keep.
        length_penalty: Power of the length that a score is divided by.
        early_stopping: True ends at `size` texts, False where the best beam, as long as it is, would not get
            in, "never" where it could not get in at any length.
        max_length: The most tokens of a text.

    Source:
        transformers v4.34.0, generation/beam_search.py, BeamHypotheses.
    """

    def __init__(self, size: int, length_penalty: float, early_stopping: bool | str, max_length: int) -> None:
        self.size = size
        self.length_penalty = length_penalty
        self.early_stopping = early_stopping
        self.max_length = max_length
        self.found: list[Hypothesis] = []
        self.done = False

    def add(self, total: float, length: int, text: Any, end: int | None = None, beams: Any = None) -> None:
        """Take a text of this log-probability and length if it is among the best."""
        score = total / length**self.length_penalty
        if len(self.found) == self.size:
            scores = [one.score for one in self.found]
            if score <= min(scores):
                return
            del self.found[scores.index(min(scores))]
        self.found.append(Hypothesis(score, text, end, beams))

    def add_spare(self, total: float, length: int, text: Any, beams: Any = None) -> None:
        """Take a text that lacks what had to be written; it is returned where there is no other."""
        self.found.append(Hypothesis(total / length**self.length_penalty, text, None, beams, fulfilled=False))

    def settle(self, best: float, length: int) -> None:
        """Close the list if the best beam, of this log-probability and length, cannot get in any more."""
        if len(self.found) < self.size or self.done:
            return
        if self.early_stopping is True:
            self.done = True
            return
        longest = self.early_stopping == "never" and self.length_penalty > 0
        attainable = best / (self.max_length if longest else length) ** self.length_penalty
        self.done = min(one.score for one in self.found) >= attainable
