"""Multiple choice: which of several continuations does a model find most probable?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.evaluation.jsonl import Record
from gpt2kit.evaluation.lambada import standard_error
from gpt2kit.evaluation.likelihood import Likelihood, finite
from gpt2kit.evaluation.pair import Pair, encode_pair

__all__ = ["ChoiceResult", "Question", "questions", "rate_choices"]

FIELDS: dict[str, type] = {"context": str, "choices": list, "label": int}


class Question(NamedTuple):
    """One question: its choices as tokens behind the context, their lengths in characters, the right one."""

    pairs: tuple[Pair, ...]
    lengths: tuple[int, ...]
    label: int


@dataclass(frozen=True)
class ChoiceResult:
    """What came of all questions.

    Attributes:
        questions: How many.
        right: Where the right choice had the largest log_prob.
        right_normalized: Where it had the largest log_prob / characters.
    """

    questions: int
    right: int
    right_normalized: int

    @property
    def accuracy(self) -> float:
        """lm-eval's `acc`."""
        return self.right / self.questions

    @property
    def accuracy_normalized(self) -> float:
        """lm-eval's `acc_norm`: long choices are not at a disadvantage."""
        return self.right_normalized / self.questions

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers by their names."""
        numbers: dict[str, Any] = {"questions": self.questions}
        for name, value in (
            ("accuracy", self.accuracy),
            ("accuracy_normalized", self.accuracy_normalized),
        ):
            numbers[name] = value
            numbers[f"{name}_error"] = finite(standard_error(value, self.questions))
        return numbers


def questions(
    records: Iterable[Record], tokenizer: Any, *, delimiter: str = " ", prefix_token_id: int | None = None
) -> Iterator[Question]:
    """Turn lines of a file into questions.

    Args:
        records: Lines with "context", "choices" (at least two strings) and "label" (the number of the right
            one, from 0).
        tokenizer: Any that returns "input_ids".
        delimiter: Stands between context and choice; counts for nothing in the length of the choice.
        prefix_token_id: Stands before a choice without a context.

    Raises:
        InputError: Fewer than two choices, a label that is none of them, an empty choice; the message names
            the line.
    """
    for where, fields in records:
        choices, label = fields["choices"], fields["label"]
        if len(choices) < 2:
            raise InputError(f'{where}: "choices" should be two or more, and there are {len(choices)}.')
        if not 0 <= label < len(choices):
            raise InputError(
                f'{where}: "label" is {label}, and the {len(choices)} choices are numbered from 0 to '
                f"{len(choices) - 1}."
            )
        if "" in choices:
            raise InputError(f"{where}: choice {choices.index('')} is empty.")
        try:
            pairs = tuple(
                encode_pair(tokenizer, fields["context"], delimiter + choice, prefix_token_id)
                for choice in choices
            )
        except (InputError, TokenizerError) as error:
            raise InputError(f"{where}: {error}") from None
        yield Question(pairs, tuple(map(len, choices)), label)


def rate_choices(asked: Sequence[Question], scores: Sequence[Likelihood]) -> ChoiceResult:
    """Count the questions answered right; of equal choices the first is taken.

    Args:
        asked: The questions.
        scores: The score of each choice, question after question.

    Raises:
        InputError: There are more or fewer scores than choices.

    Source:
        lm-evaluation-harness 0.4.13, api/task.py: acc and acc_norm of multiple-choice tasks.
    """
    choices = sum(len(question.pairs) for question in asked)
    if choices != len(scores):
        raise InputError(f"{choices} choices should have a score each, and there are {len(scores)} scores.")
    right = right_normalized = place = 0
    for question in asked:
        count = len(question.pairs)
        log_probs = np.array([score.log_prob for score in scores[place : place + count]])  # [C]
        place += count
        right += int(np.argmax(log_probs)) == question.label
        right_normalized += int(np.argmax(log_probs / np.array(question.lengths))) == question.label
    return ChoiceResult(len(asked), right, right_normalized)
