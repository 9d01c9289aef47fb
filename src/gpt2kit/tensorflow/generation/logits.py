"""The rules of a generation in TensorFlow: what happens to the scores of the next token.

Each class carries the public name of transformers 4.34, or one made alike, and is called with the text so
far, the scores and the length of the text, `processor(input_ids, scores, cur_len)`. `PROCESSOR_OF` maps each
rule of `gpt2kit.generation.rules` to its class; `REFUSED` says why a rule has none.
Dimensions: R rows of text, T tokens that have room, n tokens that a rule names, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from gpt2kit.generation import rules
from gpt2kit.tensorflow.generation.ngram import TFNoRepeatNGramLogitsProcessor
from gpt2kit.tensorflow.generation.processor import TFLogitsProcessor, TFLogitsProcessorList, leaves
from gpt2kit.tensorflow.generation.vocabulary import named, seen
from gpt2kit.tensorflow.generation.warpers import (
    TFEpsilonLogitsWarper,
    TFEtaLogitsWarper,
    TFLogitsWarper,
    TFMinPLogitsWarper,
    TFTemperatureLogitsWarper,
    TFTopKLogitsWarper,
    TFTopPLogitsWarper,
    TFTypicalLogitsWarper,
)

__all__ = [
    "PROCESSOR_OF",
    "REFUSED",
    "Setting",
    "TFEncoderRepetitionPenaltyLogitsProcessor",
    "TFEpsilonLogitsWarper",
    "TFEtaLogitsWarper",
    "TFExponentialDecayLengthPenalty",
    "TFForceTokensLogitsProcessor",
    "TFForcedBOSTokenLogitsProcessor",
    "TFForcedEOSTokenLogitsProcessor",
    "TFInfNanRemoveLogitsProcessor",
    "TFLogitNormalization",
    "TFLogitsProcessor",
    "TFLogitsProcessorList",
    "TFLogitsWarper",
    "TFMinLengthLogitsProcessor",
    "TFMinNewTokensLengthLogitsProcessor",
    "TFMinPLogitsWarper",
    "TFNoBadWordsLogitsProcessor",
    "TFNoRepeatNGramLogitsProcessor",
    "TFRepetitionPenaltyLogitsProcessor",
    "TFSequenceBiasLogitsProcessor",
    "TFSuppressTokensAtBeginLogitsProcessor",
    "TFSuppressTokensLogitsProcessor",
    "TFTemperatureLogitsWarper",
    "TFTopKLogitsWarper",
    "TFTopPLogitsWarper",
    "TFTypicalLogitsWarper",
    "processor_of",
]

_NEVER = -float("inf")


@dataclass(frozen=True)
class Setting:
    """What the code of a rule may need besides the rule's numbers.

    Attributes:
        prompt: The prompt's tokens with what fills their bucket behind them, [B, T].
        length: How many of these are the prompt's.
    """

    prompt: Any
    length: Any


# ---------------------------------------------------------------------- processors


@leaves(numbers=("words", "biases"))
class TFSequenceBiasLogitsProcessor(TFLogitsProcessor):
    """Add a bias to the last token of a sequence wherever the text ends in the tokens before it.

    Args:
        sequence_bias: Token ids -> bias, such as `{(5,): -2.0, (7, 11): 4.0}`.
    """

    def __init__(self, sequence_bias: Mapping[tuple[int, ...], float]) -> None:
        given = rules.SequenceBias(sequence_bias).sequence_bias
        longest = max(len(ids) for ids in given)
        # Side by side with their last tokens in line; -1 stands where a shorter one has nothing.
        self.words = np.array([(-1,) * (longest - len(ids)) + ids for ids in given], np.int32)  # [n, longest]
        self.biases = np.array(list(given.values()), np.float32)  # [n]

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        R, V = scores.shape
        before, last = self.words[:, :-1], self.words[:, -1]  # [n, longest - 1], [n]
        places = cur_len + tf.range(-before.shape[1], 0)  # [longest - 1]; below 0 before the text begins
        end = tf.gather(input_ids, tf.maximum(places, 0), axis=1)  # [R, longest - 1]
        end = tf.where(places < 0, -2, end)  # [R, longest - 1]
        matches = tf.reduce_all((before == end[:, None]) | (before < 0), axis=-1)  # [R, n]
        found = tf.where(matches, tf.cast(self.biases, scores.dtype), tf.zeros((), scores.dtype))  # [R, n]
        added = tf.scatter_nd(tf.convert_to_tensor(last)[:, None], tf.transpose(found), [V, R])  # [V, R]
        return scores + tf.transpose(added)  # [R, V]


@leaves(numbers=("penalty", "encoder_input_ids", "length"))
class TFEncoderRepetitionPenaltyLogitsProcessor(TFLogitsProcessor):
    """Make the tokens of the prompt likelier by a factor.

    Args:
        penalty: Above 1 favours the prompt's tokens, below 1 avoids them.
        encoder_input_ids: The prompt, [B, T].
        length: How many tokens of it count; all, if it is not given.
    """

    def __init__(self, penalty: float, encoder_input_ids: Any, length: Any = None) -> None:
        self.penalty = 1 / float(rules.EncoderRepetitionPenalty(penalty).penalty)
        self.encoder_input_ids = encoder_input_ids
        self.length = encoder_input_ids.shape[1] if length is None else length

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        texts = scores.shape[0] // self.encoder_input_ids.shape[0]  # of each prompt
        prompts = tf.repeat(tf.cast(self.encoder_input_ids, tf.int32), texts, axis=0)  # [R, T]
        return _penalise(scores, prompts, self.length, self.penalty)  # [R, V]


@leaves(numbers=("penalty",))
class TFRepetitionPenaltyLogitsProcessor(TFLogitsProcessor):
    """Make the tokens of the text so far less likely by a factor.

    Source:
        Keskar et al. 2019, "CTRL", section 4.1, with negative scores multiplied instead of divided.
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = float(rules.RepetitionPenalty(penalty).penalty)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        return _penalise(scores, input_ids, cur_len, self.penalty)  # [R, V]


