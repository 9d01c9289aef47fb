"""The rules of a generation in JAX: what happens to the scores of the next token.

Each class carries the public name of transformers 4.34, or one made alike, and is called with the text so
far, the scores and the length of the text, `processor(input_ids, scores, cur_len)`. `PROCESSOR_OF` maps each
rule of `gpt2kit.generation.rules` to its class; `REFUSED` says why a rule has none.
Dimensions: R rows of text, T tokens that have room, n tokens that a rule names, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gpt2kit.flax.generation.ngram import FlaxNoRepeatNGramLogitsProcessor
from gpt2kit.flax.generation.processor import FlaxLogitsProcessor, FlaxLogitsProcessorList, tree
from gpt2kit.flax.generation.warpers import (
    FlaxEpsilonLogitsWarper,
    FlaxEtaLogitsWarper,
    FlaxLogitsWarper,
    FlaxMinPLogitsWarper,
    FlaxTemperatureLogitsWarper,
    FlaxTopKLogitsWarper,
    FlaxTopPLogitsWarper,
    FlaxTypicalLogitsWarper,
)
from gpt2kit.generation import rules

__all__ = [
    "PROCESSOR_OF",
    "REFUSED",
    "FlaxEncoderRepetitionPenaltyLogitsProcessor",
    "FlaxEpsilonLogitsWarper",
    "FlaxEtaLogitsWarper",
    "FlaxExponentialDecayLengthPenalty",
    "FlaxForceTokensLogitsProcessor",
    "FlaxForcedBOSTokenLogitsProcessor",
    "FlaxForcedEOSTokenLogitsProcessor",
    "FlaxInfNanRemoveLogitsProcessor",
    "FlaxLogitNormalization",
    "FlaxLogitsProcessor",
    "FlaxLogitsProcessorList",
    "FlaxLogitsWarper",
    "FlaxMinLengthLogitsProcessor",
    "FlaxMinNewTokensLengthLogitsProcessor",
    "FlaxMinPLogitsWarper",
    "FlaxNoBadWordsLogitsProcessor",
    "FlaxNoRepeatNGramLogitsProcessor",
    "FlaxRepetitionPenaltyLogitsProcessor",
    "FlaxSequenceBiasLogitsProcessor",
    "FlaxSuppressTokensAtBeginLogitsProcessor",
    "FlaxSuppressTokensLogitsProcessor",
    "FlaxTemperatureLogitsWarper",
    "FlaxTopKLogitsWarper",
    "FlaxTopPLogitsWarper",
    "FlaxTypicalLogitsWarper",
    "Setting",
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

    prompt: Array | NDArray[Any]
    length: int


# ---------------------------------------------------------------------- processors


@tree(numbers=("words", "biases"))
class FlaxSequenceBiasLogitsProcessor(FlaxLogitsProcessor):
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

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        before, last = self.words[:, :-1], self.words[:, -1]  # [n, longest - 1], [n]
        places = cur_len + jnp.arange(-before.shape[1], 0)  # [longest - 1]; below 0 before the text begins
        end = jnp.where(places < 0, -2, input_ids[:, jnp.maximum(places, 0)])  # [R, longest - 1]
        matches = ((before == end[:, None]) | (before < 0)).all(axis=-1)  # [R, n]
        found = jnp.where(matches, self.biases, 0.0).astype(scores.dtype)  # [R, n]
        return scores + jnp.zeros_like(scores).at[:, last].add(found)  # [R, V]


@tree(numbers=("penalty", "encoder_input_ids", "length"))
class FlaxEncoderRepetitionPenaltyLogitsProcessor(FlaxLogitsProcessor):
    """Make the tokens of the prompt likelier by a factor.

    Args:
        penalty: Above 1 favours the prompt's tokens, below 1 avoids them.
        encoder_input_ids: The prompt, [B, T].
        length: How many tokens of it count; all, if it is not given.
    """

    def __init__(self, penalty: float, encoder_input_ids: Array, length: int | None = None) -> None:
        self.penalty = 1 / float(rules.EncoderRepetitionPenalty(penalty).penalty)
        self.encoder_input_ids = encoder_input_ids
        self.length = encoder_input_ids.shape[1] if length is None else length

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        texts = len(scores) // len(self.encoder_input_ids)  # of each prompt
        prompts = jnp.repeat(jnp.asarray(self.encoder_input_ids), texts, axis=0)  # [R, T]
        return _penalise(scores, prompts, self.length, self.penalty)  # [R, V]


@tree(numbers=("penalty",))
class FlaxRepetitionPenaltyLogitsProcessor(FlaxLogitsProcessor):
    """Make the tokens of the text so far less likely by a factor.

    Source:
        Keskar et al. 2019, "CTRL", section 4.1, with negative scores multiplied instead of divided.
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = float(rules.RepetitionPenalty(penalty).penalty)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        return _penalise(scores, input_ids, cur_len, self.penalty)  # [R, V]


