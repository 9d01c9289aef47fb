"""LAMBADA: does a model know how a passage ends?

Two protocols share the name, and their numbers are not comparable:

`lm-eval` scores the last word, all of its tokens. An answer is right where each of them is the most probable
one after those before; the perplexity is exp(-mean log p(word)).

`openai` scores the last token, which may be the rest of a word. Curly quotes become straight, and the passage
begins with a newline. OpenAI published no code: this is what is known of it. GPT-2's paper
adds a stop-word filter, without giving its list: words that cannot end such a passage are no answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.evaluation.jsonl import Record
from gpt2kit.evaluation.likelihood import TextScore, finite, perplexity
from gpt2kit.evaluation.pair import Pair, encode, encode_pair

__all__ = ["LambadaResult", "Protocol", "passages", "rate_passages", "stop_word_ids"]

FIELDS: dict[str, type] = {"text": str}
_STRAIGHT = str.maketrans({"“": '"', "”": '"'})


class Protocol(StrEnum):
    """How a passage is read and an answer counted."""

    openai = "openai"
    lm_eval = "lm-eval"


@dataclass(frozen=True)
class LambadaResult:
    """What came of all passages under one protocol.

    Attributes:
        protocol: Which.
        passages: How many.
        right: To how many the model's most probable answer was the right one.
        log_prob: Sum over the passages of log p(the right answer), in nats.
    """

    protocol: Protocol
    passages: int
    right: int
    log_prob: float

    @property
    def accuracy(self) -> float:
        """The part of the passages that was right."""
        return self.right / self.passages

    @property
    def accuracy_error(self) -> float:
        """Standard error of the accuracy; not a number for a single passage."""
        return standard_error(self.accuracy, self.passages)

    @property
    def perplexity(self) -> float:
        """exp(-log_prob / passages)."""
        return perplexity(-self.log_prob / self.passages)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers by their names."""
        return {
            "protocol": self.protocol.value,
            "passages": self.passages,
            "right": self.right,
            "accuracy": self.accuracy,
            "accuracy_error": finite(self.accuracy_error),
            "perplexity": finite(self.perplexity),
        }


def standard_error(share: float, count: int) -> float:
    """Return the standard error of a mean of zeros and ones: their sample deviation over sqrt(count)."""
    return math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else math.nan


def passages(
    records: Iterable[Record], tokenizer: Any, protocol: Protocol, prefix_token_id: int | None = None
) -> Iterator[Pair]:
    """Turn passages into contexts and the answers to score.

    Args:
        records: Lines with a field "text".
        tokenizer: Any that returns "input_ids".
        protocol: How a passage is read.
        prefix_token_id: Stands before a passage that is a single word, under lm-eval's protocol.

    Raises:
        InputError: A passage has nothing to predict; the message names its line.

    Source:
        openai/gpt-2 issue 131 (quotes, newline, last token); lm-evaluation-harness 0.4.13,
        tasks/lambada/lambada_openai.yaml, and its issue 356 on the difference.
    """
    for where, fields in records:
        try:
            yield _passage(fields["text"], tokenizer, protocol, prefix_token_id)
        except (InputError, TokenizerError) as error:
            raise InputError(f"{where}: {error}") from None


def _passage(text: str, tokenizer: Any, protocol: Protocol, prefix_token_id: int | None) -> Pair:
    if protocol is Protocol.openai:
        ids = encode(tokenizer, "\n" + text.translate(_STRAIGHT).strip())
        if not text.strip() or len(ids) < 2:
            raise InputError("the passage is empty, so there is nothing to predict.")
        return Pair(np.array(ids, np.int64), len(ids) - 1)
    context, _, word = text.rpartition(" ")
    if not word:
        raise InputError("the passage ends with a space, so it has no last word to predict.")
    return encode_pair(tokenizer, context, " " + word, prefix_token_id)


def rate_passages(scores: Iterable[TextScore], protocol: Protocol) -> LambadaResult:
    """Count the right answers, given the scores of what `passages` made, with `greedy`.

    Raises:
        InputError: A score does not tell which tokens are greedy.
    """
    found = list(scores)
    if any(score.greedy is None for score in found):
        raise InputError("Right answers are counted by scores with greedy; score with greedy=True.")
    right = sum(bool(np.all(score.greedy)) for score in found)
    return LambadaResult(protocol, len(found), right, math.fsum(score.log_prob for score in found))


def stop_word_ids(tokenizer: Any, words: Iterable[str]) -> list[int]:
    """Return the tokens that are a stop word with a space before it, in small or capital letters.

    Tokens without the space are left alone: they may be the end of another word.

    Source:
        Radford et al. 2019, section 3.3: the filter stands for "the word must be a valid final word".
    """
    stopped = {word.casefold() for word in words}
    found = []
    for index in range(len(tokenizer)):
        text = tokenizer.token_bytes(index).decode("utf-8", errors="replace")
        if text.startswith(" ") and text[1:].casefold() in stopped:
            found.append(index)
    return found
