"""What a generation keeps of its steps, and the outputs that hold it, in the layouts of transformers 4.34.

Dimensions: B rows of text, T tokens of the prompt, S positions so far, D n_embd, H heads, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gpt2kit.outputs import ModelOutput

__all__ = ["GreedySearchDecoderOnlyOutput", "Record", "SampleDecoderOnlyOutput"]


@dataclass
class GreedySearchDecoderOnlyOutput(ModelOutput):
    """What greedy search returns with `return_dict_in_generate=True`.

    Attributes:
        sequences: Prompt and text, [B, T + new tokens].
        scores: For each new token the scores it was chosen from, after all rules, [B, V] each.
        attentions: For each new token and each layer, [B, H, positions read, S].
        hidden_states: For each new token, embeddings and each layer, [B, positions read, D].
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None


@dataclass
class SampleDecoderOnlyOutput(ModelOutput):
    """What sampling returns with `return_dict_in_generate=True`; B counts every text of every prompt.

    Attributes:
        sequences: As in `GreedySearchDecoderOnlyOutput`, like the rest.
        scores: See there.
        attentions: See there.
        hidden_states: See there.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None


@dataclass
class Record:
    """What is kept of every step, where that was asked for: `None` means not."""

    scores: list[Tensor] | None = None
    attentions: list[Any] | None = None
    hidden_states: list[Any] | None = None

    def add(self, scores: Tensor, outputs: Any) -> None:
        """Keep what one step gave."""
        if self.scores is not None:
            self.scores.append(scores)
        if self.attentions is not None:
            self.attentions.append(outputs.attentions)
        if self.hidden_states is not None:
            self.hidden_states.append(outputs.hidden_states)

    def fields(self) -> dict[str, Any]:
        """Return what was kept, in the nested tuples of 4.34."""
        return {name: None if kept is None else tuple(kept) for name, kept in vars(self).items()}
