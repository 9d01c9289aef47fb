"""The rules of a generation in PyTorch: what happens to the scores of the next token.

Each class carries the public name of transformers 4.34 and is called with the text so far and the scores,
`processor(input_ids, scores)`; it returns new scores and leaves those it got alone. `PROCESSOR_OF` maps each
rule of `gpt2kit.generation.rules` to its class, and that is the only way from one to the other.
Dimensions: B rows of text, T tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import rules
from gpt2kit.torch.generation.diversity import HammingDiversityLogitsProcessor
from gpt2kit.torch.generation.guidance import UnbatchedClassifierFreeGuidanceLogitsProcessor, guided
from gpt2kit.torch.generation.ngram import EncoderNoRepeatNGramLogitsProcessor, NoRepeatNGramLogitsProcessor
from gpt2kit.torch.generation.processor import LogitsProcessor, LogitsProcessorList, Setting
from gpt2kit.torch.generation.warpers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

__all__ = [
    "PROCESSOR_OF",
    "EncoderNoRepeatNGramLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "ExponentialDecayLengthPenalty",
    "ForceTokensLogitsProcessor",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "HammingDiversityLogitsProcessor",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "LogitsProcessor",
    "LogitsProcessorList",
    "LogitsWarper",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "MinPLogitsWarper",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",
    "processor_of",
]

_NEVER = -float("inf")
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)  # dtypes of token ids


# ---------------------------------------------------------------------- processors


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """Add a bias to the last token of a sequence wherever the text ends in the tokens before it.

    Args:
        sequence_bias: Token ids -> bias, such as `{(5,): -2.0, (7, 11): 4.0}`.
    """

    def __init__(self, sequence_bias: Mapping[tuple[int, ...], float]) -> None:
        self.sequence_bias = dict(rules.SequenceBias(sequence_bias).sequence_bias)
        self._single: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._single is None or self._single.device != scores.device:
            self._single = self._bias_of_single_tokens(scores)
        bias = self._single.expand_as(scores).clone()  # [B, V]
        for ids, value in self.sequence_bias.items():
            prefix = len(ids) - 1
            if 0 < prefix <= input_ids.shape[1]:
                before = torch.tensor(ids[:-1], dtype=input_ids.dtype, device=input_ids.device)  # [prefix]
                matches = (input_ids[:, -prefix:] == before).all(dim=1)  # [B]
                bias[:, ids[-1]] += torch.where(matches, value, 0.0)  # [B]
        return scores + bias  # [B, V]

    def _bias_of_single_tokens(self, scores: Tensor) -> Tensor:
        V = scores.shape[-1]
        outside = sorted({i for ids in self.sequence_bias for i in ids if i >= V})
        if outside:
            raise InputError(f"The token ids {outside} are biased, but the vocabulary ends at {V - 1}.")
        single = torch.zeros(V, dtype=torch.float, device=scores.device)  # [V]
        for ids, value in self.sequence_bias.items():
            if len(ids) == 1:
                single[ids[0]] = value
        return single


class EncoderRepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Make the tokens of the prompt likelier by a factor.

    Args:
        penalty: Above 1 favours the prompt's tokens, below 1 avoids them.
        encoder_input_ids: The prompt, [B, T].
    """

    def __init__(self, penalty: float, encoder_input_ids: Tensor) -> None:
        self.penalty = 1 / rules.EncoderRepetitionPenalty(penalty).penalty
        self.encoder_input_ids = encoder_input_ids

    knows_rows = True

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        texts = len(scores) // len(self.encoder_input_ids)  # of each prompt
        prompts = self.encoder_input_ids.repeat_interleave(texts, dim=0)  # [B, T]
        return _penalise(scores, prompts, self.penalty)  # [B, V]


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Make the tokens of the text so far less likely by a factor.

    Source:
        Keskar et al. 2019, "CTRL", section 4.1, with negative scores multiplied instead of divided.
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = rules.RepetitionPenalty(penalty).penalty

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _penalise(scores, input_ids, self.penalty)  # [B, V]


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Bar the last token of each bad word wherever the text ends in the tokens before it.

    Args:
        bad_words_ids: The words, as lists of token ids.
        eos_token_id: End tokens, which are never barred.
    """

    def __init__(
        self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: int | Sequence[int] | None
    ) -> None:
        rule = rules.NoBadWords(bad_words_ids, _ids(eos_token_id))  # type: ignore[arg-type]  # made tuples there
        self.bad_word_ids = [list(word) for word in rule.bad_words_ids]
        super().__init__(dict.fromkeys(rule.bad_words_ids, _NEVER))


class MinLengthLogitsProcessor(LogitsProcessor):
    """Bar the end tokens until the text, prompt included, has `min_length` tokens."""

    def __init__(self, min_length: int, eos_token_id: int | Sequence[int]) -> None:
        rule = rules.MinLength(min_length, _ids(eos_token_id))
        self.min_length = rule.min_length
        self.eos_token_id = list(rule.eos_token_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _bar(scores, self.eos_token_id) if input_ids.shape[-1] < self.min_length else scores  # [B, V]


class MinNewTokensLengthLogitsProcessor(LogitsProcessor):
    """Bar the end tokens until `min_new_tokens` follow the prompt."""

    def __init__(
        self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: int | Sequence[int]
    ) -> None:
        rule = rules.MinNewTokens(prompt_length_to_skip, min_new_tokens, _ids(eos_token_id))
        self.prompt_length_to_skip = rule.prompt_length_to_skip
        self.min_new_tokens = rule.min_new_tokens
        self.eos_token_id = list(rule.eos_token_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids.shape[-1] - self.prompt_length_to_skip
        return _bar(scores, self.eos_token_id) if written < self.min_new_tokens else scores  # [B, V]


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Allow only the tokens that a function names for a row and its text so far.

    Args:
        prefix_allowed_tokens_fn: (row, ids [T]) -> the ids allowed next, at least one.
        num_beams: Rows that belong to one prompt.

    Attributes:
        ended: Rows that are not asked about, since their text has ended, [B]; a search says so.
        refuses: Whether a row that may not go on is an error; a beam search drops it and follows the others.
    """

    ended: Tensor | None = None
    refuses = True

    def __init__(
        self, prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]], num_beams: int
    ) -> None:
        rule = rules.PrefixConstrained(prefix_allowed_tokens_fn, num_beams)
        self._prefix_allowed_tokens_fn = rule.prefix_allowed_tokens_fn
        self._num_beams = rule.num_beams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        mask = torch.full_like(scores, _NEVER)  # [B, V]
        ended = [False] * len(mask) if self.ended is None else self.ended.tolist()
        for row, text in enumerate(input_ids):
            if ended[row]:
                mask[row] = 0
                continue
            mask[row, self._allowed(row, text, mask.shape[-1]).to(mask.device)] = 0
        return scores + mask  # [B, V]

    def _allowed(self, row: int, text: Tensor, vocab_size: int) -> Tensor:
        """Return the ids that the function allows after the text of a row, [n]."""
        allowed = self._prefix_allowed_tokens_fn(row // self._num_beams, text)
        try:
            ids = torch.as_tensor(allowed if isinstance(allowed, Tensor) else list(allowed))  # [n]
        except (TypeError, ValueError):
            ids = None
        if ids is None or ids.dim() != 1 or (len(ids) and ids.dtype not in _INTEGERS):
            raise InputError(
                "prefix_allowed_tokens_fn has to return the ids of the tokens that may come next, but in "
                f"row {row} it returned {allowed!r}."
            )
        if len(ids) == 0 and self.refuses:
            raise InputError(
                f"prefix_allowed_tokens_fn allows no token after {text.tolist()} in row {row}, where "
                f"token number {len(text) + 1} of the text has to come. Allow the end token where a text "
                "is complete."
            )
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise InputError(
                f"prefix_allowed_tokens_fn allows {ids.tolist()} in row {row}, and not all of these are "
                f"tokens of the vocabulary (0 to {vocab_size - 1})."
            )
        return ids.long()


class ForcedBOSTokenLogitsProcessor(LogitsProcessor):
    """Force the token that follows a text of one token."""

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = rules.ForcedBOS(bos_token_id).bos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _force(scores, [self.bos_token_id]) if input_ids.shape[-1] == 1 else scores  # [B, V]


class ForcedEOSTokenLogitsProcessor(LogitsProcessor):
    """Force an end token as the last of `max_length` tokens."""

    def __init__(self, max_length: int, eos_token_id: int | Sequence[int]) -> None:
        rule = rules.ForcedEOS(max_length, _ids(eos_token_id))
        self.max_length = rule.max_length
        self.eos_token_id = list(rule.eos_token_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return (
            _force(scores, self.eos_token_id) if input_ids.shape[-1] == self.max_length - 1 else scores
        )  # [B, V]


class InfNanRemoveLogitsProcessor(LogitsProcessor):
    """Turn NaN into 0 and +inf into the largest number of the dtype."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.nan_to_num(nan=0.0, posinf=torch.finfo(scores.dtype).max, neginf=_NEVER)  # [B, V]


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """Raise the score s of the end tokens to s + |s| (factor ** n - 1), n tokens after the start.

    Args:
        exponential_decay_length_penalty: (start, factor); the start is counted from the prompt's end.
        eos_token_id: The end tokens.
        input_ids_seq_length: Length of the prompt.
    """

    def __init__(
        self,
        exponential_decay_length_penalty: tuple[int, float],
        eos_token_id: int | Sequence[int],
        input_ids_seq_length: int,
    ) -> None:
        start, factor = exponential_decay_length_penalty
        rule = rules.ExponentialDecay(start, factor, _ids(eos_token_id), input_ids_seq_length)
        self.regulation_start = rule.start_index + rule.prompt_length
        self.regulation_factor = rule.factor
        self.eos_token_id = list(rule.eos_token_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens_after = input_ids.shape[-1] - self.regulation_start
        if tokens_after <= 0:
            return scores
        end = scores[:, self.eos_token_id]  # [B, number of end tokens]
        favoured = end + end.abs() * (self.regulation_factor**tokens_after - 1)  # NaN where an end is barred
        raised = scores.clone()  # [B, V]
        raised[:, self.eos_token_id] = torch.where(end.isneginf(), end, favoured)
        return raised


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """Never write these tokens."""

    def __init__(self, suppress_tokens: Iterable[int]) -> None:
        self.suppress_tokens = list(rules.SuppressTokens(tuple(suppress_tokens)).tokens)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _bar(scores, self.suppress_tokens)  # [B, V]


class SuppressTokensAtBeginLogitsProcessor(LogitsProcessor):
    """Do not write these tokens when the text has `begin_index` tokens."""

    def __init__(self, begin_suppress_tokens: Iterable[int], begin_index: int) -> None:
        rule = rules.SuppressTokensAtBegin(tuple(begin_suppress_tokens), begin_index)
        self.begin_suppress_tokens = list(rule.tokens)
        self.begin_index = rule.begin_index

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return (
            _bar(scores, self.begin_suppress_tokens) if input_ids.shape[1] == self.begin_index else scores
        )  # [B, V]


class ForceTokensLogitsProcessor(LogitsProcessor):
    """Force tokens at given places of the text, counted from 0 with the prompt.

    Args:
        force_token_map: Pairs [place, token id].
    """

    def __init__(self, force_token_map: Sequence[Sequence[int]] | Mapping[int, int]) -> None:
        self.force_token_map = dict(rules.ForceTokens(force_token_map).force_token_map)  # type: ignore[arg-type]  # made tuples there

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = self.force_token_map.get(input_ids.shape[-1])
        return scores if token is None else _force(scores, [token])  # [B, V]


class LogitNormalization(LogitsProcessor, LogitsWarper):
    """Turn scores into log-probabilities; a row without a token that may come stays as it is."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.log_softmax(dim=-1).masked_fill(scores == _NEVER, _NEVER)  # [B, V]


# ---------------------------------------------------------------------- from rule to processor

PROCESSOR_OF: dict[type[rules.Rule], Callable[[Any, Setting], LogitsProcessor | LogitsWarper]] = {
    rules.Guidance: guided,
    rules.SequenceBias: lambda rule, _: SequenceBiasLogitsProcessor(rule.sequence_bias),
    rules.HammingDiversity: lambda rule, _: HammingDiversityLogitsProcessor(
        rule.diversity_penalty, rule.num_beams, rule.num_beam_groups
    ),
    rules.EncoderRepetitionPenalty: lambda rule, at: EncoderRepetitionPenaltyLogitsProcessor(
        rule.penalty, at.prompt
    ),
    rules.RepetitionPenalty: lambda rule, _: RepetitionPenaltyLogitsProcessor(rule.penalty),
    rules.NoRepeatNGram: lambda rule, _: NoRepeatNGramLogitsProcessor(rule.ngram_size),
    rules.NoBadWords: lambda rule, _: NoBadWordsLogitsProcessor(rule.bad_words_ids, rule.eos_token_ids),
    rules.MinLength: lambda rule, _: MinLengthLogitsProcessor(rule.min_length, rule.eos_token_ids),
    rules.MinNewTokens: lambda rule, _: MinNewTokensLengthLogitsProcessor(
        rule.prompt_length_to_skip, rule.min_new_tokens, rule.eos_token_ids
    ),
    rules.PrefixConstrained: lambda rule, _: PrefixConstrainedLogitsProcessor(
        rule.prefix_allowed_tokens_fn, rule.num_beams
    ),
    rules.ForcedBOS: lambda rule, _: ForcedBOSTokenLogitsProcessor(rule.bos_token_id),
    rules.ForcedEOS: lambda rule, _: ForcedEOSTokenLogitsProcessor(rule.max_length, rule.eos_token_ids),
    rules.RemoveInvalid: lambda rule, _: InfNanRemoveLogitsProcessor(),
    rules.ExponentialDecay: lambda rule, _: ExponentialDecayLengthPenalty(
        (rule.start_index, rule.factor), rule.eos_token_ids, rule.prompt_length
    ),
    rules.SuppressTokens: lambda rule, _: SuppressTokensLogitsProcessor(rule.tokens),
    rules.SuppressTokensAtBegin: lambda rule, _: SuppressTokensAtBeginLogitsProcessor(
        rule.tokens, rule.begin_index
    ),
    rules.ForceTokens: lambda rule, _: ForceTokensLogitsProcessor(rule.force_token_map),
    rules.LogitNormalization: lambda rule, _: LogitNormalization(),
    rules.Temperature: lambda rule, _: TemperatureLogitsWarper(rule.temperature),
    rules.TopK: lambda rule, _: TopKLogitsWarper(rule.top_k, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.TopP: lambda rule, _: TopPLogitsWarper(rule.top_p, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.MinP: lambda rule, _: MinPLogitsWarper(rule.min_p, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.Typical: lambda rule, _: TypicalLogitsWarper(rule.mass, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.EpsilonCutoff: lambda rule, _: EpsilonLogitsWarper(
        rule.epsilon, min_tokens_to_keep=rule.min_tokens_to_keep
    ),
    rules.EtaCutoff: lambda rule, _: EtaLogitsWarper(
        rule.epsilon, min_tokens_to_keep=rule.min_tokens_to_keep
    ),
}


def processor_of(rule: rules.Rule, at: Setting) -> LogitsProcessor | LogitsWarper:
    """Return the code of a rule.

    Args:
        rule: What shall happen to the scores.
        at: What else it may need.
    """
    return PROCESSOR_OF[type(rule)](rule, at)


# ---------------------------------------------------------------------- what several rules do


def _ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _bar(scores: Tensor, ids: list[int]) -> Tensor:
    """Return scores in which some tokens can never win, [B, V]."""
    if not ids:
        return scores
    return scores.index_fill(1, torch.tensor(ids, device=scores.device), _NEVER)  # [B, V]


def _force(scores: Tensor, ids: list[int]) -> Tensor:
    """Return scores in which only some tokens can win, all alike, [B, V]."""
    forced = torch.full_like(scores, _NEVER)  # [B, V]
    forced[:, ids] = 0
    return forced


def _penalise(scores: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Divide the positive and multiply the negative scores of some tokens, once each."""
    chosen = scores.gather(1, ids)  # [B, T]
    changed = torch.where(chosen < 0, chosen * penalty, chosen / penalty)  # [B, T]
    return scores.scatter(1, ids, changed)  # [B, V]
