"""Every rule and every stop of a plan has code in each room, and no room has code for anything else."""

from __future__ import annotations

import dataclasses

import pytest

from gpt2kit.generation import GenerationConfig, rules, stops
from gpt2kit.torch.generation import logits, stopping


def test_torch_has_code_for_every_rule_and_nothing_more():
    assert set(logits.PROCESSOR_OF) == set(rules.RULES)


def test_torch_has_code_for_every_stop_and_nothing_more():
    assert set(stopping.CRITERION_OF) == set(stops.STOPS)


@pytest.mark.parametrize("kind", [*rules.RULES, *stops.STOPS], ids=lambda kind: kind.__name__)
def test_every_rule_is_frozen_public_and_names_its_option(kind: type):
    assert kind.__dataclass_params__.frozen
    assert kind.__name__ in (*rules.__all__, *stops.__all__)
    option = kind.option
    assert option in GenerationConfig.FIELDS or option == "prefix_allowed_tokens_fn"


def test_every_option_of_the_scores_belongs_to_one_rule():
    options = [kind.option for kind in rules.RULES]
    assert len(options) == len(set(options))


def test_every_rule_says_what_it_does_with_its_numbers():
    samples = {
        rules.SequenceBias: ({(5,): -2.0},),
        rules.HammingDiversity: (0.5, 4, 2),
        rules.NoBadWords: ([[5]],),
        rules.MinLength: (3, (5,)),
        rules.MinNewTokens: (3, 4, (5,)),
        rules.PrefixConstrained: (lambda row, ids: [1],),
        rules.ForcedEOS: (7, (5,)),
        rules.ExponentialDecay: (1, 1.5, (5,), 3),
        rules.SuppressTokens: ((5,),),
        rules.SuppressTokensAtBegin: ((5,), 3),
        rules.ForceTokens: (((1, 5),),),
        rules.NoRepeatNGram: (2,),
        rules.TopK: (7,),
        rules.ForcedBOS: (5,),
    }
    for kind in rules.RULES:
        fields = dataclasses.fields(kind)
        rule = kind(*samples.get(kind, (0.5,) if fields else ()))
        assert str(rule)
        assert "{" not in str(rule)
