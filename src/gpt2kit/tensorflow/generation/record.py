"""What a generation keeps of its steps, and the outputs that hold it, in the layouts of transformers 4.34.

Dimensions: B rows of text, T tokens of the prompt, S positions so far, D n_embd, H heads, E positions of an
encoder, V vocabulary; for beams, W of each prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gpt2kit.generation import GenerationConfig
from gpt2kit.outputs import ModelOutput
from gpt2kit.tensorflow.outputs import register

__all__ = [
    "Record",
    "TFBeamSampleDecoderOnlyOutput",
    "TFBeamSearchDecoderOnlyOutput",
    "TFContrastiveSearchDecoderOnlyOutput",
    "TFGreedySearchDecoderOnlyOutput",
    "TFSampleDecoderOnlyOutput",
    "record_of",
]


@dataclass
class TFGreedySearchDecoderOnlyOutput(ModelOutput):
    """What greedy search returns with `return_dict_in_generate=True`.

    Attributes:
        sequences: Prompt and text, [B, T + new tokens].
        scores: For each new token the scores it was chosen from, after all rules, [B, V] each.
        attentions: For each new token and each layer, [B, H, positions read, S].
        hidden_states: For each new token, embeddings and each layer, [B, positions read, D].
        cross_attentions: For each new token and each layer, [B, H, positions read, E]; where there is an
            encoder.
    """

    sequences: Any = None
    scores: tuple[Any, ...] | None = None
    attentions: tuple[tuple[Any, ...], ...] | None = None
    hidden_states: tuple[tuple[Any, ...], ...] | None = None
    cross_attentions: tuple[tuple[Any, ...], ...] | None = None


@dataclass
class TFSampleDecoderOnlyOutput(TFGreedySearchDecoderOnlyOutput):
    """What sampling returns with `return_dict_in_generate=True`; B counts every text of every prompt."""


@dataclass
class TFContrastiveSearchDecoderOnlyOutput(TFGreedySearchDecoderOnlyOutput):
    """What contrastive search returns with `return_dict_in_generate=True`.

    Scores are those that the candidates were taken from; attentions and hidden states are those of the token
    before each new one: [B, H, T, T] and [B, T, D] of the prompt, then [B, H, 1, S] and [B, 1, D].
    """


@dataclass
class TFBeamSearchDecoderOnlyOutput(ModelOutput):
    """What beam search returns with `return_dict_in_generate=True`.

    Attributes:
        sequences: Prompt and text, the best first, [B * num_return_sequences, up to max_length].
        sequences_scores: Log-probability of each, divided by length ** length_penalty.
        scores: For each new token log-probabilities of every beam, after all rules, [B*W, V] each.
        beam_indices: For each new token the row of `scores` that it was chosen from, then -1, in the shape
            of the sequences.
        attentions: For each new token and each layer; None in this room.
        hidden_states: For each new token, embeddings and each layer; None in this room.
    """

    sequences: Any = None
    sequences_scores: Any = None
    scores: tuple[Any, ...] | None = None
    beam_indices: Any = None
    attentions: tuple[tuple[Any, ...], ...] | None = None
    hidden_states: tuple[tuple[Any, ...], ...] | None = None


@dataclass
class TFBeamSampleDecoderOnlyOutput(TFBeamSearchDecoderOnlyOutput):
    """What beam sampling returns with `return_dict_in_generate=True`; all rules are in its `scores`."""


@dataclass
class Record:
    """What is kept of every step, where that was asked for: `None` means not.

    Attributes:
        scores: What each token was chosen from.
        attentions: What the model gave; where there is an encoder, `cross_attentions` are kept with them.
        hidden_states: What the model gave.
    """

    scores: list[Any] | None = None
    attentions: list[Any] | None = None
    hidden_states: list[Any] | None = None
    cross_attentions: list[Any] = field(default_factory=list)

    def add(self, scores: Any, outputs: Any) -> None:
        """Keep what one step gave.

        Args:
            scores: What the tokens were chosen from.
            outputs: What the model gave.
        """
        if self.scores is not None:
            self.scores.append(scores)
        if self.attentions is not None:
            self.attentions.append(outputs.attentions)
            if outputs.cross_attentions:
                self.cross_attentions.append(outputs.cross_attentions)
        if self.hidden_states is not None:
            self.hidden_states.append(outputs.hidden_states)

    def fields(self) -> dict[str, Any]:
        """Return what was kept, in the nested tuples of 4.34."""
        return {name: tuple(kept) if kept else None for name, kept in vars(self).items()}


def record_of(config: GenerationConfig) -> Record | None:
    """Return empty places for what the options ask to keep."""
    if not config.return_dict_in_generate:
        return None
    return Record(
        scores=[] if config.output_scores else None,
        attentions=[] if config.output_attentions else None,
        hidden_states=[] if config.output_hidden_states else None,
    )


for _output_class in (
    TFGreedySearchDecoderOnlyOutput,
    TFSampleDecoderOnlyOutput,
    TFContrastiveSearchDecoderOnlyOutput,
    TFBeamSearchDecoderOnlyOutput,
    TFBeamSampleDecoderOnlyOutput,
):
    register(_output_class)
