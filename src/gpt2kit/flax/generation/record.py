"""The outputs of a generation, field by field as in transformers 4.34. Each is a tree that jax can map over.

Dimensions: R texts, T tokens of the longest that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from jax import Array

from gpt2kit.flax.outputs import FlaxModelOutput, register

__all__ = ["FlaxBeamSearchOutput", "FlaxGreedySearchOutput", "FlaxSampleOutput"]


@dataclass
class FlaxGreedySearchOutput(FlaxModelOutput):
    """What greedy search returns.

    Attributes:
        sequences: Prompts and texts, with padding behind each that ended before `max_length`, [R, T].
    """

    sequences: Array | None = None


@dataclass
class FlaxSampleOutput(FlaxModelOutput):
    """What sampling returns.

    Attributes:
        sequences: As in `FlaxGreedySearchOutput`; the texts of one prompt stand one below the other, [R, T].
    """

    sequences: Array | None = None


@dataclass
class FlaxBeamSearchOutput(FlaxModelOutput):
    """What beam search returns.

    Attributes:
        sequences: As in `FlaxGreedySearchOutput`, of each prompt the best first, [R, T].
        scores: Log-probability of each text, divided by its length ** length_penalty, [R].
    """

    sequences: Array | None = None
    scores: Array | None = None


for _output_class in (FlaxGreedySearchOutput, FlaxSampleOutput, FlaxBeamSearchOutput):
    register(_output_class)