@leaves(numbers=("words", "biases"))
class TFNoBadWordsLogitsProcessor(TFSequenceBiasLogitsProcessor):
    """Bar the last token of each bad word wherever the text ends in the tokens before it.

    Args:
        bad_words_ids: The words, as lists of token ids.
        eos_token_id: End tokens, which are never barred.
    """

    def __init__(
        self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: int | Sequence[int] | None
    ) -> None:
        ends = () if eos_token_id is None else tuple(np.atleast_1d(eos_token_id).tolist())
        rule = rules.NoBadWords(tuple(tuple(word) for word in bad_words_ids), ends)
        super().__init__(dict.fromkeys(rule.bad_words_ids, _NEVER))


@leaves(numbers=("min_length", "eos_token_id"))
class TFMinLengthLogitsProcessor(TFLogitsProcessor):
    """Bar the end tokens until the text, prompt included, has `min_length` tokens."""

    def __init__(self, min_length: int, eos_token_id: int | Sequence[int]) -> None:
        rule = rules.MinLength(min_length, _ids(eos_token_id))
        self.min_length = int(rule.min_length)
        self.eos_token_id = _array(rule.eos_token_ids)  # [n]

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        return _bar(scores, self.eos_token_id, cur_len < self.min_length)  # [R, V]


@leaves(numbers=("prompt_length_to_skip", "min_new_tokens", "eos_token_id"))
class TFMinNewTokensLengthLogitsProcessor(TFLogitsProcessor):
    """Bar the end tokens until `min_new_tokens` follow the prompt."""

    def __init__(
        self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: int | Sequence[int]
    ) -> None:
        rule = rules.MinNewTokens(prompt_length_to_skip, min_new_tokens, _ids(eos_token_id))
        self.prompt_length_to_skip = int(rule.prompt_length_to_skip)
        self.min_new_tokens = int(rule.min_new_tokens)
        self.eos_token_id = _array(rule.eos_token_ids)  # [n]

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        too_short = cur_len - self.prompt_length_to_skip < self.min_new_tokens
        return _bar(scores, self.eos_token_id, too_short)  # [R, V]


@leaves(numbers=("bos_token_id",))
class TFForcedBOSTokenLogitsProcessor(TFLogitsProcessor):
    """Force the token that follows a text of one token."""

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = int(rules.ForcedBOS(bos_token_id).bos_token_id)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        return _force(scores, tf.reshape(self.bos_token_id, [1]), tf.equal(cur_len, 1))  # [R, V]


@leaves(numbers=("max_length", "eos_token_id"))
class TFForcedEOSTokenLogitsProcessor(TFLogitsProcessor):
    """Force an end token as the last of `max_length` tokens."""

    def __init__(self, max_length: int, eos_token_id: int | Sequence[int]) -> None:
        rule = rules.ForcedEOS(max_length, _ids(eos_token_id))
        self.max_length = int(rule.max_length)
        self.eos_token_id = _array(rule.eos_token_ids)  # [n]

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        return _force(scores, self.eos_token_id, tf.equal(cur_len, self.max_length - 1))  # [R, V]


