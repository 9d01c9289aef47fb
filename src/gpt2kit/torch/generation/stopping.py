"""What ends a text, in PyTorch.

A criterion is called after each token with the text so far and the scores kept so far, and answers with a
bool (all rows end) or a tensor of bools [B] (these rows end). Dimensions: B rows of text, T tokens so far.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import stops

__all__ = [
    "CRITERION_OF",
    "EosTokenCriteria",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "StopStringCriteria",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "ended_rows",
]


class StoppingCriteria:
    """Decide after each token whether the text ends; subclass it to make a reason of your own."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool | Tensor:
        """Return whether all rows end, or for each row whether it ends, [B]."""
        raise NotImplementedError(f"{type(self).__name__} has to define __call__(input_ids, scores).")


class MaxLengthCriteria(StoppingCriteria):
    """End all rows at `max_length` tokens, prompt included.

    Args:
        max_length: The number of tokens.
        max_position_embeddings: Positions of the model; kept, since `generate` itself refuses more.
    """

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length = stops.MaxLength(max_length).max_length
        self.max_position_embeddings = max_position_embeddings

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return input_ids.shape[-1] >= self.max_length


class MaxTimeCriteria(StoppingCriteria):
    """End all rows once more than `max_time` seconds have passed.

    Args:
        max_time: Seconds.
        initial_timestamp: When to count from, as `time.time()` gives it; by default from now.
    """

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = stops.MaxTime(max_time).max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return time.time() - self.initial_timestamp > self.max_time


class EosTokenCriteria(StoppingCriteria):
    """End the rows whose last token is one of the end tokens."""

    def __init__(self, eos_token_id: int | Sequence[int]) -> None:
        self.eos_token_id = stops.EosTokens(eos_token_id).eos_token_ids  # type: ignore[arg-type]  # made a tuple there
        self._ends: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._ends is None or self._ends.device != input_ids.device:
            self._ends = torch.tensor(self.eos_token_id, device=input_ids.device)  # [number of end tokens]
        return (input_ids[:, -1:] == self._ends).any(dim=1)  # [B]


class StopStringCriteria(StoppingCriteria):
    """End the rows whose last token completes one of the strings, wherever the tokens' boundaries lie.

    A string may begin in any token of the answer and end inside one; what the last token holds beyond it
    stays in the text, and so does the string. The prompt does not count. Work for a token is bounded by the
    length of the longest string, not by the text.

    Args:
        tokenizer: Anything with `decode(ids, **kwargs) -> str`.
        stop_strings: One string or several.
        prompt_length: Tokens of the prompt, which are not looked at.
    """

    def __init__(self, tokenizer: Any, stop_strings: str | Sequence[str], prompt_length: int = 0) -> None:
        self.tokenizer = tokenizer
        self.stop_strings = stops.StopStrings(stop_strings).stop_strings  # type: ignore[arg-type]  # made a tuple there
        self.prompt_length = prompt_length
        # Every token has at least one byte, so no more tokens than this can hold the string and its end.
        self._window = max(len(string.encode("utf-8")) for string in self.stop_strings) + 1

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        start = max(self.prompt_length, input_ids.shape[1] - self._window)
        ended = [self._ends_with_last_token(row) for row in input_ids[:, start:].tolist()]
        return torch.tensor(ended, device=input_ids.device)  # [B]

    def _ends_with_last_token(self, ids: list[int]) -> bool:
        text, before = self._decode(ids), self._decode(ids[:-1])
        settled = len(before) - before.endswith("\ufffd")  # half a character may become a whole one
        return any(text.find(string, max(0, settled - len(string) + 1)) >= 0 for string in self.stop_strings)

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)


class StoppingCriteriaList(list):
    """Several criteria; the text ends when one of them says so."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        """Return whether every row has ended by one criterion or another."""
        rows = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)  # [B]
        for criterion in self:
            rows = rows | ended_rows(criterion(input_ids, scores, **kwargs), input_ids)  # [B]
        return bool(rows.all())

    @property
    def max_length(self) -> int | None:
        """The length of the first MaxLengthCriteria, if there is one."""
        return next((c.max_length for c in self if isinstance(c, MaxLengthCriteria)), None)


# The tokenizer and the prompt's length are what a stop may need besides its numbers.
CRITERION_OF: dict[type[stops.Stop], Any] = {
    stops.MaxLength: lambda stop, tokenizer, prompt_length: MaxLengthCriteria(stop.max_length),
    stops.EosTokens: lambda stop, tokenizer, prompt_length: EosTokenCriteria(stop.eos_token_ids),
    stops.MaxTime: lambda stop, tokenizer, prompt_length: MaxTimeCriteria(stop.max_time),
    stops.StopStrings: lambda stop, tokenizer, prompt_length: StopStringCriteria(
        tokenizer, stop.stop_strings, prompt_length
    ),
}


def ended_rows(answer: object, input_ids: Tensor) -> Tensor:
    """Return a criterion's answer as one bool a row, [B].

    Raises:
        InputError: a tensor that is neither one answer nor one for each row.
    """
    B = input_ids.shape[0]
    if not isinstance(answer, Tensor):
        return torch.full((B,), bool(answer), device=input_ids.device)  # [B]
    if answer.numel() not in (1, B):
        raise InputError(
            f"A stopping criterion has to answer once for all or once for each of the {B} row(s), but "
            f"answered with a tensor of shape {list(answer.shape)}."
        )
    return answer.to(input_ids.device).bool().reshape(-1).expand(B)  # [B]
