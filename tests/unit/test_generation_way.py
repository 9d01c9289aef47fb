"""The plans of contrastive search, assisted decoding, guidance and DoLa."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2kit.errors import InputError, LengthError
from gpt2kit.generation import GenerationConfig, GenerationMode, GenerationPlan, make_plan
from gpt2kit.generation import rules as r
from gpt2kit.generation.way import Assistance, Contrast, dola_candidates


def plan_of(assistant: bool = False, negative: int | None = None, **options: Any) -> GenerationPlan:
    return make_plan(
        GenerationConfig(max_new_tokens=7, **options),
        prompt_length=5,
        n_positions=13,
        vocab_size=101,
        assistant=assistant,
        negative_positions=negative,
        n_layer=7,
    )


def test_the_numbers_of_contrastive_search_are_in_its_plan():
    plan = plan_of(penalty_alpha=0.6, top_k=4, low_memory=True)
    assert plan.mode is GenerationMode.CONTRASTIVE_SEARCH
    assert plan.contrast == Contrast(4, 0.6, one_by_one=True)
    assert "4 likeliest tokens, read one after the other" in plan.explain()
    assert not plan.warnings


def test_the_numbers_of_drafts_are_in_their_plan():
    plan = plan_of(assistant=True, num_assistant_tokens=3, num_assistant_tokens_schedule="constant")
    assert plan.mode is GenerationMode.ASSISTED_GENERATION
    assert plan.assistance == Assistance(3, "constant")
    assert "the assistant drafts 3 token(s) at a time, constant" in plan.explain()
    plan = plan_of(prompt_lookup_num_tokens=3, max_matching_ngram_size=4, do_sample=True)
    assert plan.assistance == Assistance(3, by_lookup=True, longest=4)
    assert plan.sampled
    assert "the text drafts 3 token(s)" in plan.explain()
    assert not plan.warnings


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"penalty_alpha": 0.6, "top_k": 4, "do_sample": True}, "penalty_alpha"),
        ({"penalty_alpha": 0.6, "top_k": 1}, "penalty_alpha"),
        ({"num_assistant_tokens": 3}, "num_assistant_tokens"),
        ({"num_assistant_tokens_schedule": "constant"}, "num_assistant_tokens_schedule"),
        ({"max_matching_ngram_size": 3}, "max_matching_ngram_size"),
    ],
)
def test_an_option_of_another_way_of_decoding_is_told(options: dict[str, Any], name: str):
    (told,) = [text for text in plan_of(**options).warnings if f"`{name}`" in text]
    assert "only" in told


def test_low_memory_without_contrastive_search_is_refused():
    with pytest.raises(InputError, match="Pass penalty_alpha and top_k above 1"):
        plan_of(low_memory=True)


def test_guidance_comes_first_of_all_rules_and_counts_its_own_positions():
    plan = plan_of(guidance_scale=1.5, negative=7, sequence_bias={(5,): 1.0})
    assert [type(rule) for rule in plan.rules] == [r.Guidance, r.SequenceBias]
    assert "1.5 times as far from the negative prompt" in plan.explain()
    with pytest.raises(LengthError, match=r"negative prompt of 8 token\(s\) and 7 new one\(s\) need 14"):
        plan_of(guidance_scale=1.5, negative=8)
    assert not plan_of(guidance_scale=1.0).rules


@pytest.mark.parametrize(
    ("layers", "n_layer", "tied", "expected"),
    [
        ("low", 12, True, (2, 4)),
        ("low", 12, False, (0, 2, 4)),
        ("high", 12, True, (6, 8, 10)),
        ("low", 48, False, tuple(range(0, 20, 2))),
        ("high", 48, True, tuple(range(28, 48, 2))),
        ("low", 4, True, (2,)),
        ("low", 3, True, (2,)),
        ("low", 2, True, (1,)),
        ("low", 1, True, (0,)),
        ([3, 1], 4, True, (3, 1)),
    ],
)
def test_the_layers_that_dola_contrasts_are_those_of_transformers(
    layers: Any, n_layer: int, tied: bool, expected: tuple[int, ...]
):
    assert dola_candidates(layers, n_layer, tied) == expected


def test_dola_is_told_with_its_layers():
    plan = plan_of(dola_layers="high")
    assert plan.mode is GenerationMode.GREEDY_SEARCH
    assert "by what the last layer adds to the most different of 3, 5" in plan.explain()
    config = GenerationConfig(dola_layers="low", max_new_tokens=3)
    with pytest.raises(InputError, match="pass n_layer"):
        make_plan(config, prompt_length=5, n_positions=13, vocab_size=101)
