"""What a generation keeps of its steps, and the outputs that hold it, in the layouts of transformers 4.34.

Dimensions: B rows of text, T tokens of the prompt, S positions so far, D n_embd, H heads, E positions of an
encoder, V vocabulary; for beams, W of each prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gpt2kit.outputs import ModelOutput

__all__ = [
    "BeamSampleDecoderOnlyOutput",
    "BeamSearchDecoderOnlyOutput",
    "GreedySearchDecoderOnlyOutput",
    "Record",
    "SampleDecoderOnlyOutput",
]


@dataclass
class GreedySearchDecoderOnlyOutput(ModelOutput):
    """What greedy search returns with `return_dict_in_generate=True`.

    Attributes:
        sequences: Prompt and text, [B, T + new tokens].
        scores: For each new token the scores it was chosen from, after all rules, [B, V] each.
        attentions: For each new token and each layer, [B, H, positions read, S].
        hidden_states: For each new token, embeddings and each layer, [B, positions read, D].
        cross_attentions: For each new token and each layer, [B, H, positions read, E]; where there is an
            encoder.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None


@dataclass
class SampleDecoderOnlyOutput(ModelOutput):
    """What sampling returns with `return_dict_in_generate=True`; B counts every text of every prompt.

    Attributes:
        sequences: As in `GreedySearchDecoderOnlyOutput`, like the rest.
        scores: See there.
        attentions: See there.
        hidden_states: See there.
        cross_attentions: See there.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None


@dataclass
class BeamSearchDecoderOnlyOutput(ModelOutput):
    """What beam search returns with `return_dict_in_generate=True`, groups and constraints included.

    Attributes:
        sequences: Prompt and text, the best first, [B * num_return_sequences, up to max_length].
        sequences_scores: Log-probability of each, divided by length ** length_penalty; with `output_scores`.
        scores: For each new token log-probabilities of every beam, after all rules, [B*W, V] each.
            Constrained search adds to them the beam's log-probability so far.
        beam_indices: For each new token the row of `scores` that it was chosen from, then -1, in the shape
            of the sequences; with `output_scores`.
        attentions: For each new token and each layer, [B*W, H, positions read, S].
        hidden_states: For each new token, embeddings and each layer, [B*W, positions read, D].
        cross_attentions: As in `GreedySearchDecoderOnlyOutput`, of B*W rows.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None


@dataclass
class BeamSampleDecoderOnlyOutput(ModelOutput):
    """What beam sampling returns with `return_dict_in_generate=True`.

    Attributes:
        sequences: As in `BeamSearchDecoderOnlyOutput`, like the rest.
        sequences_scores: See there.
        scores: See there; the rules of sampling have been applied.
        beam_indices: See there.
        attentions: See there.
        hidden_states: See there.
        cross_attentions: See there.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None


@dataclass
class Record:
    """What is kept of every step, where that was asked for: `None` means not.

    Attributes:
        scores: What each token was chosen from.
        attentions: What the model gave; where there is an encoder, `cross_attentions` are kept with them.
        hidden_states: What the model gave.
    """

    scores: list[Tensor] | None = None
    attentions: list[Any] | None = None
    hidden_states: list[Any] | None = None
    cross_attentions: list[Any] = field(default_factory=list)

    def add(self, scores: Tensor | None, outputs: Any, times: int = 1) -> None:
        """Keep what one step gave.

        Args:
            scores: What the tokens were chosen from; None where they are added by themselves.
            outputs: What the model gave.
            times: How often each of its rows counts.
        """
        if self.scores is not None and scores is not None:
            self.scores.append(scores)
        if self.attentions is not None:
            self.attentions.append(_repeated(outputs.attentions, times))
            cross_attentions = getattr(outputs, "cross_attentions", None)
            if cross_attentions is not None:
                self.cross_attentions.append(_repeated(cross_attentions, times))
        if self.hidden_states is not None:
            self.hidden_states.append(_repeated(outputs.hidden_states, times))

    def fields(self) -> dict[str, Any]:
        """Return what was kept, in the nested tuples of 4.34."""
        return {
            name: None if kept is None else tuple(kept)
            for name, kept in vars(self).items()
            if name != "cross_attentions" or kept
        }


def _repeated(layers: tuple[Tensor, ...], times: int) -> tuple[Tensor, ...]:
    """Return what each layer gave with every row `times` times."""
    if times == 1:
        return layers
    return tuple(layer.repeat_interleave(times, dim=0) for layer in layers)  # [B * times, ...]
