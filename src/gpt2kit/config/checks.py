"""What a GPT-2 configuration must satisfy, with the fix in every refusal."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import ConfigError

if TYPE_CHECKING:
    from gpt2kit.config.gpt2 import GPT2Config

__all__ = ["ACTIVATIONS", "DTYPES", "check_config"]

# The activation functions that 4.34 knows by name; gpt2kit/reference.py has the formula of each.
ACTIVATIONS: tuple[str, ...] = (
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_pytorch_tanh",
    "laplace",
    "linear",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
)
DTYPES: tuple[str, ...] = ("float16", "bfloat16", "float32", "float64")

_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
_RATES = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout")
# Rates that 4.34 reads where a configuration has them, and gives no default.
_RATES_IF_SET = ("summary_last_dropout", "classifier_dropout", "hidden_dropout")
_SWITCHES = (
    "summary_use_proj",
    "summary_proj_to_labels",
    "scale_attn_weights",
    "use_cache",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "tie_word_embeddings",
    "add_cross_attention",
    "is_decoder",
    "is_encoder_decoder",
)
_TOKENS = ("bos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id")
_SUMMARY_TYPES = ("last", "first", "mean", "cls_index")
_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def check_config(config: GPT2Config) -> None:
    """Raise a ConfigError for the first value of `config` that cannot work."""
    for name in _SIZES:
        _check_size(name, getattr(config, name))
    if config.n_inner is not None:
        _check_size("n_inner", config.n_inner, otherwise=" (or None for 4 * n_embd)")
    if config.n_embd % config.n_head:
        raise ConfigError(_uneven_heads(config.n_embd, config.n_head))
    set_rates = [name for name in _RATES_IF_SET if getattr(config, name, None) is not None]
    for name in (*_RATES, *set_rates):
        _check_number(name, getattr(config, name), "from 0 to 1", lambda value: 0 <= value <= 1)
    _check_number(
        "layer_norm_epsilon", config.layer_norm_epsilon, "above 0, such as 1e-5", lambda value: value > 0
    )
    _check_number("initializer_range", config.initializer_range, "of at least 0", lambda value: value >= 0)
    for name in _SWITCHES:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} must be True or False, but it is {getattr(config, name)!r}.")
    _check_choice("activation_function", config.activation_function, ACTIVATIONS)
    if config.summary_type != "attn":  # in old files; nothing defines it, so what reads it refuses it
        _check_choice("summary_type", config.summary_type, _SUMMARY_TYPES)
    if config.summary_activation is not None:
        _check_choice("summary_activation", config.summary_activation, ACTIVATIONS, or_none=True)
    if config.problem_type is not None:
        _check_choice("problem_type", config.problem_type, _PROBLEM_TYPES, or_none=True)
    if config.torch_dtype is not None:
        _check_choice("torch_dtype", config.torch_dtype, DTYPES, or_none=True)
    for name in _TOKENS:
        _check_token(name, getattr(config, name))
    ends = config.eos_token_id
    for token in ends if isinstance(ends, list | tuple) else [ends]:
        _check_token("eos_token_id", token, otherwise=", a list of token ids")
    _check_pruned_heads(config)


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def _check_size(name: str, value: Any, otherwise: str = "") -> None:
    if not _is_integer(value) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1{otherwise}, but it is {value!r}.")


def _check_number(name: str, value: Any, wanted: str, fits: Any) -> None:
    if not _is_number(value) or not fits(value):
        raise ConfigError(f"{name} must be a number {wanted}, but it is {value!r}.")


def _check_choice(name: str, value: object, choices: tuple[str, ...], *, or_none: bool = False) -> None:
    if not isinstance(value, str) or value not in choices:
        allowed = ", ".join(choices) + (" or None" if or_none else "")
        raise ConfigError(f"{name} was not understood: it is {value!r}, and it must be one of {allowed}.")


def _check_token(name: str, value: object, otherwise: str = "") -> None:
    if value is not None and not _is_integer(value):
        raise ConfigError(
            f"{name} must be a token id (a whole number){otherwise} or None, but it is {value!r}."
        )


def _uneven_heads(n_embd: int, n_head: int) -> str:
    """Say which widths and which numbers of heads near the given ones would divide evenly."""
    below, above = n_embd // n_head * n_head, (n_embd // n_head + 1) * n_head
    widths = [str(width) for width in (below, above) if width > 0]
    divisors = [heads for heads in range(1, n_embd + 1) if n_embd % heads == 0]
    fewer = max(heads for heads in divisors if heads < n_head)
    more = min((heads for heads in divisors if heads > n_head), default=n_embd)
    return (
        f"n_embd={n_embd} cannot be shared evenly by n_head={n_head} heads. "
        f"Take n_embd={' or '.join(widths)}, or n_head={fewer} or {more}."
    )


def _check_pruned_heads(config: GPT2Config) -> None:
    """Check that pruned_heads names heads that the model has."""
    pruned = config.pruned_heads
    if not isinstance(pruned, dict):
        raise ConfigError(f"pruned_heads must be a dictionary layer -> list of heads, but it is {pruned!r}.")
    for layer, heads in pruned.items():
        if not _is_integer(layer) or not 0 <= layer < config.n_layer:
            raise ConfigError(
                f"pruned_heads names layer {layer!r}, but the layers are 0 to {config.n_layer - 1}."
            )
        if not all(_is_integer(head) and 0 <= head < config.n_head for head in heads):
            raise ConfigError(
                f"pruned_heads names heads {list(heads)} in layer {layer}, "
                f"but the heads are 0 to {config.n_head - 1}."
            )
