"""The rules of sampling in PyTorch: which tokens stay in the draw, and how likely each is.

Each class carries the public name of transformers 4.34 and is called with the text so far and the scores.
Dimensions: B rows of text, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2kit.generation import rules

__all__ = [
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "LogitsWarper",
    "MinPLogitsWarper",
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
    "top_k_top_p_filtering",
]

_NEVER = -float("inf")


class LogitsWarper:
    """Change the scores of the next token where it is drawn at random."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the changed scores, [B, V]."""
        raise NotImplementedError(f"{type(self).__name__} has to define __call__(input_ids, scores).")


class TemperatureLogitsWarper(LogitsWarper):
    """Divide the scores by the temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = rules.Temperature(temperature).temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores / self.temperature  # [B, V]


class _Filter(LogitsWarper):
    """Keep a set of tokens and give all others `filter_value`."""

    def __init__(self, filter_value: float, min_tokens_to_keep: int) -> None:
        self.filter_value = filter_value
        self.min_tokens_to_keep = min_tokens_to_keep

    def _keep(self, scores: Tensor, removed: Tensor) -> Tensor:
        return scores.masked_fill(removed, self.filter_value)  # [B, V]

    def _keep_sorted(self, scores: Tensor, order: Tensor, removed: Tensor) -> Tensor:
        """Do the same with what is removed given in another order of the vocabulary."""
        return self._keep(scores, removed.scatter(1, order, removed))  # [B, V]


class TopKLogitsWarper(_Filter):
    """Keep the k best scores, and those equal to the last of them."""

    def __init__(self, top_k: int, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.TopK(top_k, min_tokens_to_keep)
        self.top_k = max(rule.top_k, rule.min_tokens_to_keep)
        super().__init__(filter_value, rule.min_tokens_to_keep)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._keep(scores, scores < _kth_best(scores, self.top_k))  # [B, V]


class TopPLogitsWarper(_Filter):
    """Keep the smallest set of likeliest tokens whose probabilities add up to `top_p`.

    Source:
        Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """

    def __init__(self, top_p: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.TopP(top_p, min_tokens_to_keep)
        self.top_p = float(rule.top_p)
        super().__init__(filter_value, rule.min_tokens_to_keep)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # From the least likely on, so that the sum is exact where it decides: among small numbers.
        ascending, order = torch.sort(scores, descending=False)  # [B, V] each
        removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.top_p  # [B, V]
        removed[..., -self.min_tokens_to_keep :] = False
        return self._keep_sorted(scores, order, removed)  # [B, V]


class MinPLogitsWarper(_Filter):
    """Keep the tokens at least `min_p` times as likely as the likeliest.

    Source:
        Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling". Not in transformers 4.34.
    """

    def __init__(self, min_p: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.MinP(min_p, min_tokens_to_keep)
        self.min_p = float(rule.min_p)
        super().__init__(filter_value, rule.min_tokens_to_keep)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probabilities = scores.softmax(dim=-1)  # [B, V]
        removed = probabilities < self.min_p * probabilities.amax(dim=-1, keepdim=True)  # [B, V]
        return self._keep(scores, removed & (scores < _kth_best(scores, self.min_tokens_to_keep)))  # [B, V]


class TypicalLogitsWarper(_Filter):
    """Keep the tokens whose surprise is closest to the entropy, until they add up to `mass`.

    Source:
        Meister et al. 2022, "Locally Typical Sampling", section 4.
    """

    def __init__(self, mass: float = 0.9, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.Typical(mass, min_tokens_to_keep)
        self.mass = float(rule.mass)
        super().__init__(filter_value, rule.min_tokens_to_keep)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_probabilities = scores.log_softmax(dim=-1)  # [B, V]
        entropy = -(log_probabilities * log_probabilities.exp()).nansum(-1, keepdim=True)  # [B, 1]
        distance = (-log_probabilities - entropy).abs()  # [B, V]
        nearest, order = torch.sort(distance, descending=False)  # [B, V] each
        cumulative = scores.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)  # [B, V]
        # Rounding may leave the sum of all below the mass; then all are kept.
        last = (cumulative < self.mass).sum(dim=1, keepdim=True).clamp_(max=scores.size(-1) - 1)  # [B, 1]
        removed = nearest > nearest.gather(1, last)  # [B, V]
        removed[..., : self.min_tokens_to_keep] = False
        return self._keep_sorted(scores, order, removed)  # [B, V]


class EpsilonLogitsWarper(_Filter):
    """Keep the tokens at least as likely as epsilon.

    Source:
        Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing", section 3.3.
    """

    def __init__(self, epsilon: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.EpsilonCutoff(epsilon, min_tokens_to_keep)
        self.epsilon = float(rule.epsilon)
        super().__init__(filter_value, rule.min_tokens_to_keep)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        removed = scores.softmax(dim=-1) < self.epsilon  # [B, V]
        return self._keep(scores, removed & (scores < _kth_best(scores, self.min_tokens_to_keep)))  # [B, V]


class EtaLogitsWarper(_Filter):
    """Keep the tokens at least as likely as min(epsilon, sqrt(epsilon) exp(-entropy)).

    Source:
        Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing", section 3.4.
    """

    def __init__(self, epsilon: float, filter_value: float = _NEVER, min_tokens_to_keep: int = 1) -> None:
        rule = rules.EtaCutoff(epsilon, min_tokens_to_keep)
        self.epsilon = float(rule.epsilon)
        super().__init__(filter_value, rule.min_tokens_to_keep)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_probabilities = scores.log_softmax(dim=-1)  # [B, V]
        probabilities = log_probabilities.exp()  # [B, V]
        # A barred token has probability 0 and adds nothing, but 0 * -inf would be NaN.
        finite = log_probabilities.clamp(min=torch.finfo(scores.dtype).min)  # [B, V]
        entropy = -(finite * probabilities).sum(-1, keepdim=True)  # [B, 1]
        eta = (self.epsilon**0.5 * torch.exp(-entropy)).clamp(max=self.epsilon)  # [B, 1]
        removed = scores.softmax(dim=-1) < eta  # [B, V]
        return self._keep(scores, removed & (scores < _kth_best(scores, self.min_tokens_to_keep)))  # [B, V]


def top_k_top_p_filtering(
    logits: Tensor,
    top_k: int = 0,
    top_p: float = 1.0,
    filter_value: float = _NEVER,
    min_tokens_to_keep: int = 1,
) -> Tensor:
    """Keep the k likeliest tokens, of these the likeliest that add up to p; for loops written by hand.

    Args:
        logits: [B, V].
        top_k: k; 0 keeps all.
        top_p: p; 1 keeps all.
        filter_value: What the others get.
        min_tokens_to_keep: So many are kept whatever p is.
    """
    none = torch.empty(len(logits), 0, dtype=torch.long, device=logits.device)  # [B, 0]: no text is looked at
    if top_k > 0:
        logits = TopKLogitsWarper(top_k, filter_value, min_tokens_to_keep)(none, logits)  # [B, V]
    if top_p < 1.0:
        logits = TopPLogitsWarper(top_p, filter_value, min_tokens_to_keep)(none, logits)  # [B, V]
    return logits


def _kth_best(scores: Tensor, k: int) -> Tensor:
    """Return the k-th best score of each row, [B, 1]."""
    return torch.topk(scores, min(k, scores.size(-1)))[0][..., -1, None]  # [B, 1]
