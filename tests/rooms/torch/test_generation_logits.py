"""Rules and ends in PyTorch beyond what 4.34's recordings show: additions, corners and bad arguments."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.torch.generation import logits as lp
from gpt2kit.torch.generation import stopping as sc
from gpt2kit.torch.generation import warpers as w

IDS = torch.tensor([[3, 7, 11, 3, 7], [5, 2, 5, 2, 5]])
SCORES = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 101)).astype(np.float32) * 2)


def kept(scores: Tensor) -> list[int]:
    return torch.isfinite(scores).sum(dim=1).tolist()


def test_min_p_keeps_what_is_likely_beside_the_likeliest():
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.97, 0.01, 0.01, 0.01]]).log()
    assert kept(w.MinPLogitsWarper(0.25)(IDS, scores)) == [3, 1]
    assert kept(w.MinPLogitsWarper(0.25, min_tokens_to_keep=2)(IDS, scores))[0] == 3
    assert kept(w.MinPLogitsWarper(1.0)(IDS, scores)) == [1, 1]


@pytest.mark.parametrize(
    "warper",
    [
        w.TopKLogitsWarper(1, min_tokens_to_keep=3),
        w.TopPLogitsWarper(0.001, min_tokens_to_keep=3),
        w.TypicalLogitsWarper(0.001, min_tokens_to_keep=3),
        w.EpsilonLogitsWarper(0.999, min_tokens_to_keep=3),
        w.MinPLogitsWarper(1.0, min_tokens_to_keep=3),
    ],
    ids=lambda warper: type(warper).__name__,
)
def test_every_filter_keeps_as_many_as_it_must_and_fills_the_rest_as_told(warper: Any):
    assert kept(warper(IDS, SCORES)) == [3, 3]
    warper.filter_value = -7.0
    assert (warper(IDS, SCORES) == -7.0).sum(dim=1).tolist() == [98, 98]


def test_an_end_token_that_another_rule_bars_stays_barred_however_much_the_end_is_favoured():
    barred = SCORES.clone()
    barred[:, 7] = -float("inf")
    raised = lp.ExponentialDecayLengthPenalty((0, 1.5), [7, 9], 3)(IDS, barred)
    assert raised[:, 7].tolist() == [-float("inf")] * 2
    torch.testing.assert_close(raised[:, 9], SCORES[:, 9] + SCORES[:, 9].abs() * (1.5**2 - 1))


def test_eta_keeps_as_many_as_it_must():
    scores = torch.tensor([[0.96, 0.02, 0.015, 0.005]]).log()
    assert kept(w.EtaLogitsWarper(0.999)(IDS, scores)) == [1]
    assert kept(w.EtaLogitsWarper(0.999, min_tokens_to_keep=3)(IDS, scores)) == [3]


def test_filters_keep_the_likeliest_even_of_scores_that_are_barred_already():
    barred = SCORES.clone()
    barred[:, 3:] = -float("inf")
    chain = lp.LogitsProcessorList(
        [
            w.TemperatureLogitsWarper(1e-3),
            w.TopKLogitsWarper(200),
            w.TopPLogitsWarper(1e-6),
            w.TypicalLogitsWarper(0.9),
            w.EpsilonLogitsWarper(0.5),
            w.EtaLogitsWarper(0.5),
            w.MinPLogitsWarper(0.5),
        ]
    )
    found = chain(IDS, barred)
    assert torch.equal(found.argmax(-1), barred.argmax(-1))
    assert not found.isnan().any()


def test_a_bad_word_is_barred_where_the_text_is_nothing_but_its_beginning():
    found = lp.NoBadWordsLogitsProcessor([[3, 7, 13]], None)(IDS[:1, :2], SCORES[:1])
    assert found[0, 13] == -float("inf")
    assert kept(lp.NoBadWordsLogitsProcessor([[3, 7, 11, 13]], None)(IDS[:1, :2], SCORES[:1])) == [101]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(1, 4))
def test_no_run_is_repeated(text: list[int], size: int):
    end = text[len(text) - size + 1 :]
    barred = {text[i + size - 1] for i in range(len(text) - size + 1) if text[i : i + size - 1] == end}
    found = lp.NoRepeatNGramLogitsProcessor(size)(torch.tensor([text]), torch.zeros(1, 5))
    assert {i for i in range(5) if found[0, i] == -float("inf")} == barred


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_processor_keeps_the_dtype(dtype: torch.dtype):
    scores = SCORES.to(dtype)
    processors = [
        lp.RepetitionPenaltyLogitsProcessor(1.3),
        lp.NoRepeatNGramLogitsProcessor(2),
        lp.MinLengthLogitsProcessor(9, 5),
        lp.ForcedEOSTokenLogitsProcessor(6, 5),
        lp.InfNanRemoveLogitsProcessor(),
        lp.SuppressTokensLogitsProcessor([5]),
        lp.PrefixConstrainedLogitsProcessor(lambda row, ids: [5], 1),
        lp.LogitNormalization(),
        w.TemperatureLogitsWarper(0.7),
        w.TopPLogitsWarper(0.9),
        w.TypicalLogitsWarper(0.9),
        w.EtaLogitsWarper(0.01),
        w.MinPLogitsWarper(0.01),
    ]
    for processor in processors:
        assert processor(IDS, scores).dtype == dtype, processor


def test_prefixes_are_asked_for_once_per_prompt_and_beam():
    asked = []
    lp.PrefixConstrainedLogitsProcessor(lambda row, ids: asked.append(row) or [1], 2)(IDS, SCORES)
    assert asked == [0, 0]


def test_a_list_passes_on_what_a_processor_asks_for():
    class Asks(lp.LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor, step: int) -> Tensor:
            return scores + step

    chain = lp.LogitsProcessorList([Asks()])
    assert torch.equal(chain(IDS, SCORES, step=3), SCORES + 3)
    with pytest.raises(InputError, match=r"\['step'\]"):
        chain(IDS, SCORES)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: w.TemperatureLogitsWarper(-1.0), "temperature"),
        (lambda: w.TopPLogitsWarper(0.0), "top_p"),
        (lambda: w.TopKLogitsWarper(0), "top_k"),
        (lambda: lp.NoBadWordsLogitsProcessor([], 5), "bad_words_ids"),
        (lambda: lp.MinLengthLogitsProcessor(-1, 5), "min_length"),
        (lambda: lp.SequenceBiasLogitsProcessor({(101,): 1.0})(IDS, SCORES), "ends at 100"),
        (lambda: sc.MaxTimeCriteria(0), "max_time"),
    ],
)
def test_bad_numbers_are_refused_where_a_class_is_made_by_hand(make: Any, said: str):
    with pytest.raises(ValueError, match=said):
        make()


def test_bases_say_what_to_define():
    for base in (lp.LogitsProcessor, lp.LogitsWarper, sc.StoppingCriteria):
        with pytest.raises(NotImplementedError, match="__call__"):
            base()(IDS, SCORES)


# ---------------------------------------------------------------------- ends


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: list[int], **kwargs: Any) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


class Words:
    """A tokenizer with long tokens."""

    WORDS = ("a", "END", " the E", "ND of", "\nUser", ":", "x\n", "\n")

    def decode(self, ids: list[int], **kwargs: Any) -> str:
        return "".join(self.WORDS[i] for i in ids)


def step_of_stop(tokenizer: Any, text: list[int], strings: Any, prompt_length: int = 0) -> int | None:
    criterion = sc.StopStringCriteria(tokenizer, strings, prompt_length)
    for length in range(prompt_length + 1, len(text) + 1):
        if bool(criterion(torch.tensor([text[:length]]), None)):
            return length
    return None


def test_a_stop_string_is_found_inside_a_token_and_across_tokens():
    assert step_of_stop(Words(), [0, 1, 0], "END") == 2
    assert step_of_stop(Words(), [0, 2, 3, 0], "END") == 3
    assert step_of_stop(Words(), [6, 7, 0], "\n\n") == 2
    assert step_of_stop(Words(), [0, 4, 5], ["nothing", "\nUser:"]) == 3
    assert step_of_stop(Words(), [0, 4, 0], "\nUser:") is None


def test_a_stop_string_in_the_prompt_does_not_count_nor_does_one_that_begins_there():
    assert step_of_stop(Words(), [1, 0, 0], "END", prompt_length=1) is None
    assert step_of_stop(Words(), [6, 7, 0], "\n\n", prompt_length=1) is None
    assert step_of_stop(Words(), [1, 0, 1], "END", prompt_length=1) == 3


@given(st.text(alphabet="ab€é😀", max_size=20), st.text(alphabet="ab€é😀", min_size=1, max_size=3))
def test_a_stop_string_is_found_at_the_very_token_that_completes_it(text: str, string: str):
    at = text.find(string)
    expected = None if at < 0 else len(text[: at + len(string)].encode())
    assert step_of_stop(Bytes(), list(text.encode()), string) == expected


def test_only_the_last_token_can_complete_a_stop_string():
    criterion = sc.StopStringCriteria(Words(), "END")
    assert not criterion(torch.tensor([[1, 0]]), None)  # "END" was complete one token before


def test_stop_strings_end_rows_one_by_one():
    criterion = sc.StopStringCriteria(Words(), "END")
    assert criterion(torch.tensor([[0, 1], [0, 0], [2, 3]]), None).tolist() == [True, False, True]


def test_a_list_ends_when_every_row_has_ended_by_some_criterion():
    ids = torch.tensor([[0, 1], [0, 5]])
    stop, end = sc.StopStringCriteria(Words(), "END"), sc.EosTokenCriteria(5)
    assert sc.StoppingCriteriaList([stop, end])(ids, None) is True
    assert sc.StoppingCriteriaList([stop])(ids, None) is False
    assert sc.StoppingCriteriaList([sc.MaxLengthCriteria(2), stop])(ids, None) is True
    assert sc.StoppingCriteriaList([sc.MaxLengthCriteria(7), stop]).max_length == 7
    assert sc.StoppingCriteriaList([stop]).max_length is None


def test_time_is_counted_from_when_the_criterion_is_made_or_from_what_is_told():
    assert not sc.MaxTimeCriteria(100.0)(IDS, None)
    assert sc.MaxTimeCriteria(1.0, initial_timestamp=time.time() - 2)(IDS, None)


def test_an_answer_for_another_number_of_rows_is_refused():
    with pytest.raises(InputError, match="2 row"):
        sc.ended_rows(torch.tensor([True, False, True]), IDS)
    assert sc.ended_rows(None, IDS).tolist() == [False, False]
    assert sc.ended_rows(torch.tensor(True), IDS).tolist() == [True, True]
