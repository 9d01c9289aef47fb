"""Every rule and every stop of a plan has code in each room or a reason why not; no room has others."""

from __future__ import annotations

import dataclasses

import pytest

from gpt2kit.generation import GenerationConfig, GenerationMode, rules, stops


def test_torch_has_code_for_every_rule_and_nothing_more():
    pytest.importorskip("torch", reason="the PyTorch room is not installed")
    from gpt2kit.torch.generation import logits

    assert set(logits.PROCESSOR_OF) == set(rules.RULES)


def test_torch_has_code_for_every_stop_and_nothing_more():
    pytest.importorskip("torch", reason="the PyTorch room is not installed")
    from gpt2kit.torch.generation import stopping

    assert set(stopping.CRITERION_OF) == set(stops.STOPS)


def assert_one_or_the_other(served: object, refused: dict, everything: object) -> None:
    """Each is served or refused, none is both, and a refusal is a sentence."""
    assert set(served) | set(refused) == set(everything)
    assert not set(served) & set(refused)
    assert all(len(why.split()) > 4 for why in refused.values())


def test_flax_has_code_for_every_rule_or_says_why_not():
    pytest.importorskip("jax", reason="the Flax room is not installed")
    from gpt2kit.flax.generation import logits

    assert_one_or_the_other(logits.PROCESSOR_OF, logits.REFUSED, rules.RULES)


def test_flax_serves_every_stop_and_every_way_of_decoding_or_says_why_not():
    pytest.importorskip("jax", reason="the Flax room is not installed")
    from gpt2kit.flax.generation import mixin, parts

    assert_one_or_the_other(parts.SERVED_STOPS, parts.REFUSED_STOPS, stops.STOPS)
    assert_one_or_the_other(mixin.RUNNER_OF, parts.REFUSED_MODES, GenerationMode)


def test_tensorflow_serves_every_rule_stop_and_way_of_decoding_or_says_why_not():
    pytest.importorskip("tensorflow", reason="the TensorFlow room is not installed")
    from gpt2kit.tensorflow.generation import logits, mixin, parts

    assert_one_or_the_other(logits.PROCESSOR_OF, logits.REFUSED, rules.RULES)
    assert_one_or_the_other(parts.SERVED_STOPS, parts.REFUSED_STOPS, stops.STOPS)
    assert_one_or_the_other(mixin.RUNNER_OF, parts.REFUSED_MODES, GenerationMode)


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
