"""Beam searches by hand: the same texts as `generate` writes, by parts that the caller made."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cases import random_checkpoint, tiny_config
from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer, DisjunctiveConstraint, PhrasalConstraint
from gpt2kit.torch import BeamScorer, BeamSearchScorer, ConstrainedBeamSearchScorer, GPT2LMHeadModel
from gpt2kit.torch.generation.logits import (
    HammingDiversityLogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)
from gpt2kit.torch.generation.stopping import MaxLengthCriteria, MaxTimeCriteria, StoppingCriteriaList

IDS = torch.tensor([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
ENDS = list(range(20, 40))
STOP = StoppingCriteriaList([MaxLengthCriteria(14), MaxTimeCriteria(1e6)])  # its clock begins here
KEPT = {"return_dict_in_generate": True, "output_scores": True}


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    config = tiny_config(n_positions=37, eos_token_id=None, pad_token_id=1)
    state = {name: torch.from_numpy(array) for name, array in random_checkpoint(config, 5).items()}
    return GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state).eval()


def same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    assert list(found) == list(wanted)
    assert torch.equal(found.sequences, wanted.sequences)
    assert torch.equal(found.beam_indices, wanted.beam_indices)
    torch.testing.assert_close(found.sequences_scores, wanted.sequences_scores)
    torch.testing.assert_close(found.scores, wanted.scores)


def test_beam_search(model: GPT2LMHeadModel):
    scorer = BeamSearchScorer(2, 3, "cpu", length_penalty=-1.0, num_beam_hyps_to_keep=2)
    rules = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3)])
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = model.beam_search(
        IDS.repeat_interleave(3, dim=0), scorer, rules, STOP, eos_token_id=ENDS,
        attention_mask=mask.repeat_interleave(3, dim=0), **KEPT,
    )  # fmt: skip
    wanted = model.generate(
        IDS, attention_mask=mask, num_beams=3, num_return_sequences=2, length_penalty=-1.0, max_length=14,
        eos_token_id=ENDS, repetition_penalty=1.3, **KEPT,
    )  # fmt: skip
    same(found, wanted)


def test_beam_sample(model: GPT2LMHeadModel):
    warpers = LogitsProcessorList([TemperatureLogitsWarper(0.7), TopKLogitsWarper(11, min_tokens_to_keep=2)])
    torch.manual_seed(7)
    scorer = BeamSearchScorer(2, 3, "cpu", do_early_stopping="never", max_length=14)
    found = model.beam_sample(
        IDS.repeat_interleave(3, dim=0), scorer, None, STOP, warpers, eos_token_id=31, **KEPT
    )
    torch.manual_seed(7)
    wanted = model.generate(
        IDS, num_beams=3, do_sample=True, temperature=0.7, top_k=11, max_length=14, early_stopping="never",
        eos_token_id=31, **KEPT,
    )  # fmt: skip
    same(found, wanted)


def test_group_beam_search(model: GPT2LMHeadModel):
    scorer = BeamSearchScorer(2, 4, "cpu", num_beam_groups=2)
    rules = LogitsProcessorList([HammingDiversityLogitsProcessor(1.5, num_beams=4, num_beam_groups=2)])
    found = model.group_beam_search(IDS.repeat_interleave(4, dim=0), scorer, rules, max_length=14, **KEPT)
    wanted = model.generate(IDS, num_beams=4, num_beam_groups=2, diversity_penalty=1.5, max_length=14, **KEPT)
    same(found, wanted)


def test_constrained_beam_search(model: GPT2LMHeadModel):
    constraints = [PhrasalConstraint([41, 43]), DisjunctiveConstraint([[9], [13, 19]])]
    scorer = ConstrainedBeamSearchScorer(2, 4, constraints, "cpu")
    found = model.constrained_beam_search(IDS.repeat_interleave(4, dim=0), scorer, None, STOP, **KEPT)
    words = [[41, 43], [[9], [13, 19]]]
    wanted = model.generate(IDS, num_beams=4, force_words_ids=words, max_length=14, **KEPT)
    same(found, wanted)


class Own(BeamSearchScorer):
    """Keep texts in a way of one's own."""

    def process(self, *args: Any, **kwargs: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.beam_search(IDS, BeamSearchScorer(2, 3, "cpu")), "should be 6, but is 2"),
        (lambda m: m.beam_search(IDS, BeamSearchScorer(1, 2, "cpu")), "not all of 2 are equal"),
        (lambda m: m.beam_search(IDS, object()), "scorer of gpt2kit is wanted"),
        (
            lambda m: m.beam_search(IDS[[0, 0]], BeamSearchScorer(1, 2, "cpu"), streamer=BaseStreamer()),
            "`streamer` cannot",
        ),
        (
            lambda m: m.beam_search(IDS[[0, 0]], BeamSearchScorer(1, 2, "cpu", max_length=9), max_length=8),
            "max_length=9",
        ),
        (lambda m: Own(2, 3, "cpu"), r"Own.process would never be called"),
        (lambda m: BeamScorer(2, 1, "cpu"), "`num_beams`"),
        (lambda m: BeamSearchScorer(2, 3, "cpu", num_beam_groups=2), "multiple"),
        (lambda m: BeamSearchScorer(2, 3, "cpu", num_beam_hyps_to_keep=4), "at least"),
        (lambda m: ConstrainedBeamSearchScorer(2, 4, [], "cpu"), "nothing that has to be written"),
        (
            lambda m: ConstrainedBeamSearchScorer(2, 4, [PhrasalConstraint([5])], "cpu", num_beam_groups=2),
            "do not go with",
        ),
    ],
)
def test_what_cannot_work_by_hand_is_refused(model: GPT2LMHeadModel, call: Any, said: str):
    with pytest.raises(InputError, match=said):
        call(model)
