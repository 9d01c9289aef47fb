"""The rules of TensorFlow do the same in a program that XLA compiles, where their numbers are data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from gpt2kit.generation import rules
from gpt2kit.tensorflow.generation.logits import PROCESSOR_OF, Setting, TFMinPLogitsWarper, processor_of
from gpt2kit.tensorflow.generation.processor import put_together, taken_apart
from gpt2kit.tensorflow.generation.program import Programs

TEXT = np.array([[17, 3, 59, 3, 17, 3, 59, 1, 1], [5, 83, 7, 11, 5, 83, 7, 1, 1]], np.int32)
SCORES = np.random.default_rng(5).normal(size=(2, 101)).astype(np.float32) * 3
SETTING = Setting(TEXT[:, :5], 5)

# Each rule with two sets of numbers, of which the second shall compile nothing.
RULES: dict[type[rules.Rule], tuple[Any, ...]] = {
    rules.SequenceBias: (
        rules.SequenceBias({(43,): 2.0, (59, 11): -3.0}),
        rules.SequenceBias({(7,): -1.5, (7, 13): 4.0}),
    ),
    rules.EncoderRepetitionPenalty: (
        rules.EncoderRepetitionPenalty(1.3),
        rules.EncoderRepetitionPenalty(0.7),
    ),
    rules.RepetitionPenalty: (rules.RepetitionPenalty(1.3), rules.RepetitionPenalty(0.7)),
    rules.NoRepeatNGram: (rules.NoRepeatNGram(3),),
    rules.NoBadWords: (
        rules.NoBadWords(((43,), (59, 11)), (29,)),
        rules.NoBadWords(((13,), (7, 3)), (29,)),
    ),
    rules.MinLength: (rules.MinLength(9, (29,)), rules.MinLength(8, (29,))),
    rules.MinNewTokens: (rules.MinNewTokens(5, 3, (29,)), rules.MinNewTokens(5, 4, (29,))),
    rules.ForcedBOS: (rules.ForcedBOS(31), rules.ForcedBOS(37)),
    rules.ForcedEOS: (rules.ForcedEOS(8, (29,)), rules.ForcedEOS(9, (29,))),
    rules.RemoveInvalid: (rules.RemoveInvalid(),),
    rules.ExponentialDecay: (
        rules.ExponentialDecay(5, 1.2, (29,), 1),
        rules.ExponentialDecay(4, 1.4, (29,), 2),
    ),
    rules.SuppressTokens: (rules.SuppressTokens((3, 43)), rules.SuppressTokens((5, 97))),
    rules.SuppressTokensAtBegin: (
        rules.SuppressTokensAtBegin((3, 43), 7),
        rules.SuppressTokensAtBegin((5, 47), 7),
    ),
    rules.ForceTokens: (rules.ForceTokens(((7, 43),)), rules.ForceTokens(((7, 47),))),
    rules.LogitNormalization: (rules.LogitNormalization(),),
    rules.Temperature: (rules.Temperature(0.7), rules.Temperature(1.9)),
    rules.TopK: (rules.TopK(7),),
    rules.TopP: (rules.TopP(0.7), rules.TopP(0.3)),
    rules.MinP: (rules.MinP(0.2), rules.MinP(0.02)),
    rules.Typical: (rules.Typical(0.7), rules.Typical(0.3)),
    rules.EpsilonCutoff: (rules.EpsilonCutoff(0.03), rules.EpsilonCutoff(0.003)),
    rules.EtaCutoff: (rules.EtaCutoff(0.03), rules.EtaCutoff(0.003)),
}


def test_every_rule_is_held_to_this():
    assert set(RULES) == set(PROCESSOR_OF)


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_a_compiled_rule_does_what_it_does_step_by_step_and_other_numbers_compile_nothing(
    kind: type[rules.Rule],
):
    programs, scores = Programs(), SCORES.copy()
    if kind is rules.RemoveInvalid:
        scores[0, 3], scores[1, 5], scores[1, 7] = float("nan"), float("inf"), -float("inf")
    length = 1 if kind is rules.ForcedBOS else 7
    found = []  # what each rule makes of the scores, at two lengths
    for rule in RULES[kind]:
        processor = processor_of(rule, SETTING)
        for now in (length, length + 1):
            expected = processor(tf.constant(TEXT), tf.constant(scores), now).numpy()
            (key,), numbers = taken_apart([processor])

            def traced(given: Any, processor: Any = processor) -> Any:
                text, scores, now = given["call"]
                return put_together([processor], given["numbers"])(text, scores, now)

            call = [TEXT, scores, np.int32(now)]
            compiled = programs.run((key,), traced, {"numbers": numbers, "call": call}).numpy()
            np.testing.assert_allclose(compiled, expected, rtol=0, atol=2e-6)  # 4 ulp at scores up to 9
            found.append(compiled)
    assert programs.traced == 1
    changed = [np.stack(found[start : start + 2]) for start in range(0, len(found), 2)]
    assert all((one != scores).any() for one in changed)
    assert len(changed) == 1 or (changed[0] != changed[1]).any()


@pytest.mark.parametrize("min_p", [0.02, 0.2, 1.0])
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(min_p: float):
    p = np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)
    keeps = p >= np.float32(min_p) * p.max(axis=1, keepdims=True)
    assert {0.02: 9 < keeps.sum() < 90, 0.2: 2 < keeps.sum() < 30, 1.0: keeps.sum() == 2}[min_p]
    found = TFMinPLogitsWarper(min_p)(TEXT, tf.constant(SCORES), 7)
    np.testing.assert_array_equal(found, np.where(keeps, SCORES, -np.inf))
    best = np.argsort(-SCORES, axis=1)[:, :13]
    kept = TFMinPLogitsWarper(1.0, filter_value=-7.0, min_tokens_to_keep=13)(TEXT, tf.constant(SCORES), 7)
    for row in range(2):
        np.testing.assert_array_equal(np.flatnonzero(kept[row] != -7.0), np.sort(best[row]))
