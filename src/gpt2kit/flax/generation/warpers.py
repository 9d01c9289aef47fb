"""The rules of sampling in JAX: which tokens stay in the draw, and how likely each is.

Each class carries the public name of transformers 4.34, or one made alike, and is called with the text so
far, the scores and the length of the text. The loop of a program calls them, so their work is the same at
every step: a cut is a score, and every token with it or a better one stays.
Dimensions: R rows of text, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from gpt2kit.flax.generation.processor import FlaxLogitsWarper, tree
from gpt2kit.flax.generation.top import top_k
from gpt2kit.generation import rules

__all__ = [
    "FlaxEpsilonLogitsWarper",
    "FlaxEtaLogitsWarper",
    "FlaxLogitsWarper",
    "FlaxMinPLogitsWarper",
    "FlaxTemperatureLogitsWarper",
    "FlaxTopKLogitsWarper",
    "FlaxTopPLogitsWarper",
    "FlaxTypicalLogitsWarper",
]

_NEVER = -float("inf")


@tree(numbers=("temperature",))
class FlaxTemperatureLogitsWarper(FlaxLogitsWarper):
    """Divide the scores by the temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = float(rules.Temperature(temperature).temperature)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        return scores / self.temperature  # [R, V]


@tree(numbers=("filter_value",), fixed=("top_k",))
class FlaxTopKLogitsWarper(FlaxLogitsWarper):
    """Keep the k best scores, and those equal to the last of them."""

    def __init__(self, top_k: int, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.TopK(top_k, min_tokens_to_keep)
        self.top_k = int(max(rule.top_k, rule.min_tokens_to_keep))
        self.filter_value = float(filter_value)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        return jnp.where(scores < _kth_best(scores, self.top_k), self.filter_value, scores)  # [R, V]


@tree(numbers=("top_p", "filter_value"), fixed=("min_tokens_to_keep",))
class FlaxTopPLogitsWarper(FlaxLogitsWarper):
    """Keep the smallest set of likeliest tokens whose probabilities add up to `top_p`.

    Source:
        Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """

    def __init__(self, top_p: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.TopP(top_p, min_tokens_to_keep)
        self.top_p = float(rule.top_p)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        # From the least likely on, so that the sum is exact where it decides: among small numbers.
        V = scores.shape[-1]
        ascending = jnp.sort(scores, axis=-1)  # [R, V]
        removed = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1) <= 1 - self.top_p  # [R, V]
        first = jnp.minimum(
            removed.sum(axis=-1, keepdims=True), V - min(self.min_tokens_to_keep, V)
        )  # [R, 1]
        cut = jnp.take_along_axis(ascending, first, axis=-1)  # [R, 1]
        return jnp.where(scores < cut, self.filter_value, scores)  # [R, V]


@tree(numbers=("min_p", "filter_value"), fixed=("min_tokens_to_keep",))
class FlaxMinPLogitsWarper(FlaxLogitsWarper):
    """Keep the tokens at least `min_p` times as likely as the likeliest.

    Source:
        Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling". Not in transformers 4.34.
    """

    def __init__(self, min_p: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.MinP(min_p, min_tokens_to_keep)
        self.min_p = float(rule.min_p)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        probabilities = jax.nn.softmax(scores, axis=-1)  # [R, V]
        removed = probabilities < self.min_p * probabilities.max(axis=-1, keepdims=True)  # [R, V]
        removed &= scores < _kth_best(scores, self.min_tokens_to_keep)  # [R, V]
        return jnp.where(removed, self.filter_value, scores)  # [R, V]


@tree(numbers=("mass", "filter_value"), fixed=("min_tokens_to_keep",))
class FlaxTypicalLogitsWarper(FlaxLogitsWarper):
    """Keep the tokens whose surprise is closest to the entropy, until they add up to `mass`.

    Source:
        Meister et al. 2022, "Locally Typical Sampling", section 4.
    """

    def __init__(self, mass: float = 0.9, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.Typical(mass, min_tokens_to_keep)
        self.mass = float(rule.mass)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        V = scores.shape[-1]
        log_probabilities = jax.nn.log_softmax(scores, axis=-1)  # [R, V]
        probabilities = jnp.exp(log_probabilities)  # [R, V]
        entropy = -jnp.nansum(log_probabilities * probabilities, axis=-1, keepdims=True)  # [R, 1]
        distance = jnp.abs(-log_probabilities - entropy)  # [R, V]
        nearest, ordered = lax.sort((distance, probabilities), num_keys=1)  # [R, V] each
        # Rounding may leave the sum of all below the mass; then all are kept.
        last = (jnp.cumsum(ordered, axis=-1) < self.mass).sum(axis=-1, keepdims=True)  # [R, 1]
        last = jnp.clip(last, min(self.min_tokens_to_keep, V) - 1, V - 1)  # [R, 1]
        cut = jnp.take_along_axis(nearest, last, axis=-1)  # [R, 1]
        return jnp.where(distance > cut, self.filter_value, scores)  # [R, V]


@tree(numbers=("epsilon", "filter_value"), fixed=("min_tokens_to_keep",))
class FlaxEpsilonLogitsWarper(FlaxLogitsWarper):
    """Keep the tokens at least as likely as epsilon.

    Source:
        Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing", section 3.3.
    """

    def __init__(self, epsilon: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.EpsilonCutoff(epsilon, min_tokens_to_keep)
        self.epsilon = float(rule.epsilon)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        removed = jax.nn.softmax(scores, axis=-1) < self.epsilon  # [R, V]
        removed &= scores < _kth_best(scores, self.min_tokens_to_keep)  # [R, V]
        return jnp.where(removed, self.filter_value, scores)  # [R, V]


@tree(numbers=("epsilon", "filter_value"), fixed=("min_tokens_to_keep",))
class FlaxEtaLogitsWarper(FlaxLogitsWarper):
    """Keep the tokens at least as likely as min(epsilon, sqrt(epsilon) exp(-entropy)).

    Source:
        Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing", section 3.4.
    """

    def __init__(self, epsilon: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.EtaCutoff(epsilon, min_tokens_to_keep)
        self.epsilon = float(rule.epsilon)
        self.filter_value = float(filter_value)
        self.min_tokens_to_keep = int(rule.min_tokens_to_keep)

    def __call__(self, input_ids: Array, scores: Array, cur_len: int | Array) -> Array:
        log_probabilities = jax.nn.log_softmax(scores, axis=-1)  # [R, V]
        probabilities = jnp.exp(log_probabilities)  # [R, V]
        # A barred token has probability 0 and adds nothing, but 0 * -inf would be NaN.
        finite = jnp.maximum(log_probabilities, jnp.finfo(scores.dtype).min)  # [R, V]
        entropy = -(finite * probabilities).sum(axis=-1, keepdims=True)  # [R, 1]
        eta = jnp.minimum(jnp.sqrt(self.epsilon) * jnp.exp(-entropy), self.epsilon)  # [R, 1]
        removed = probabilities < eta  # [R, V]
        removed &= scores < _kth_best(scores, self.min_tokens_to_keep)  # [R, V]
        return jnp.where(removed, self.filter_value, scores)  # [R, V]


def _kth_best(scores: Array, k: int) -> Array:
    """Return the k-th best score of each row, [R, 1]."""
    if k == 1:
        return scores.max(axis=-1, keepdims=True)  # [R, 1]
    return top_k(scores, min(k, scores.shape[-1]))[0][..., -1:]  # [R, 1]
