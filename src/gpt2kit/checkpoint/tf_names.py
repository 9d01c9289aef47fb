"""The one table between official names and those that 4.34's TensorFlow models gave the same tensors.

`transformer/h_._0/attn/c_attn/weight:0` is what is officially called `transformer.h.0.attn.c_attn.weight`. In
a file the name of the model comes before it, and means nothing.

| module | last word, official | last word, TensorFlow | shape, official | shape, TensorFlow |
|---|---|---|---|---|
| wte, wpe | weight | embeddings; weight in older files | [V, D] | the same |
| ln_1, ln_2, ln_cross_attn, ln_f | weight, bias | gamma, beta | [D] | the same |
| c_attn, q_attn, c_proj, c_fc | weight | weight | [in, out] | the same |
| c_attn, q_attn, c_proj, c_fc | bias | bias | [out] | [1, out] |
| a layer of a head | weight | kernel | [out, in] | [in, out] |
| a layer of a head | bias | bias | [out] | the same |
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpt2kit.checkpoint.layout import BASE_PREFIX

__all__ = ["is_reversed", "model_name", "official_name", "official_shape", "tf_name", "tf_shape"]

_EMBEDDINGS = ("wte", "wpe")
_CONV1D = ("c_attn", "q_attn", "c_proj", "c_fc")
_OFFICIAL = {"embeddings": "weight", "gamma": "weight", "beta": "bias", "kernel": "weight"}
_LAYER = re.compile(r"h_\._(\d+)")
_BODY = re.compile(r"(h\.\d+|wte|wpe|ln_f)\.")  # how the names of a body without a head begin


def tf_name(official: str) -> str:
    """Return TensorFlow's name of a tensor, without that of the model before it.

    Example:
        >>> tf_name("transformer.h.0.ln_1.weight")
        'transformer/h_._0/ln_1/gamma:0'
        >>> tf_name("wte.weight")
        'transformer/wte/embeddings:0'
    """
    if _BODY.match(official):
        official = BASE_PREFIX + official
    *levels, module, last = re.sub(r"\bh\.(\d+)", r"h_._\1", official).rsplit(".", 2)
    if module in _EMBEDDINGS:
        last = "embeddings"
    elif module.startswith("ln_"):
        last = {"weight": "gamma", "bias": "beta"}.get(last, last)
    elif module not in _CONV1D and last == "weight":
        last = "kernel"
    path = levels[0] if levels else ""
    # only dots between modules part them: the one in `h_._0` belongs to the name
    path = path.replace("h_._", "h_\0_").replace(".", "/").replace("\0", ".")
    return "/".join(filter(None, (path, module, last))) + ":0"


def official_name(name: str) -> str:
    """Return the official name of what TensorFlow calls so, without the name of the model before it.

    Example:
        >>> official_name("transformer/ln_f/gamma:0")
        'transformer.ln_f.weight'
    """
    *levels, last = name.removesuffix(":0").split("/")
    layers = [_LAYER.sub(r"h.\1", level) if _LAYER.fullmatch(level) else level for level in levels]
    return ".".join((*layers, _OFFICIAL.get(last, last)))


def is_reversed(name: str, shape: Sequence[int]) -> bool:
    """Tell whether TensorFlow keeps what it calls so with its two axes the other way round."""
    return name.removesuffix(":0").endswith("/kernel") and len(shape) == 2


def tf_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape on TensorFlow's side, under TensorFlow's name, of one on the official side."""
    if is_reversed(name, shape):
        return tuple(reversed(shape))
    return (1, *shape) if _is_row(name) and len(shape) == 1 else tuple(shape)


def official_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape on the official side of one that has TensorFlow's name."""
    if is_reversed(name, shape):
        return tuple(reversed(shape))
    return tuple(shape[1:]) if _is_row(name) and len(shape) == 2 and shape[0] == 1 else tuple(shape)


def model_name(class_name: str) -> str:
    """Return the name that Keras gives a model of a class, which begins the names of its tensors.

    Example:
        >>> model_name("TFGPT2LMHeadModel")
        'tfgpt2lm_head_model'
    """
    parted = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", parted).lower()


def _is_row(name: str) -> bool:
    """Tell whether a tensor is the bias of a Conv1D, which TensorFlow keeps as one row."""
    levels = name.removesuffix(":0").split("/")
    return levels[-1] == "bias" and len(levels) > 1 and levels[-2] in _CONV1D
