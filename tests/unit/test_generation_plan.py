"""The plan: what is decided before a tensor is made."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from gpt2kit.errors import InputError, LengthError
from gpt2kit.generation import GenerationConfig, GenerationPlan, make_plan
from gpt2kit.generation import rules as r
from gpt2kit.generation import stops as s


def plan_of(prompt_length: int = 5, n_positions: int = 37, **options: Any) -> GenerationPlan:
    named = ("batch_size", "prompt_positions", "max_length_given", "prefix_allowed_tokens_fn", "assistant")
    given = {name: options.pop(name) for name in named if name in options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = GenerationConfig(**({"max_new_tokens": 7} | options))
    return make_plan(config, prompt_length=prompt_length, n_positions=n_positions, vocab_size=101, **given)


def options_of(rules: tuple[r.Rule, ...]) -> list[str]:
    return [rule.option for rule in rules]


# ---------------------------------------------------------------------- how long


def test_new_tokens_win_over_the_whole_length_and_that_is_told():
    plan = plan_of(max_new_tokens=7, max_length=9, max_length_given=True)
    assert plan.max_length == 12
    assert plan.max_new_tokens == 7
    assert any("`max_new_tokens` will take precedence" in text for text in plan.remarks)


def test_the_default_length_of_20_is_told():
    plan = plan_of(max_new_tokens=None)
    assert plan.max_length == 20
    assert any("default `max_length`" in text for text in plan.warnings)
    assert not plan_of(max_new_tokens=None, max_length_given=True).warnings


def test_no_length_at_all_is_as_far_as_the_model_reaches():
    assert plan_of(max_new_tokens=None, max_length=None).max_length == 37


def test_the_last_position_may_be_used_and_none_beyond():
    assert plan_of(max_new_tokens=32).capacity == 37
    with pytest.raises(LengthError, match=r"38 positions.*n_positions=37.*max_new_tokens=32"):
        plan_of(max_new_tokens=33)


def test_a_prompt_that_fills_the_model_is_refused():
    with pytest.raises(LengthError, match=r"n_positions=37.*max_new_tokens=0"):
        plan_of(37, max_new_tokens=None, max_length=None)


def test_positions_of_embeddings_count_instead_of_tokens():
    plan = plan_of(1, prompt_positions=11)
    assert (plan.max_length, plan.capacity) == (8, 18)
    with pytest.raises(LengthError):
        plan_of(1, prompt_positions=31)


@pytest.mark.parametrize("max_length", [3, 5])
def test_a_length_that_leaves_no_room_is_refused(max_length: int):
    with pytest.raises(LengthError, match="nothing can be written"):
        plan_of(max_new_tokens=None, max_length=max_length)


def test_a_least_length_beyond_the_largest_is_refused():
    with pytest.raises(InputError, match=r"`min_length` \(13\) is larger"):
        plan_of(min_length=13)
    with pytest.raises(InputError, match=r"`min_new_tokens` \(9\) is larger"):
        plan_of(min_new_tokens=9, max_new_tokens=None, max_length=12)


# ---------------------------------------------------------------------- which rules, in which order


def everything(**more: Any) -> dict[str, Any]:
    return {
        "do_sample": True,
        "eos_token_id": 13,
        "sequence_bias": {(5,): 1.0},
        "encoder_repetition_penalty": 1.1,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[7]],
        "min_length": 6,
        "min_new_tokens": 2,
        "forced_bos_token_id": 3,
        "forced_eos_token_id": 13,
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": (3, 1.5),
        "suppress_tokens": [11],
        "begin_suppress_tokens": [17],
        "forced_decoder_ids": [[6, 19]],
        "temperature": 0.7,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.01,
        "guidance_scale": 1.5,
        "typical_p": 0.8,
        "epsilon_cutoff": 0.001,
        "eta_cutoff": 0.002,
        "renormalize_logits": True,
    } | more


def test_all_rules_come_in_the_order_of_4_34():
    plan = plan_of(**everything(), prefix_allowed_tokens_fn=lambda row, ids: [1])
    assert options_of(plan.rules) == [
        "guidance_scale",
        "sequence_bias",
        "encoder_repetition_penalty",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "bad_words_ids",
        "min_length",
        "min_new_tokens",
        "prefix_allowed_tokens_fn",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
        "forced_decoder_ids",
        "renormalize_logits",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "renormalize_logits",
    ]
    assert {type(rule) for rule in plan.rules} == set(r.RULES) - {r.HammingDiversity}  # of beams only


def test_greedy_search_has_no_rules_of_sampling():
    plan = plan_of(**everything(do_sample=False))
    assert options_of(plan.rules)[-1] == "renormalize_logits"
    assert "top_k" not in options_of(plan.rules)


def test_sampling_keeps_fifty_tokens_unless_told_otherwise():
    assert plan_of(do_sample=True).rules == (r.TopK(50),)
    assert plan_of(do_sample=True, top_k=0).rules == plan_of(do_sample=True, top_k=None).rules == ()
    # The options that TRL gives by default.
    assert plan_of(do_sample=True, top_k=0.0, top_p=1.0, min_length=-1, eos_token_id=97).rules == ()


def test_nothing_asked_is_no_rule():
    assert plan_of().rules == ()


def test_free_text_begins_after_what_is_forced():
    def begin(**options: Any) -> int:
        (rule,) = [x for x in plan_of(**options).processors if isinstance(x, r.SuppressTokensAtBegin)]
        return rule.begin_index

    assert begin(begin_suppress_tokens=[3]) == 5
    assert begin(begin_suppress_tokens=[3], prompt_length=1) == 1
    assert begin(begin_suppress_tokens=[3], forced_bos_token_id=7) == 5
    assert begin(begin_suppress_tokens=[3], prompt_length=1, forced_bos_token_id=7) == 2
    assert begin(begin_suppress_tokens=[3], forced_decoder_ids=[[1, 3], [2, 7]]) == 7


def test_a_token_outside_the_vocabulary_is_refused_where_a_rule_needs_it():
    with pytest.raises(InputError, match=r"`suppress_tokens` names token ids \[101\].*ends at 100"):
        plan_of(suppress_tokens=[3, 101])


def test_an_end_token_that_the_model_cannot_write_needs_no_rule():
    assert plan_of(eos_token_id=50256, min_length=6).processors == ()
    assert plan_of(eos_token_id=[50256, 13], min_length=6).processors == (r.MinLength(6, (13,)),)


# ---------------------------------------------------------------------- ends and padding


def test_every_reason_to_end_is_a_stop():
    plan = plan_of(eos_token_id=[13, 17], max_time=2.5, stop_strings="x")
    expected = (s.MaxLength(12), s.EosTokens((13, 17)), s.MaxTime(2.5), s.StopStrings(("x",)))
    assert plan.stops == expected


def test_padding_is_the_end_token_unless_told_and_that_is_logged():
    plan = plan_of(eos_token_id=[13, 17])
    assert plan.pad_token_id == 13
    assert plan.remarks == ("Setting `pad_token_id` to `eos_token_id`:13 for open-end generation.",)
    assert plan_of(eos_token_id=13, pad_token_id=3).pad_token_id == 3


def test_rows_that_end_apart_need_a_padding_token():
    with pytest.raises(InputError, match="pad_token_id"):
        plan_of(stop_strings="x", batch_size=2)
    with pytest.raises(InputError, match="pad_token_id"):
        plan_of(eos_token_id=13, pad_token_id=101, do_sample=True, num_return_sequences=2)
    assert plan_of(stop_strings="x").pad_token_id is None


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoder_no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"low_memory": True}, "contrastive"),
        ({"generation_kwargs": {"x": 1}}, "generation_kwargs"),
        ({"exponential_decay_length_penalty": (3, 1.5)}, "eos_token_id"),
    ],
)
def test_what_nothing_would_read_is_refused_by_name(options: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        plan_of(**options)


@pytest.mark.parametrize("name", ["output_scores", "output_attentions", "output_hidden_states"])
def test_an_output_that_would_not_come_back_is_told(name: str):
    assert any(name in text for text in plan_of(**{name: True}).warnings)
    assert not plan_of(**{name: True}, return_dict_in_generate=True).warnings


# ---------------------------------------------------------------------- for people


def test_explain_is_a_block_of_aligned_lines():
    plan = plan_of(do_sample=True, top_p=0.9, repetition_penalty=1.2, eos_token_id=13, num_return_sequences=3)
    assert str(plan) == plan.explain()
    assert plan.explain().splitlines() == [
        "decoding  sample: one token drawn from the probabilities that are left",
        "prompt    1 row of 5 token(s), 3 texts each",
        "length    7 new tokens at most, 12 in all; 12 of the model's 37 positions",
        "scores    1. repetition_penalty: penalise tokens already in the text by 1.2",
        "          2. top_k: keep the 50 likeliest tokens",
        "          3. top_p: keep the likeliest tokens that add up to 0.9",
        "ends      at 12 tokens, prompt included (max_length)",
        "          a row at end token 13 (eos_token_id)",
        "padding   token 13 after the end of a row",
        "cache     keys and values of earlier tokens are kept",
        "note      Setting `pad_token_id` to `eos_token_id`:13 for open-end generation.",
    ]


def test_explain_tells_the_beams():
    plan = plan_of(num_beams=4, num_beam_groups=2, diversity_penalty=0.5, length_penalty=0.7)
    assert plan.explain().splitlines()[:2] == [
        "decoding  group_beam_search: the likeliest texts, in groups that avoid one another's tokens",
        "beams     4 in 2 groups for each prompt; a text counts its log-probability divided by length ** 0.7",
    ]
    forced = plan_of(num_beams=3, force_words_ids=[[5], [7, 11]])
    assert "3 for each prompt, 2 constraint(s);" in forced.explain()
    assert plan_of().beams is None
