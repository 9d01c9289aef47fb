"""The rules of a generation do the same to the same scores in every room, and the rooms draw alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="one of the rooms that are compared")
pytest.importorskip("jax", reason="one of the rooms that are compared")

import jax
import torch

from cases import random_checkpoint, tiny_config
from flax_builder import build_flax
from gpt2kit.flax.generation import logits as flax_logits
from gpt2kit.generation import rules
from gpt2kit.torch import GPT2LMHeadModel
from gpt2kit.torch.generation import logits as torch_logits
from gpt2kit.torch.generation.processor import Setting

V, T, ROOM = 101, 11, 17
# A rule with its numbers; some twice, where a text may be on either side of a length.
CASES: list[rules.Rule] = [
    rules.SequenceBias({(5,): -2.0, (7, 11): 4.0, (3, 2, 4): 1.5, (2, 2): float("-inf")}),
    rules.EncoderRepetitionPenalty(1.7),
    rules.RepetitionPenalty(1.3),
    rules.RepetitionPenalty(0.6),
    rules.NoRepeatNGram(1),
    rules.NoRepeatNGram(2),
    rules.NoRepeatNGram(3),
    rules.NoBadWords(((5,), (2, 3), (4, 2, 3), (9,)), (9,)),
    rules.MinLength(T + 1, (3, 5)),
    rules.MinLength(T, (3, 5)),
    rules.MinNewTokens(4, 8, (3, 5)),
    rules.MinNewTokens(4, 7, (3, 5)),
    rules.ForcedBOS(13),
    rules.ForcedEOS(T + 1, (3, 5)),
    rules.ForcedEOS(T + 2, (3, 5)),
    rules.RemoveInvalid(),
    rules.ExponentialDecay(2, 1.4, (3, 5), 4),
    rules.ExponentialDecay(7, 1.4, (3, 5), 4),
    rules.SuppressTokens((3, 5)),
    rules.SuppressTokens(()),
    rules.SuppressTokensAtBegin((3, 5), T),
    rules.SuppressTokensAtBegin((3, 5), T - 1),
    rules.ForceTokens(((T, 7), (3, 9))),
    rules.ForceTokens(((T + 1, 7),)),
    rules.LogitNormalization(),
    rules.Temperature(0.7),
    rules.TopK(7),
    rules.TopK(3, 5),
    rules.TopK(1000),
    rules.TopP(0.7),
    rules.TopP(0.01, 3),
    rules.TopP(1.0),
    rules.MinP(0.1),
    rules.MinP(1.0, 3),
    rules.Typical(0.6),
    rules.Typical(0.01, 3),
    rules.EpsilonCutoff(0.02),
    rules.EpsilonCutoff(0.9, 3),
    rules.EtaCutoff(0.05),
    rules.EtaCutoff(0.9, 3),
]


def test_every_rule_of_the_flax_room_is_among_the_cases():
    assert {type(rule) for rule in CASES} == set(flax_logits.PROCESSOR_OF)


def scores_of(kind: str) -> np.ndarray[Any, Any]:
    """Draw scores, all different; with barred tokens, or with what is no number."""
    scores = np.random.default_rng(5).normal(size=(2, V)).astype(np.float32) * 3
    if kind == "barred":
        scores[:, ::2] = -np.inf
        scores[:, 3] = -np.inf
    if kind == "broken":
        scores[0, 3], scores[1, 5], scores[1, 7] = np.nan, np.inf, -np.inf
    return scores


@pytest.mark.parametrize("rule", CASES, ids=lambda rule: f"{type(rule).__name__}")
def test_a_rule_does_the_same_in_both_rooms(rule: rules.Rule):
    text = np.random.default_rng(3).integers(2, 6, (2, ROOM))  # few tokens: runs repeat themselves
    prompt = np.random.default_rng(7).integers(0, V, (2, 4))
    ours = flax_logits.processor_of(rule, flax_logits.Setting(np.pad(prompt, ((0, 0), (0, 3))), 4))
    theirs = torch_logits.processor_of(rule, Setting(torch.from_numpy(prompt)))
    length = 1 if isinstance(rule, rules.ForcedBOS) else T
    compiled = jax.jit(lambda rule, text, scores, n: rule(text, scores, n))
    kinds = ["broken"] if isinstance(rule, rules.RemoveInvalid) else ["plain", "barred"]
    for kind in kinds:
        scores = scores_of(kind)
        found = np.asarray(compiled(ours, text, scores, length))
        wanted = theirs(torch.from_numpy(text[:, :length]), torch.from_numpy(scores.copy())).numpy()
        # Roundings of float32: 1.4 ** 5 is made in double precision there; 4e-6 at scores up to 50.
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=2e-6)


def test_flax_draws_by_the_probabilities_of_pytorch():
    config = tiny_config(n_layer=1, eos_token_id=None, pad_token_id=1)
    weights = random_checkpoint(config, 5)
    ids, n = np.array([[17, 3, 59, 3, 71]]), 2048
    options: dict[str, Any] = {
        "do_sample": True, "temperature": 6.0, "top_k": 60, "top_p": 0.9, "typical_p": 0.95,
        "epsilon_cutoff": 0.004, "eta_cutoff": 0.005, "repetition_penalty": 1.2, "max_new_tokens": 1,
    }  # fmt: skip
    state = {name: torch.from_numpy(values) for name, values in weights.items()}
    theirs = GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state).eval()
    output = theirs.generate(
        torch.from_numpy(ids), return_dict_in_generate=True, output_scores=True, **options
    )
    p = output.scores[0][0].softmax(-1).double().numpy()
    ours = build_flax(config, weights)
    drawn = ours.generate(
        ids, num_return_sequences=n, prng_key=jax.random.PRNGKey(17), trace=False, **options
    ).sequences
    counts = np.bincount(np.asarray(drawn)[:, -1], minlength=V)
    assert counts.sum() == n
    assert not counts[p == 0].any()
    left = p > 0
    assert left.sum() > 10
    chi_square = ((counts - n * p)[left] ** 2 / (n * p[left])).sum()
    freedom = left.sum() - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)  # by chance in about one of a thousand keys
