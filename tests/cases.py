"""Tiny models that every room is tested on: prime sizes, so that swapped axes cannot pass.

B=2 sequences of T=5 tokens, L=3 blocks, D=33 in H=3 heads of K=11, V=101 tokens, P=13 positions, an encoder
of E=7 positions. `CASES` has one configuration for each switch; `configs()` draws others by Hypothesis;
`random_checkpoint` makes weights for any of them, with biases away from 0 and norm weights away from 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2kit.checkpoint.layout import Head, tensor_specs
from gpt2kit.config import GPT2Config

__all__ = [
    "ACTIVATION_CASES",
    "CASES",
    "SIZES",
    "B",
    "E",
    "Inputs",
    "T",
    "configs",
    "make_inputs",
    "padding_mask",
    "random_checkpoint",
    "tiny_config",
]

B, T, E = 2, 5, 7
SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "n_positions": 13,
    "n_embd": 33,
    "n_layer": 3,
    "n_head": 3,
    "bos_token_id": 97,
    "eos_token_id": 97,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "summary_first_dropout": 0.0,
}

# One for each switch of the model; the names are test ids.
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "inverse_layer": {"scale_attn_by_inverse_layer_idx": True},
    "upcast": {"reorder_and_upcast_attn": True},
    "inverse_layer_and_upcast": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "unscaled": {"scale_attn_weights": False},
    "unscaled_upcast": {"scale_attn_weights": False, "reorder_and_upcast_attn": True},
    "cross_attention": {"add_cross_attention": True},
    "cross_attention_all_switches": {
        "add_cross_attention": True,
        "scale_attn_by_inverse_layer_idx": True,
        "reorder_and_upcast_attn": True,
    },
    "n_inner": {"n_inner": 47},
    "untied": {"tie_word_embeddings": False},
    "large_epsilon": {"layer_norm_epsilon": 0.03},
    "one_head": {"n_head": 1},
    "one_layer": {"n_layer": 1},
}
# The four that GPT-2's page lists, and all the others that 4.34 allows.
ACTIVATION_CASES: tuple[str, ...] = (
    "gelu_new",
    "gelu",
    "relu",
    "silu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_python",
    "gelu_pytorch_tanh",
    "laplace",
    "linear",
    "mish",
    "quick_gelu",
    "relu2",
    "relu6",
    "sigmoid",
    "swish",
    "tanh",
)


def tiny_config(case: str = "default", **changes: Any) -> GPT2Config:
    """Return the configuration of a case, without dropout, with single values changed."""
    return GPT2Config(**(SIZES | CASES[case] | changes))


def random_checkpoint(
    config: GPT2Config, seed: int = 0, *, head: Head = "lm"
) -> dict[str, NDArray[np.float32]]:
    """Draw every tensor of a model by its official name; a tied one is left out, as in a saved file.

    Projections keep the size of what they map (so that softmax and activations are used over their range),
    biases are away from 0 and norm weights away from 1, so that a forgotten one is seen.
    """
    generator = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for spec in tensor_specs(config, head=head):
        if spec.tied_to is not None:
            continue
        noise = generator.normal(size=spec.shape)
        if spec.role == "norm_weight":
            values = 1.3 + 0.3 * noise
        elif spec.role in ("bias", "norm_bias"):
            values = 0.2 + 0.3 * noise
        elif spec.role == "embedding":
            values = 0.7 * noise
        elif spec.letters.split()[0] in ("1", "2", "N"):  # few labels: [out, in], where others are [in, out]
            values = noise * 1.5 / math.sqrt(spec.shape[1])
        else:
            values = noise * 1.5 / math.sqrt(spec.shape[0])
        tensors[spec.name] = values.astype(np.float32)
    return tensors


def padding_mask(side: str, batch: int = B, length: int = T) -> NDArray[np.int64]:
    """Return a mask [B, T] that hides 1, 2, ... positions of each row, on "left" or "right", or "none"."""
    mask = np.ones((batch, length), np.int64)
    for row in range(batch):
        hidden = 0 if side == "none" else min(row + 1, length - 1)
        if side == "left":
            mask[row, :hidden] = 0
        elif hidden:
            mask[row, length - hidden :] = 0
    return mask


@dataclass
class Inputs:
    """Arguments of a forward call, as NumPy arrays."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64] | None = None
    token_type_ids: NDArray[np.int64] | None = None
    head_mask: NDArray[np.float32] | None = None
    encoder_hidden_states: NDArray[np.float32] | None = None
    encoder_attention_mask: NDArray[np.int64] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return what is not None, by the names of the arguments."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "extra"}
        return {name: value for name, value in values.items() if value is not None} | self.extra


def make_inputs(
    config: GPT2Config,
    seed: int = 0,
    *,
    batch: int = B,
    length: int = T,
    padding: str | None = None,
    token_types: bool = False,
    head_mask: bool = False,
) -> Inputs:
    """Draw the arguments of a forward call; a model with cross-attention gets an encoder and its mask."""
    generator = np.random.default_rng(seed + 1000)
    inputs = Inputs(generator.integers(0, config.vocab_size, (batch, length)))
    if padding is not None:
        inputs.attention_mask = padding_mask(padding, batch, length)
    if token_types:
        inputs.token_type_ids = generator.integers(0, config.vocab_size, (batch, length))
    if head_mask:
        inputs.head_mask = generator.uniform(0.2, 1.7, (config.n_layer, config.n_head)).astype(np.float32)
    if config.add_cross_attention:
        inputs.encoder_hidden_states = generator.normal(size=(batch, E, config.n_embd)).astype(np.float32)
        inputs.encoder_attention_mask = padding_mask("right", batch, E)
    return inputs


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> GPT2Config:
    """Draw a tiny configuration with any combination of switches; `fixed` values are taken as they are."""
    heads = draw(st.sampled_from([1, 2, 3, 5]))
    values: dict[str, Any] = {
        "vocab_size": draw(st.sampled_from([2, 17, 101])),
        "n_positions": draw(st.sampled_from([7, 13, 19])),
        "n_head": heads,
        "n_embd": heads * draw(st.sampled_from([1, 2, 7, 11])),
        "n_layer": draw(st.sampled_from([1, 2, 3])),
        "n_inner": draw(st.sampled_from([None, 1, 23])),
        "activation_function": draw(st.sampled_from(ACTIVATION_CASES)),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
        "scale_attn_weights": draw(st.booleans()),
        "scale_attn_by_inverse_layer_idx": draw(st.booleans()),
        "reorder_and_upcast_attn": draw(st.booleans()),
        "add_cross_attention": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    return GPT2Config(**(SIZES | values | fixed))
