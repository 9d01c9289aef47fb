"""Constraints in a beam search: which beams go on, so that what has to be written comes forward.

Dimensions: W beams of one prompt, V vocabulary.

Source:
    transformers v4.34.0, generation/beam_search.py, ConstrainedBeamSearchScorer.step_sentence_constraint,
    after Post and Vilar 2018, "Fast Lexically Constrained Decoding with Dynamic Beam Allocation".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation.constraints import Constraint, ConstraintListState

__all__ = ["bring_forward", "fulfils"]

# A step towards a constraint counts as much as this much log-probability, as in 4.34.
_WORTH = 100


def fulfils(constraints: Sequence[Constraint], text: Iterable[int]) -> bool:
    """Tell whether a text has everything that has to be written."""
    if not constraints:
        return True
    state = ConstraintListState(constraints)
    state.reset(text)
    return state.completed


def bring_forward(
    constraints: Sequence[Constraint],
    texts: Sequence[list[int]],
    sums: Tensor,
    totals: Tensor,
    tokens: Tensor,
    beams: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the beams of one prompt anew, from the likeliest and from those that bring a constraint forward.

    All of them are sorted into banks by how much is fulfilled; then the best of each bank is taken in turn,
    the fullest bank first, until there are W.

    Args:
        constraints: What has to be written.
        texts: The text of each beam.
        sums: Log-probability of each beam with each token, [W, V].
        totals: The likeliest, [W].
        tokens: Their last tokens, [W].
        beams: Numbers of the beams they go on from, [W].

    Returns:
        Log-probabilities, tokens and beams of those that go on, [W] each.
    """
    states, known = [], []
    for beam, token in zip(beams.tolist(), tokens.tolist(), strict=True):
        known.append([*texts[beam], token])
        states.append(ConstraintListState(constraints))
        states[-1].reset(known[-1])
    steps: list[tuple[int, int]] = []  # (beam, token)
    for beam, text in enumerate(texts):
        state = ConstraintListState(constraints)
        state.reset(text)
        for token in () if state.completed else state.advance() or ():
            if token >= sums.size(-1):
                raise InputError(
                    f"A constraint wants token {token}, and the vocabulary ends at {sums.size(-1) - 1}."
                )
            if [*text, token] not in known:
                known.append([*text, token])
                states.append(state.copy(stateful=True))
                states[-1].add(token)
                steps.append((beam, token))
    if not steps:
        return totals, tokens, beams
    new_beams, new_tokens = torch.tensor(steps, device=beams.device).unbind(dim=1)  # [steps] each
    totals = torch.cat((totals, sums[new_beams, new_tokens]))  # [W + steps]
    banks = torch.tensor([state.get_bank() for state in states], device=beams.device)  # [W + steps]
    order = (banks * _WORTH + totals).sort(descending=True).indices  # [W + steps]
    chosen = order[_in_turn(banks[order].tolist())[: len(texts)]]  # [W]
    return totals[chosen], torch.cat((tokens, new_tokens))[chosen], torch.cat((beams, new_beams))[chosen]


def _in_turn(banks: Sequence[int]) -> list[int]:
    """Return places such that the first of each run of equal banks comes first, then the second of each."""
    turns, turn = [], -1
    for place, bank in enumerate(banks):
        turn = turn + 1 if place and bank == banks[place - 1] else 0
        turns.append(turn)
    return sorted(range(len(banks)), key=lambda place: turns[place])
