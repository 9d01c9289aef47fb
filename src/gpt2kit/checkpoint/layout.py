"""THE table of tensors: what a GPT-2 consists of, by official name and shape.

Everything that reads, writes, checks, counts or draws weights goes by this table, in every room.
The names are those of transformers 4.34, which OpenAI's own variables were renamed to; a Conv1D weight is
stored [in, out], so that y = x @ weight + bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gpt2kit.config import GPT2Config

__all__ = [
    "BASE_PREFIX",
    "HEADS",
    "Head",
    "Role",
    "TensorSpec",
    "head_of",
    "parameter_counts",
    "tensor_specs",
]

BASE_PREFIX = "transformer."  # what a model with a head puts before the names of its base model
Head = Literal[
    "none", "lm", "double", "sequence_classification", "token_classification", "question_answering"
]
# The head of each class, by the name that config.json has under "architectures".
HEADS: dict[str, Head] = {
    "GPT2Model": "none",
    "GPT2LMHeadModel": "lm",
    "GPT2DoubleHeadsModel": "double",
    "GPT2ForSequenceClassification": "sequence_classification",
    "GPT2ForTokenClassification": "token_classification",
    "GPT2ForQuestionAnswering": "question_answering",
}
Role = Literal["embedding", "weight", "residual_weight", "bias", "norm_weight", "norm_bias"]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model.

    Attributes:
        name: Official name, as in the state dict of the class that has it.
        letters: Shape in letters, "D 3D" (docs/shapes.md).
        shape: Shape in numbers.
        role: What it is for, which decides how a fresh one is drawn.
        part: The part of the model that it is counted under.
        tied_to: Name of the tensor that this one is, where the two are one.
    """

    name: str
    letters: str
    shape: tuple[int, ...]
    role: Role
    part: str
    tied_to: str | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def tensor_specs(config: GPT2Config, *, head: Head = "lm") -> tuple[TensorSpec, ...]:
    """List the tensors of a model, in the order of 4.34's state dict.

    Args:
        config: The model's configuration; `pruned_heads` is taken into account.
        head: One of `HEADS`. With any but "none" the names of the body begin with "transformer.".

    Returns:
        One spec a tensor; a tied `lm_head.weight` is listed, with `tied_to` set.

    Source:
        transformers v4.34.0, models/gpt2/modeling_gpt2.py.

    Example:
        >>> spec = tensor_specs(GPT2Config())[4]
        >>> spec.name, spec.letters, spec.shape
        ('transformer.h.0.attn.c_attn.weight', 'D 3D', (768, 2304))
    """
    V, P, D = config.vocab_size, config.n_positions, config.n_embd
    prefix = "" if head == "none" else BASE_PREFIX
    specs = [
        TensorSpec(f"{prefix}wte.weight", "V D", (V, D), "embedding", "token embeddings"),
        TensorSpec(f"{prefix}wpe.weight", "P D", (P, D), "embedding", "position embeddings"),
    ]
    for layer in range(config.n_layer):
        specs += _block(config, f"{prefix}h.{layer}.", len(set(config.pruned_heads.get(layer, ()))))
    specs += _norm(f"{prefix}ln_f", D)
    if head in ("lm", "double"):
        tied_to = specs[0].name if config.tie_word_embeddings else None
        specs.append(TensorSpec("lm_head.weight", "V D", (V, D), "weight", "language model head", tied_to))
    specs += _labels(config, head)
    return tuple(specs)


def head_of(config: GPT2Config) -> Head:
    """Return the head of the class that saved a configuration; "lm", the usual one, where none is told."""
    return next((HEADS[name] for name in config.architectures or () if name in HEADS), "lm")


def parameter_counts(config: GPT2Config, *, head: Head = "lm") -> dict[str, int]:
    """Count the parameters of a model by part, tied ones once; the parts are in the order of the table."""
    counts: dict[str, int] = {}
    for spec in tensor_specs(config, head=head):
        if spec.tied_to is None:
            counts[spec.part] = counts.get(spec.part, 0) + spec.size
    return counts


def _labels(config: GPT2Config, head: Head) -> Iterator[TensorSpec]:
    """List the tensors of a head that scores labels, choices or spans rather than tokens."""
    N = config.num_labels
    if head == "double" and config.summary_use_proj:
        letter, width = ("1", 1) if config.summary_proj_to_labels else ("D", config.n_embd)
        yield from _linear("multiple_choice_head.summary", letter, width, config, "multiple-choice head")
    elif head == "sequence_classification":
        yield TensorSpec("score.weight", "N D", (N, config.n_embd), "weight", "classification head")
    elif head == "token_classification":
        yield from _linear("classifier", "N", N, config, "classification head")
    elif head == "question_answering":
        yield from _linear("qa_outputs", "2", 2, config, "question-answering head")


def _linear(name: str, letter: str, width: int, config: GPT2Config, part: str) -> Iterator[TensorSpec]:
    """List the weight [out, in] and the bias [out] of an nn.Linear."""
    yield TensorSpec(f"{name}.weight", f"{letter} D", (width, config.n_embd), "weight", part)
    yield TensorSpec(f"{name}.bias", letter, (width,), "bias", part)


def _block(config: GPT2Config, prefix: str, pruned: int) -> Iterator[TensorSpec]:
    """List the tensors of one block; a block with pruned heads has narrower self-attention."""
    D, M = config.n_embd, config.mlp_width
    kept = D // config.n_head * (config.n_head - pruned)
    yield from _norm(f"{prefix}ln_1", D)
    yield from _conv1d(f"{prefix}attn.c_attn", "D", "3D", D, 3 * kept, "attention")
    yield from _conv1d(f"{prefix}attn.c_proj", "D", "D", kept, D, "attention")
    yield from _norm(f"{prefix}ln_2", D)
    if config.add_cross_attention:
        yield from _conv1d(f"{prefix}crossattention.c_attn", "D", "2D", D, 2 * D, "cross-attention")
        yield from _conv1d(f"{prefix}crossattention.q_attn", "D", "D", D, D, "cross-attention")
        yield from _conv1d(f"{prefix}crossattention.c_proj", "D", "D", D, D, "cross-attention")
        yield from _norm(f"{prefix}ln_cross_attn", D)
    yield from _conv1d(f"{prefix}mlp.c_fc", "D", "M", D, M, "MLP")
    yield from _conv1d(f"{prefix}mlp.c_proj", "M", "D", M, D, "MLP")


def _conv1d(
    name: str, letter_in: str, letter_out: str, n_in: int, n_out: int, part: str
) -> Iterator[TensorSpec]:
    """List the weight [in, out] and the bias [out] of a projection; c_proj ends in the residual stream."""
    role: Role = "residual_weight" if name.endswith("c_proj") else "weight"
    yield TensorSpec(f"{name}.weight", f"{letter_in} {letter_out}", (n_in, n_out), role, part)
    yield TensorSpec(f"{name}.bias", letter_out, (n_out,), "bias", part)


def _norm(name: str, width: int) -> Iterator[TensorSpec]:
    """List the weight and the bias of a layer normalization."""
    yield TensorSpec(f"{name}.weight", "D", (width,), "norm_weight", "layer norms")
    yield TensorSpec(f"{name}.bias", "D", (width,), "norm_bias", "layer norms")