@tree(numbers=("words", "biases"))
class FlaxNoBadWordsLogitsProcessor(FlaxSequenceBiasLogitsProcessor):
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


@tree(numbers=("min_length", "eos_token_id"))
class FlaxMinLengthLogitsProcessor(FlaxLogitsProcessor):
    """Bar the end tokens until the text, prompt included, has `min_length` tokens."""

    def __init__(self, min_length: int, eos_token_id: int | Sequence[int]) -> None:
        rule = rules.MinLength(min_length, _ids(eos_token_id))
        self.min_length = int(rule.min_length)
        self.eos_token_id = _array(rule.eos_token_ids)  # [n]

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        return jnp.where(cur_len < self.min_length, _bar(scores, self.eos_token_id), scores)  # [R, V]


@tree(numbers=("prompt_length_to_skip", "min_new_tokens", "eos_token_id"))
class FlaxMinNewTokensLengthLogitsProcessor(FlaxLogitsProcessor):
    """Bar the end tokens until `min_new_tokens` follow the prompt."""

    def __init__(
        self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: int | Sequence[int]
    ) -> None:
        rule = rules.MinNewTokens(prompt_length_to_skip, min_new_tokens, _ids(eos_token_id))
        self.prompt_length_to_skip = int(rule.prompt_length_to_skip)
        self.min_new_tokens = int(rule.min_new_tokens)
        self.eos_token_id = _array(rule.eos_token_ids)  # [n]

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        too_short = cur_len - self.prompt_length_to_skip < self.min_new_tokens
        return jnp.where(too_short, _bar(scores, self.eos_token_id), scores)  # [R, V]


@tree(numbers=("bos_token_id",))
class FlaxForcedBOSTokenLogitsProcessor(FlaxLogitsProcessor):
    """Force the token that follows a text of one token."""

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = int(rules.ForcedBOS(bos_token_id).bos_token_id)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        return jnp.where(cur_len == 1, _force(scores, self.bos_token_id), scores)  # [R, V]


@tree(numbers=("max_length", "eos_token_id"))
class FlaxForcedEOSTokenLogitsProcessor(FlaxLogitsProcessor):
    """Force an end token as the last of `max_length` tokens."""

    def __init__(self, max_length: int, eos_token_id: int | Sequence[int]) -> None:
        rule = rules.ForcedEOS(max_length, _ids(eos_token_id))
        self.max_length = int(rule.max_length)
        self.eos_token_id = _array(rule.eos_token_ids)  # [n]

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        is_last = jnp.equal(cur_len, self.max_length - 1)
        return jnp.where(is_last, _force(scores, self.eos_token_id), scores)  # [R, V]


@tree()
class FlaxInfNanRemoveLogitsProcessor(FlaxLogitsProcessor):
    """Turn NaN into 0 and +inf into the largest number of the dtype."""

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        return jnp.nan_to_num(scores, nan=0.0, posinf=jnp.finfo(scores.dtype).max, neginf=_NEVER)  # [R, V]


