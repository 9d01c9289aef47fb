"""GPT-2 on one page: the equations in NumPy, float64, forward only.

This is the text to read, and the model that every room is checked against. It is slow and plain on purpose.

    h_0     = wte[tokens] + wpe[positions]
    a_l     = h_l + attention(norm(h_l))              each position looks at itself and at earlier ones
    h_(l+1) = a_l + mlp(norm(a_l))                    each position by itself
    logits  = norm(h_L) wte^T

Dimensions: B batch, T query positions, S key positions (past and present), D n_embd, H heads, K width of a
head, M width of the MLP, V vocabulary, L layers, E encoder positions. Weights are stored [in, out].

Source:
    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3;
    Vaswani et al. 2017, "Attention Is All You Need", section 3.2;
    transformers v4.34.0, models/gpt2/modeling_gpt2.py, for the switches and the numbers in masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt2kit.config import GPT2Config

__all__ = ["ACTIVATION", "ReferenceOutput", "gpt2"]

Array = NDArray[np.float64]
Weights = Mapping[str, Array]
Pair = tuple[Array, Array]  # keys and values of a layer, [B, H, S, K] each
# Added to a score it takes all weight from a position, and where all are hidden there is still no NaN.
# 4.34 adds the whole minimum; half, because a later position that is padding too gets it twice.
HIDDEN = float(np.finfo(np.float64).min) / 2


@dataclass(frozen=True)
class ReferenceOutput:
    """All that the model computes.

    Shapes:
        logits: [B, T, V]; last_hidden_state: [B, T, D]
        past_key_values: L pairs of [B, H, S, K], to be passed to the next call
        hidden_states: L + 1 times [B, T, D]: what enters each block, and last_hidden_state
        attentions: L times [B, H, T, S]; cross_attentions: L times [B, H, T, E], or none
    """

    logits: Array
    last_hidden_state: Array
    past_key_values: tuple[Pair, ...]
    hidden_states: tuple[Array, ...]
    attentions: tuple[Array, ...]
    cross_attentions: tuple[Array, ...]


def gpt2(
    config: GPT2Config,
    weights: Mapping[str, ArrayLike],
    input_ids: ArrayLike | None = None,
    *,
    past_key_values: Sequence[Pair] | None = None,
    attention_mask: ArrayLike | None = None,
    token_type_ids: ArrayLike | None = None,
    position_ids: ArrayLike | None = None,
    head_mask: ArrayLike | None = None,
    inputs_embeds: ArrayLike | None = None,
    encoder_hidden_states: ArrayLike | None = None,
    encoder_attention_mask: ArrayLike | None = None,
) -> ReferenceOutput:
    """Compute everything that a GPT-2 says about T positions that follow those of `past_key_values`.

    Args:
        config: Sizes and switches; dropout is left out.
        weights: The tensors by their official names, with or without "transformer.".
        input_ids: Tokens, [B, T].
        past_key_values: What an earlier call returned.
        attention_mask: 1 for positions to see and 0 for padding, [B, S].
        token_type_ids: Tokens whose embeddings are added, [B, T].
        position_ids: Places, [B, T]; by default counted over the positions that the mask shows.
        head_mask: Factors of the heads, [H] or [L, H] or broadcast to [L, B, H, T, S].
        inputs_embeds: In place of input_ids, [B, T, D].
        encoder_hidden_states: What cross-attention looks at, [B, E, D].
        encoder_attention_mask: 1 for encoder positions to see, [B, E] or [B, T, E].

    Returns:
        The output of every part.

    Example:
        >>> from gpt2kit.checkpoint.layout import tensor_specs
        >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
        >>> weights = {spec.name: np.zeros(spec.shape) for spec in tensor_specs(config)}
        >>> gpt2(config, weights, [[1, 2, 3, 4, 5]]).logits.shape
        (1, 5, 101)
    """
    w = {name.removeprefix("transformer."): np.asarray(value, float) for name, value in weights.items()}
    x = w["wte.weight"][np.asarray(input_ids)] if inputs_embeds is None else np.asarray(inputs_embeds, float)
    B, T, _ = x.shape  # [B, T, D]
    S = T + (past_key_values[0][0].shape[2] if past_key_values else 0)

    seen = np.ones((B, S)) if attention_mask is None else np.asarray(attention_mask, float)  # [B, S]
    if position_ids is None:
        counted = np.cumsum(seen != 0, axis=1) - 1  # [B, S]
        padding = min(
            1, config.n_positions - 1
        )  # padding must be somewhere too; 4.34's generate puts it at 1
        position_ids = np.where(seen != 0, counted, padding)[:, S - T :]  # [B, T]
    x = x + w["wpe.weight"][np.asarray(position_ids)]  # [B, T, D]
    if token_type_ids is not None:
        x = x + w["wte.weight"][np.asarray(token_type_ids)]  # [B, T, D]

    later = ~np.tri(T, S, S - T, dtype=bool)  # [T, S]: query t stands at place S - T + t
    bias = later * HIDDEN + (1 - seen[:, None, None, :]) * HIDDEN  # [B, 1, T, S]
    encoder, encoder_bias = _read_encoder(encoder_hidden_states, encoder_attention_mask)
    factors = _factors(config, head_mask)  # [L, B or 1, H or 1, T or 1, S or 1]

    states, presents, attentions, cross_attentions = [x], [], [], []
    for layer in range(config.n_layer):
        part = {
            name.removeprefix(f"h.{layer}."): value for name, value in w.items()
        }  # w["attn.c_attn.weight"], ...
        past = past_key_values[layer] if past_key_values else None
        looked, present, attention = _attend(config, layer, part, x, bias, factors[layer], past)  # [B, T, D]
        x = x + looked  # [B, T, D]
        presents.append(present)
        attentions.append(attention)
        if encoder is not None:
            looked, attention = _attend_encoder(config, layer, part, x, encoder, encoder_bias, factors[layer])
            x = x + looked  # [B, T, D]
            cross_attentions.append(attention)
        x = x + _mlp(config, part, x)  # [B, T, D]
        states.append(x)
    states[-1] = x = _norm(config, w, "ln_f", x)  # [B, T, D]

    head = w["wte.weight"] if config.tie_word_embeddings else w["lm_head.weight"]  # [V, D]
    logits = x @ head.T  # [B, T, V]
    return ReferenceOutput(
        logits, x, tuple(presents), tuple(states), tuple(attentions), tuple(cross_attentions)
    )


# --------------------------------------------------------------------------- the parts of a block


def _norm(config: GPT2Config, w: Weights, name: str, x: Array) -> Array:
    """Layer normalization: (x - mean) / sqrt(variance + epsilon) * weight + bias, over the width."""
    centred = x - x.mean(-1, keepdims=True)  # [B, T, D]
    variance = (centred**2).mean(-1, keepdims=True)  # [B, T, 1]
    normal = centred / np.sqrt(variance + config.layer_norm_epsilon)  # [B, T, D]
    result: Array = normal * w[f"{name}.weight"] + w[f"{name}.bias"]  # [B, T, D]
    return result


def _linear(w: Weights, name: str, x: Array) -> Array:
    """Multiply the last axis: x weight + bias, with the weight as [in, out]."""
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]  # [..., out]


def _attend(
    config: GPT2Config, layer: int, w: Weights, x: Array, bias: Array, factors: Array, past: Pair | None
) -> tuple[Array, Pair, Array]:
    """Self-attention: queries, keys and values are three projections of the same positions."""
    query, key, value = np.split(
        _linear(w, "attn.c_attn", _norm(config, w, "ln_1", x)), 3, axis=-1
    )  # [B, T, D]
    query, key, value = (_split_heads(config, part) for part in (query, key, value))  # [B, H, T, K]
    if past is not None:
        key = np.concatenate([past[0], key], axis=2)  # [B, H, S, K]
        value = np.concatenate([past[1], value], axis=2)  # [B, H, S, K]
    mixed, attention = _mix(config, layer, query, key, value, bias, factors)  # [B, T, D], [B, H, T, S]
    return _linear(w, "attn.c_proj", mixed), (key, value), attention


def _attend_encoder(
    config: GPT2Config, layer: int, w: Weights, x: Array, encoder: Array, bias: Array, factors: Array
) -> tuple[Array, Array]:
    """Cross-attention: queries are made of the text, keys and values of the encoder's states."""
    query = _linear(w, "crossattention.q_attn", _norm(config, w, "ln_cross_attn", x))  # [B, T, D]
    key, value = np.split(_linear(w, "crossattention.c_attn", encoder), 2, axis=-1)  # [B, E, D]
    query, key, value = (_split_heads(config, part) for part in (query, key, value))  # [B, H, T or E, K]
    mixed, attention = _mix(config, layer, query, key, value, bias, factors)  # [B, T, D], [B, H, T, E]
    return _linear(w, "crossattention.c_proj", mixed), attention


