"""The rules of sampling in TensorFlow: which tokens stay in the draw, and how likely each is.

Each class carries the public name of transformers 4.34, or one made alike, and is called with the text so
far, the scores and the length of the text. Their work is the same at every step, whatever the scores: a cut
is a score, and every token with it or a better one stays.
Dimensions: R rows of text, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from gpt2kit.generation import rules
from gpt2kit.tensorflow.generation.processor import TFLogitsWarper, leaves

__all__ = [
    "TFEpsilonLogitsWarper",
    "TFEtaLogitsWarper",
    "TFLogitsWarper",
    "TFMinPLogitsWarper",
    "TFTemperatureLogitsWarper",
    "TFTopKLogitsWarper",
    "TFTopPLogitsWarper",
    "TFTypicalLogitsWarper",
]

_NEVER = -float("inf")


@leaves(numbers=("temperature",))
class TFTemperatureLogitsWarper(TFLogitsWarper):
    """Divide the scores by the temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = float(rules.Temperature(temperature).temperature)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        return scores / tf.cast(self.temperature, scores.dtype)  # [R, V]


@leaves(numbers=("filter_value",), fixed=("top_k",))
class TFTopKLogitsWarper(TFLogitsWarper):
    """Keep the k best scores, and those equal to the last of them."""

    def __init__(self, top_k: int, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.TopK(top_k, min_tokens_to_keep)
        self.top_k = int(max(rule.top_k, rule.min_tokens_to_keep))
        self.filter_value = float(filter_value)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        return _without(scores < _kth_best(scores, self.top_k), scores, self.filter_value)  # [R, V]


@leaves(numbers=("top_p", "filter_value"), fixed=("min_tokens_to_keep",))
class TFTopPLogitsWarper(TFLogitsWarper):
    """Keep the smallest set of likeliest tokens whose probabilities add up to `top_p`.

    Source:
        Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """

    def __init__(self, top_p: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.TopP(top_p, min_tokens_to_keep)
        self.top_p = float(rule.top_p)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        # From the least likely on, so that the sum is exact where it decides: among small numbers.
        V = scores.shape[-1]
        ascending = tf.sort(scores, axis=-1)  # [R, V]
        sums = tf.cumsum(tf.nn.softmax(ascending, axis=-1), axis=-1)  # [R, V]
        removed = sums <= 1 - tf.cast(self.top_p, scores.dtype)  # [R, V]
        count = tf.reduce_sum(tf.cast(removed, tf.int32), axis=-1, keepdims=True)  # [R, 1]
        first = tf.minimum(count, V - min(self.min_tokens_to_keep, V))  # [R, 1]
        cut = tf.gather(ascending, first, axis=-1, batch_dims=1)  # [R, 1]
        return _without(scores < cut, scores, self.filter_value)  # [R, V]


@leaves(numbers=("min_p", "filter_value"), fixed=("min_tokens_to_keep",))
class TFMinPLogitsWarper(TFLogitsWarper):
    """Keep the tokens at least `min_p` times as likely as the likeliest.

    Source:
        Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling". Not in transformers 4.34.
    """

    def __init__(self, min_p: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.MinP(min_p, min_tokens_to_keep)
        self.min_p = float(rule.min_p)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        probabilities = tf.nn.softmax(scores, axis=-1)  # [R, V]
        best = tf.reduce_max(probabilities, axis=-1, keepdims=True)  # [R, 1]
        removed = probabilities < tf.cast(self.min_p, scores.dtype) * best  # [R, V]
        removed &= scores < _kth_best(scores, self.min_tokens_to_keep)  # [R, V]
        return _without(removed, scores, self.filter_value)  # [R, V]


@leaves(numbers=("mass", "filter_value"), fixed=("min_tokens_to_keep",))
class TFTypicalLogitsWarper(TFLogitsWarper):
    """Keep the tokens whose surprise is closest to the entropy, until they add up to `mass`.

    Source:
        Meister et al. 2022, "Locally Typical Sampling", section 4.
    """

    def __init__(self, mass: float = 0.9, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.Typical(mass, min_tokens_to_keep)
        self.mass = float(rule.mass)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        V = scores.shape[-1]
        log_probabilities = tf.nn.log_softmax(scores, axis=-1)  # [R, V]
        probabilities = tf.exp(log_probabilities)  # [R, V]
        distance = tf.abs(-log_probabilities - _entropy(log_probabilities))  # [R, V]
        order = tf.argsort(distance, axis=-1, stable=True)  # [R, V]
        nearest = tf.gather(distance, order, axis=-1, batch_dims=1)  # [R, V]
        sums = tf.cumsum(tf.gather(probabilities, order, axis=-1, batch_dims=1), axis=-1)  # [R, V]
        # Rounding may leave the sum of all below the mass; then all are kept.
        below = tf.cast(sums < tf.cast(self.mass, scores.dtype), tf.int32)  # [R, V]
        last = tf.reduce_sum(below, axis=-1, keepdims=True)  # [R, 1]
        last = tf.clip_by_value(last, min(self.min_tokens_to_keep, V) - 1, V - 1)  # [R, 1]
        cut = tf.gather(nearest, last, axis=-1, batch_dims=1)  # [R, 1]
        return _without(distance > cut, scores, self.filter_value)  # [R, V]


@leaves(numbers=("epsilon", "filter_value"), fixed=("min_tokens_to_keep",))
class TFEpsilonLogitsWarper(TFLogitsWarper):
    """Keep the tokens at least as likely as epsilon.

    Source:
        Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing", section 3.3.
    """

    def __init__(self, epsilon: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.EpsilonCutoff(epsilon, min_tokens_to_keep)
        self.epsilon = float(rule.epsilon)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        removed = tf.nn.softmax(scores, axis=-1) < tf.cast(self.epsilon, scores.dtype)  # [R, V]
        removed &= scores < _kth_best(scores, self.min_tokens_to_keep)  # [R, V]
        return _without(removed, scores, self.filter_value)  # [R, V]


@leaves(numbers=("epsilon", "filter_value"), fixed=("min_tokens_to_keep",))
class TFEtaLogitsWarper(TFLogitsWarper):
    """Keep the tokens at least as likely as min(epsilon, sqrt(epsilon) exp(-entropy)).

    Source:
        Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing", section 3.4.
    """

    def __init__(self, epsilon: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.EtaCutoff(epsilon, min_tokens_to_keep)
        self.epsilon = float(rule.epsilon)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Any, scores: Any, cur_len: Any) -> Any:
        """Return the changed scores, [R, V]."""
        epsilon = tf.cast(self.epsilon, scores.dtype)
        log_probabilities = tf.nn.log_softmax(scores, axis=-1)  # [R, V]
        spread = tf.exp(-_entropy(log_probabilities))  # [R, 1]
        eta = tf.minimum(tf.sqrt(epsilon) * spread, epsilon)  # [R, 1]
        removed = tf.exp(log_probabilities) < eta  # [R, V]
        removed &= scores < _kth_best(scores, self.min_tokens_to_keep)  # [R, V]
        return _without(removed, scores, self.filter_value)  # [R, V]


def _without(removed: Any, scores: Any, filter_value: Any) -> Any:
    """Return scores with another value in some places, [R, V]."""
    return tf.where(removed, tf.cast(filter_value, scores.dtype), scores)  # [R, V]


def _kth_best(scores: Any, k: int) -> Any:
    """Return the k-th best score of each row, [R, 1]."""
    if k == 1:
        return tf.reduce_max(scores, axis=-1, keepdims=True)  # [R, 1]
    return tf.math.top_k(scores, min(k, scores.shape[-1])).values[:, -1:]  # [R, 1]


def _entropy(log_probabilities: Any) -> Any:
    """Return the entropy of each row, [R, 1]; a barred token, of probability 0, adds nothing to it."""
    finite = tf.maximum(log_probabilities, log_probabilities.dtype.min)  # [R, V]; 0 * -inf would be NaN
    return -tf.reduce_sum(finite * tf.exp(log_probabilities), axis=-1, keepdims=True)  # [R, 1]
