"""The one table between official names and the paths of Flax, which 4.34 gave the same tensors.

A path goes down Flax's tree of parameters: `("transformer", "h", "0", "attn", "c_attn", "kernel")` has what
is officially called `transformer.h.0.attn.c_attn.weight`. Only the last word differs, and Flax keeps a kernel
with its two axes reversed: `FlaxConv1D` has [out, in] where GPT-2 has [in, out], and `nn.Dense` has [in, out]
where `nn.Linear` has [out, in].

| role of the tensor | last word, official | last word, Flax | axes |
|---|---|---|---|
| embedding | weight | embedding | the same |
| weight, residual_weight | weight | kernel | reversed |
| norm_weight | weight | scale | the same |
| bias, norm_bias | bias | bias | the same |
"""

from __future__ import annotations

from collections.abc import Sequence

from gpt2kit.checkpoint.layout import Role, TensorSpec

__all__ = ["flax_path", "flax_shape", "is_reversed", "official_name"]

_WORD_OF: dict[Role, str] = {
    "embedding": "embedding",
    "weight": "kernel",
    "residual_weight": "kernel",
    "norm_weight": "scale",
    "bias": "bias",
    "norm_bias": "bias",
}
_OFFICIAL = {"embedding": "weight", "kernel": "weight", "scale": "weight"}


def flax_path(spec: TensorSpec) -> tuple[str, ...]:
    """Return where Flax keeps a tensor of the table.

    Example:
        >>> from gpt2kit.checkpoint import tensor_specs
        >>> from gpt2kit.config import GPT2Config
        >>> flax_path(tensor_specs(GPT2Config())[4])
        ('transformer', 'h', '0', 'attn', 'c_attn', 'kernel')
    """
    return (*spec.name.split(".")[:-1], _WORD_OF[spec.role])


def official_name(path: Sequence[str]) -> str:
    """Return the official name of what Flax keeps at a path; an unknown last word stays as it is.

    Example:
        >>> official_name(("transformer", "ln_f", "scale"))
        'transformer.ln_f.weight'
    """
    return ".".join((*path[:-1], _OFFICIAL.get(path[-1], path[-1])))


def is_reversed(path: Sequence[str], shape: Sequence[int]) -> bool:
    """Tell whether Flax keeps what lies at a path with its two axes the other way round."""
    return path[-1] == "kernel" and len(shape) == 2


def flax_shape(path: Sequence[str], shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape on Flax's side for one on the official side, and the other way round."""
    return tuple(reversed(shape)) if is_reversed(path, shape) else tuple(shape)
