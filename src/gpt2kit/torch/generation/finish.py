"""From the finished texts of a beam search to what is returned: tokens side by side, and their scores.

Dimensions: B prompts, T tokens of the longest text, W texts of each that are returned.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import GenerationPlan
from gpt2kit.generation.hypotheses import Hypotheses, Hypothesis
from gpt2kit.torch.generation.record import BeamSampleDecoderOnlyOutput, BeamSearchDecoderOnlyOutput, Record
from gpt2kit.torch.generation.search import padding

__all__ = ["finished"]


def finished(
    pools: Sequence[Sequence[Hypotheses]], plan: GenerationPlan, record: Record | None, device: torch.device
) -> Tensor | BeamSearchDecoderOnlyOutput | BeamSampleDecoderOnlyOutput:
    """Return the best texts of each prompt.

    Args:
        pools: The finished texts of each prompt, in one list for each group of beams.
        plan: How many are returned, and what fills the shorter ones.
        record: What was kept of the steps; None returns the tokens alone.
        device: Where the result lies.

    Raises:
        InputError: a prompt has fewer texts than are to be returned.
    """
    best = [text for row, lists in enumerate(pools) for text in _best(lists, plan.returns, row)]
    if any(not text.fulfilled for text in best):
        rows = sorted({place // plan.returns for place, text in enumerate(best) if not text.fulfilled})
        warnings.warn(
            f"Not all that has to be written fitted into the texts of row(s) {rows}: no beam got so far. "
            "Allow more tokens or more beams.",
            UserWarning,
            stacklevel=5,
        )
    ends = [[] if text.end is None else [text.end] for text in best]
    lengths = [len(text.text) + len(end) for text, end in zip(best, ends, strict=True)]
    shape = (len(best), max(lengths))
    fill = padding(plan.pad_token_id) if min(lengths) < max(lengths) else 0
    sequences = torch.full(shape, fill, dtype=torch.long, device=device)  # [B*W, T]
    for place, (text, end) in enumerate(zip(best, ends, strict=True)):
        sequences[place, : len(text.text)] = text.text
        sequences[place, len(text.text) : lengths[place]] = torch.tensor(end, device=device)
    if record is None:
        return sequences
    kind = BeamSampleDecoderOnlyOutput if plan.sampled else BeamSearchDecoderOnlyOutput
    if record.scores is None:
        return kind(sequences=sequences, **record.fields())
    beams = torch.full(shape, -1, dtype=torch.long, device=device)  # [B*W, T]
    for place, text in enumerate(best):
        beams[place, : len(text.beams)] = text.beams
    scores = torch.tensor([text.score for text in best], dtype=torch.float, device=device)  # [B*W]
    return kind(sequences=sequences, sequences_scores=scores, beam_indices=beams, **record.fields())


def _best(lists: Sequence[Hypotheses], count: int, row: int) -> list[Hypothesis]:
    """Return the best texts of one prompt, the best first."""
    texts = [text for found in lists for text in found.found]
    if len(texts) < count:
        raise InputError(
            f"The rules leave {len(texts)} text(s) for the prompt in row {row}, and num_return_sequences is "
            f"{count}. Loosen the rules or ask for fewer."
        )
    places = sorted(
        range(len(texts)), key=lambda place: (texts[place].fulfilled, texts[place].score, place), reverse=True
    )
    return [texts[place] for place in places[:count]]