def _mix(
    config: GPT2Config, layer: int, query: Array, key: Array, value: Array, bias: Array, factors: Array
) -> tuple[Array, Array]:
    """Average the values by softmax(query key^T / divisor + bias), and put the heads side by side.

    `reorder_and_upcast_attn` asks for scores of at least float32, which these are.
    """
    divisor = math.sqrt(query.shape[-1]) if config.scale_attn_weights else 1.0
    if config.scale_attn_by_inverse_layer_idx:
        divisor *= layer + 1
    scores = query @ key.swapaxes(-1, -2) / divisor + bias  # [B, H, T, S]
    powers = np.exp(scores - scores.max(-1, keepdims=True))  # [B, H, T, S]
    attention = powers / powers.sum(-1, keepdims=True) * factors  # [B, H, T, S]
    mixed = attention @ value  # [B, H, T, K]
    B, H, T, K = mixed.shape
    return mixed.swapaxes(1, 2).reshape(B, T, H * K), attention  # [B, T, D], [B, H, T, S]


def _split_heads(config: GPT2Config, x: Array) -> Array:
    """Cut the width into heads."""
    B, T, _ = x.shape
    return x.reshape(B, T, -1, config.n_embd // config.n_head).swapaxes(1, 2)  # [B, H, T, K]


def _mlp(config: GPT2Config, w: Weights, x: Array) -> Array:
    """Transform each position by itself: to M values, through the activation, and back to D."""
    wide = ACTIVATION[config.activation_function](
        _linear(w, "mlp.c_fc", _norm(config, w, "ln_2", x))
    )  # [B, T, M]
    return _linear(w, "mlp.c_proj", wide)  # [B, T, D]


# --------------------------------------------------------------------------- masks


def _factors(config: GPT2Config, head_mask: ArrayLike | None) -> Array:
    """Bring a head mask into the shape [L, B or 1, H or 1, T or 1, S or 1]."""
    mask = np.ones(config.n_head) if head_mask is None else np.asarray(head_mask, float)
    if mask.ndim == 1:
        mask = np.broadcast_to(mask, (config.n_layer, config.n_head))  # [L, H]
    return mask[:, None, :, None, None] if mask.ndim == 2 else mask  # [L, 1, H, 1, 1]


def _read_encoder(states: ArrayLike | None, mask: ArrayLike | None) -> tuple[Array | None, Array]:
    """Return the encoder's states [B, E, D], and what hides some of them [B, 1, T or 1, E]."""
    if states is None:
        return None, np.zeros(())
    states = np.asarray(states, float)  # [B, E, D]
    seen = np.ones(states.shape[:2]) if mask is None else np.asarray(mask, float)  # [B, E] or [B, T, E]
    if seen.ndim == 2:
        seen = seen[:, None]  # [B, 1, E]
    return states, (1 - seen[:, None]) * HIDDEN  # [B, E, D], [B, 1, T or 1, E]


# --------------------------------------------------------------------------- activations


def _erf(x: Array) -> Array:
    """The error function, which NumPy does not have."""
    result: Array = np.vectorize(math.erf, otypes=[float])(x)  # [...]
    return result


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))  # [...]; 1 / (1 + exp(-x)) without an overflow
    return result


def _gelu(x: Array) -> Array:
    """Gaussian error linear unit: x P(X <= x), X standard normal (Hendrycks and Gimpel, arXiv:1606.08415)."""
    result: Array = 0.5 * x * (1 + _erf(x / math.sqrt(2)))  # [...]
    return result


def _gelu_tanh(x: Array) -> Array:
    """GPT-2's own: the same with tanh for the error function (section 2 of the same paper)."""
    result: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))  # [...]
    return result


ACTIVATION: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_10": lambda x: np.clip(_gelu(x), -10, 10),
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
    "gelu_new": _gelu_tanh,
    "gelu_python": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "laplace": lambda x: 0.5 * (1 + _erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),  # arXiv:2209.10655
    "linear": lambda x: x,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),  # arXiv:1908.08681
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,  # arXiv:2109.08668
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "swish": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
}