@tree(numbers=("regulation_start", "regulation_factor", "eos_token_id"))
class FlaxExponentialDecayLengthPenalty(FlaxLogitsProcessor):
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

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        tokens_after = jnp.maximum(cur_len - self.regulation_start, 0)
        growth = jnp.power(jnp.asarray(self.regulation_factor, scores.dtype), tokens_after) - 1
        end = scores[:, self.eos_token_id]  # [R, n]
        favoured = jnp.where(jnp.isneginf(end), end, end + jnp.abs(end) * growth)  # [R, n]
        return scores.at[:, self.eos_token_id].set(favoured)  # [R, V]


@tree(numbers=("suppress_tokens",))
class FlaxSuppressTokensLogitsProcessor(FlaxLogitsProcessor):
    """Never write these tokens."""

    def __init__(self, suppress_tokens: Iterable[int]) -> None:
        self.suppress_tokens = _array(rules.SuppressTokens(tuple(suppress_tokens)).tokens)  # [n]

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        return _bar(scores, self.suppress_tokens)  # [R, V]


@tree(numbers=("begin_suppress_tokens", "begin_index"))
class FlaxSuppressTokensAtBeginLogitsProcessor(FlaxLogitsProcessor):
    """Do not write these tokens when the text has `begin_index` tokens."""

    def __init__(self, begin_suppress_tokens: Iterable[int], begin_index: int) -> None:
        rule = rules.SuppressTokensAtBegin(tuple(begin_suppress_tokens), begin_index)
        self.begin_suppress_tokens = _array(rule.tokens)  # [n]
        self.begin_index = int(rule.begin_index)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        begins = jnp.equal(cur_len, self.begin_index)
        return jnp.where(begins, _bar(scores, self.begin_suppress_tokens), scores)  # [R, V]


@tree(numbers=("places", "tokens"))
class FlaxForceTokensLogitsProcessor(FlaxLogitsProcessor):
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

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        V = scores.shape[-1]
        now = jnp.equal(cur_len, self.places)  # [n]
        return jnp.where(now.any(), _force(scores, jnp.where(now, self.tokens, V)), scores)  # [R, V]


@tree()
class FlaxLogitNormalization(FlaxLogitsProcessor, FlaxLogitsWarper):
    """Turn scores into log-probabilities; a row without a token that may come stays as it is."""

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        return jnp.where(jnp.isneginf(scores), _NEVER, jax.nn.log_softmax(scores, axis=-1))  # [R, V]


# ---------------------------------------------------------------------- from rule to processor