@leaves()
class TFInfNanRemoveLogitsProcessor(TFLogitsProcessor):
    """Turn NaN into 0 and +inf into the largest number of the dtype."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        numbers = tf.where(tf.math.is_nan(scores), tf.zeros((), scores.dtype), scores)  # [R, V]
        return tf.minimum(numbers, scores.dtype.max)  # [R, V]


@leaves(numbers=("regulation_start", "regulation_factor", "eos_token_id"))
class TFExponentialDecayLengthPenalty(TFLogitsProcessor):
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
        self.regulation_start = int(rule.start_index + rule.prompt_length)
        self.regulation_factor = float(rule.factor)
        self.eos_token_id = _array(rule.eos_token_ids)  # [n]

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        tokens_after = tf.cast(tf.maximum(cur_len - self.regulation_start, 0), scores.dtype)
        growth = tf.pow(tf.cast(self.regulation_factor, scores.dtype), tokens_after) - 1
        is_end = named(self.eos_token_id, scores.shape[-1]) & (scores > _NEVER)  # [R, V]
        return tf.where(is_end, scores + tf.abs(scores) * growth, scores)  # [R, V]


@leaves(numbers=("suppress_tokens",))
class TFSuppressTokensLogitsProcessor(TFLogitsProcessor):
    """Never write these tokens."""

    def __init__(self, suppress_tokens: Iterable[int]) -> None:
        self.suppress_tokens = _array(rules.SuppressTokens(tuple(suppress_tokens)).tokens)  # [n]

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        return _bar(scores, self.suppress_tokens, True)  # [R, V]


@leaves(numbers=("begin_suppress_tokens", "begin_index"))
class TFSuppressTokensAtBeginLogitsProcessor(TFLogitsProcessor):
    """Do not write these tokens when the text has `begin_index` tokens."""

    def __init__(self, begin_suppress_tokens: Iterable[int], begin_index: int) -> None:
        rule = rules.SuppressTokensAtBegin(tuple(begin_suppress_tokens), begin_index)
        self.begin_suppress_tokens = _array(rule.tokens)  # [n]
        self.begin_index = int(rule.begin_index)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        return _bar(scores, self.begin_suppress_tokens, tf.equal(cur_len, self.begin_index))  # [R, V]


@leaves(numbers=("places", "tokens"))
class TFForceTokensLogitsProcessor(TFLogitsProcessor):
    """Force tokens at given places of the text, counted from 0 with the prompt.

    Args:
        force_token_map: Pairs [place, token id].
    """

    def __init__(self, force_token_map: Sequence[Sequence[int]] | Mapping[int, int]) -> None:
        pairs: Any = force_token_map.items() if isinstance(force_token_map, Mapping) else force_token_map
        rule = rules.ForceTokens(tuple(pairs))
        forced = dict(rule.force_token_map)
        self.places = _array(tuple(forced))  # [n]
        self.tokens = _array(tuple(forced.values()))  # [n]

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        now = tf.equal(cur_len, self.places)  # [n]
        tokens = tf.where(now, self.tokens, scores.shape[-1])  # [n]; V is no token
        return _force(scores, tokens, tf.reduce_any(now))  # [R, V]


@leaves()
class TFLogitNormalization(TFLogitsProcessor, TFLogitsWarper):
    """Turn scores into log-probabilities; a row without a token that may come stays as it is."""

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        never = tf.constant(_NEVER, scores.dtype)
        return tf.where(scores == never, never, tf.nn.log_softmax(scores, axis=-1))  # [R, V]


# ---------------------------------------------------------------------- from rule to processor

PROCESSOR_OF: dict[type[rules.Rule], Callable[[Any, Setting], TFLogitsProcessor | TFLogitsWarper]] = {
    rules.SequenceBias: lambda rule, _: TFSequenceBiasLogitsProcessor(rule.sequence_bias),
    rules.EncoderRepetitionPenalty: lambda rule, at: TFEncoderRepetitionPenaltyLogitsProcessor(
        rule.penalty, at.prompt, at.length
    ),
    rules.RepetitionPenalty: lambda rule, _: TFRepetitionPenaltyLogitsProcessor(rule.penalty),
    rules.NoRepeatNGram: lambda rule, _: TFNoRepeatNGramLogitsProcessor(rule.ngram_size),
    rules.NoBadWords: lambda rule, _: TFNoBadWordsLogitsProcessor(rule.bad_words_ids, rule.eos_token_ids),
    rules.MinLength: lambda rule, _: TFMinLengthLogitsProcessor(rule.min_length, rule.eos_token_ids),
    rules.MinNewTokens: lambda rule, _: TFMinNewTokensLengthLogitsProcessor(
        rule.prompt_length_to_skip, rule.min_new_tokens, rule.eos_token_ids
    ),
    rules.ForcedBOS: lambda rule, _: TFForcedBOSTokenLogitsProcessor(rule.bos_token_id),
    rules.ForcedEOS: lambda rule, _: TFForcedEOSTokenLogitsProcessor(rule.max_length, rule.eos_token_ids),
    rules.RemoveInvalid: lambda rule, _: TFInfNanRemoveLogitsProcessor(),
    rules.ExponentialDecay: lambda rule, _: TFExponentialDecayLengthPenalty(
        (rule.start_index, rule.factor), rule.eos_token_ids, rule.prompt_length
    ),
    rules.SuppressTokens: lambda rule, _: TFSuppressTokensLogitsProcessor(rule.tokens),
    rules.SuppressTokensAtBegin: lambda rule, _: TFSuppressTokensAtBeginLogitsProcessor(
        rule.tokens, rule.begin_index
    ),
    rules.ForceTokens: lambda rule, _: TFForceTokensLogitsProcessor(rule.force_token_map),
    rules.LogitNormalization: lambda rule, _: TFLogitNormalization(),
    rules.Temperature: lambda rule, _: TFTemperatureLogitsWarper(rule.temperature),
    rules.TopK: lambda rule, _: TFTopKLogitsWarper(rule.top_k, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.TopP: lambda rule, _: TFTopPLogitsWarper(rule.top_p, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.MinP: lambda rule, _: TFMinPLogitsWarper(rule.min_p, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.Typical: lambda rule, _: TFTypicalLogitsWarper(
        rule.mass, min_tokens_to_keep=rule.min_tokens_to_keep
    ),
    rules.EpsilonCutoff: lambda rule, _: TFEpsilonLogitsWarper(
        rule.epsilon, min_tokens_to_keep=rule.min_tokens_to_keep
    ),
    rules.EtaCutoff: lambda rule, _: TFEtaLogitsWarper(
        rule.epsilon, min_tokens_to_keep=rule.min_tokens_to_keep
    ),
}

# Why this room does not follow a rule, and the way out.
REFUSED: dict[type[rules.Rule], str] = {
    rules.Guidance: "it runs the model on a second text beside each; the PyTorch room does",
    rules.HammingDiversity: "it belongs to groups of beams, which the PyTorch room has",
    rules.PrefixConstrained: (
        "a compiled program cannot ask a Python function at each step. Write a TFLogitsProcessor of "
        "TensorFlow's operations and pass it in logits_processor, or use the PyTorch room"
    ),
}


def processor_of(rule: rules.Rule, at: Setting) -> TFLogitsProcessor | TFLogitsWarper:
    """Return the code of a rule that is not refused.

    Args:
        rule: What shall happen to the scores.
        at: What else it may need.
    """
    return PROCESSOR_OF[type(rule)](rule, at)


# ---------------------------------------------------------------------- what several rules do


def _ids(value: int | Sequence[int]) -> tuple[int, ...]:
    """Return one id or many as a tuple; the rule checks them."""
    return tuple(value) if isinstance(value, (Sequence, np.ndarray)) else (value,)


def _array(ids: tuple[int, ...]) -> NDArray[np.int32]:
    return np.array(ids, np.int32)  # [n]


def _bar(scores: Any, ids: Any, when: Any) -> Any:
    """Return scores in which some tokens can never win, where that is wanted, [R, V]."""
    barred = named(ids, scores.shape[-1]) & when  # [V]
    return tf.where(barred, tf.constant(_NEVER, scores.dtype), scores)  # [R, V]


def _force(scores: Any, ids: Any, when: Any) -> Any:
    """Return scores in which only some tokens can win, all alike, where that is wanted, [R, V]."""
    forced = tf.where(named(ids, scores.shape[-1]), tf.zeros((), scores.dtype), _NEVER)  # [V]
    return tf.where(when, forced, scores)  # [R, V]


def _penalise(scores: Any, ids: Any, length: Any, penalty: Any) -> Any:
    """Divide the positive and multiply the negative scores of the first `length` tokens of each row."""
    V = scores.shape[-1]
    penalty = tf.cast(penalty, scores.dtype)
    counted = tf.where(tf.range(ids.shape[1]) < length, ids, V)  # [R, T]; V is no token
    changed = tf.where(scores < 0, scores * penalty, scores / penalty)  # [R, V]
    return tf.where(seen(counted, V), changed, scores)  # [R, V]