PROCESSOR_OF: dict[type[rules.Rule], Callable[[Any, Setting], FlaxLogitsProcessor | FlaxLogitsWarper]] = {
    rules.SequenceBias: lambda rule, _: FlaxSequenceBiasLogitsProcessor(rule.sequence_bias),
    rules.EncoderRepetitionPenalty: lambda rule, at: FlaxEncoderRepetitionPenaltyLogitsProcessor(
        rule.penalty, at.prompt, at.length
    ),
    rules.RepetitionPenalty: lambda rule, _: FlaxRepetitionPenaltyLogitsProcessor(rule.penalty),
    rules.NoRepeatNGram: lambda rule, _: FlaxNoRepeatNGramLogitsProcessor(rule.ngram_size),
    rules.NoBadWords: lambda rule, _: FlaxNoBadWordsLogitsProcessor(rule.bad_words_ids, rule.eos_token_ids),
    rules.MinLength: lambda rule, _: FlaxMinLengthLogitsProcessor(rule.min_length, rule.eos_token_ids),
    rules.MinNewTokens: lambda rule, _: FlaxMinNewTokensLengthLogitsProcessor(
        rule.prompt_length_to_skip, rule.min_new_tokens, rule.eos_token_ids
    ),
    rules.ForcedBOS: lambda rule, _: FlaxForcedBOSTokenLogitsProcessor(rule.bos_token_id),
    rules.ForcedEOS: lambda rule, _: FlaxForcedEOSTokenLogitsProcessor(rule.max_length, rule.eos_token_ids),
    rules.RemoveInvalid: lambda rule, _: FlaxInfNanRemoveLogitsProcessor(),
    rules.ExponentialDecay: lambda rule, _: FlaxExponentialDecayLengthPenalty(
        (rule.start_index, rule.factor), rule.eos_token_ids, rule.prompt_length
    ),
    rules.SuppressTokens: lambda rule, _: FlaxSuppressTokensLogitsProcessor(rule.tokens),
    rules.SuppressTokensAtBegin: lambda rule, _: FlaxSuppressTokensAtBeginLogitsProcessor(
        rule.tokens, rule.begin_index
    ),
    rules.ForceTokens: lambda rule, _: FlaxForceTokensLogitsProcessor(rule.force_token_map),
    rules.LogitNormalization: lambda rule, _: FlaxLogitNormalization(),
    rules.Temperature: lambda rule, _: FlaxTemperatureLogitsWarper(rule.temperature),
    rules.TopK: lambda rule, _: FlaxTopKLogitsWarper(rule.top_k, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.TopP: lambda rule, _: FlaxTopPLogitsWarper(rule.top_p, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.MinP: lambda rule, _: FlaxMinPLogitsWarper(rule.min_p, min_tokens_to_keep=rule.min_tokens_to_keep),
    rules.Typical: lambda rule, _: FlaxTypicalLogitsWarper(
        rule.mass, min_tokens_to_keep=rule.min_tokens_to_keep
    ),
    rules.EpsilonCutoff: lambda rule, _: FlaxEpsilonLogitsWarper(
        rule.epsilon, min_tokens_to_keep=rule.min_tokens_to_keep
    ),
    rules.EtaCutoff: lambda rule, _: FlaxEtaLogitsWarper(
        rule.epsilon, min_tokens_to_keep=rule.min_tokens_to_keep
    ),
}

# Why a compiled program cannot follow a rule, and the way out.
REFUSED: dict[type[rules.Rule], str] = {
    rules.Guidance: "it runs the model on a second text beside each; the PyTorch room does",
    rules.HammingDiversity: "it belongs to groups of beams, which the PyTorch room has",
    rules.PrefixConstrained: (
        "a compiled program cannot ask a Python function at each step. Write a FlaxLogitsProcessor in "
        "jax.numpy and pass it in logits_processor, or use the PyTorch room"
    ),
}


def processor_of(rule: rules.Rule, at: Setting) -> FlaxLogitsProcessor | FlaxLogitsWarper:
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


def _bar(scores: Array, ids: Array | NDArray[Any]) -> Array:
    """Return scores in which some tokens can never win, [R, V]."""
    return scores.at[:, ids].set(_NEVER)  # [R, V]


def _force(scores: Array, ids: Any) -> Array:
    """Return scores in which only some tokens can win, all alike, [R, V]; V is no token, and is dropped."""
    return jnp.full_like(scores, _NEVER).at[:, ids].set(0, mode="drop")  # [R, V]


def _penalise(scores: Array, ids: Array, length: int | Array, penalty: float) -> Array:
    """Divide the positive and multiply the negative scores of the first `length` tokens of each row."""
    R, V = scores.shape
    counted = jnp.where(jnp.arange(ids.shape[1]) < length, ids, V)  # [R, T]; V is no token, and is dropped
    changed = jnp.where(scores < 0, scores * penalty, scores / penalty)  # [R, V]
    seen = jnp.zeros((R, V), bool).at[jnp.arange(R)[:, None], counted].set(True, mode="drop")  # [R, V]
    return jnp.where(seen, changed, scores)  # [R, V]
