"""The numbers of each rule are checked when it is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2kit.errors import InputError
from gpt2kit.generation import rules as r
from gpt2kit.generation import stops as s


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        (r.Temperature, (0.0,), "do_sample=False"),
        (r.Temperature, (-1.0,), "above 0"),
        (r.Temperature, (float("nan"),), "above 0"),
        (r.Temperature, (float("inf"),), "above 0"),
        (r.Temperature, (True,), "above 0"),
        (r.Temperature, ("1",), "above 0"),
        (r.TopK, (0,), "at least 1"),
        (r.TopK, (-3,), "at least 1"),
        (r.TopK, (2.0,), "integer"),
        (r.TopK, (2, 0), "min_tokens_to_keep"),
        (r.TopP, (0.0,), "above 0"),
        (r.TopP, (1.1,), "at most 1"),
        (r.MinP, (-0.1,), "between 0 and 1"),
        (r.Typical, (1.0,), "below 1"),
        (r.EpsilonCutoff, (0.0,), "above 0"),
        (r.EtaCutoff, (1.0,), "below 1"),
        (r.RepetitionPenalty, (0.0,), "above 0"),
        (r.EncoderRepetitionPenalty, (-2.0,), "above 0"),
        (r.NoRepeatNGram, (0,), "at least 1"),
        (r.NoBadWords, ([],), "non-empty list"),
        (r.NoBadWords, ([5],), "list of lists"),
        (r.NoBadWords, ([[]],), "token ids"),
        (r.NoBadWords, ([[-1]],), "token ids"),
        (r.NoBadWords, ([[5]], (5,)), "nothing but the end token"),
        (r.SequenceBias, ({},), "at least one entry"),
        (r.SequenceBias, ({5: 1.0},), "tuple"),
        (r.SequenceBias, ({(): 1.0},), "token ids"),
        (r.SequenceBias, ({(5,): "x"},), "numbers"),
        (r.SequenceBias, ([[5, 1.0]],), "at least one entry"),
        (r.MinLength, (-1, (5,)), "at least 0"),
        (r.MinNewTokens, (3, -1, (5,)), "at least 0"),
        (r.MinNewTokens, (3, 1, (-5,)), "eos_token_id"),
        (r.PrefixConstrained, (5,), "function"),
        (r.ForcedBOS, (-1,), "at least 0"),
        (r.ForcedEOS, (7, "x"), "token id"),
        (r.ExponentialDecay, (-1, 1.5, (5,), 3), "at least 0"),
        (r.ExponentialDecay, (1, 0.0, (5,), 3), "above 0"),
        (r.ForceTokens, ([5],), "place"),
        (r.ForceTokens, ([[1, -5]],), "at least 0"),
        (r.SuppressTokens, ([True],), "token ids"),
        (s.MaxLength, (0,), "at least 1"),
        (s.MaxTime, (0.0,), "above 0"),
        (s.StopStrings, ("",), "non-empty"),
        (s.StopStrings, ([],), "non-empty"),
        (s.StopStrings, ([5],), "non-empty"),
        (s.EosTokens, ([],), "token ids"),
    ],
)
def test_a_number_that_cannot_work_is_refused(kind: Any, arguments: tuple[Any, ...], said: str):
    with pytest.raises(InputError, match=said):
        kind(*arguments)


def test_numpy_numbers_count_as_numbers():
    assert r.TopK(np.int64(7)).top_k == 7
    assert r.TopP(np.float32(0.5)).top_p == 0.5
    assert r.SuppressTokens((np.int64(3),)).tokens == (3,)


def test_one_id_and_a_list_of_ids_are_the_same():
    assert s.EosTokens(5) == s.EosTokens([5]) == s.EosTokens((5,))  # type: ignore[arg-type]


def test_bad_words_keep_the_end_token_out():
    assert r.NoBadWords([[5], [7, 5]], (5,)).bad_words_ids == ((7, 5),)  # type: ignore[arg-type]


def test_biases_may_come_as_json_has_them():
    assert r.SequenceBias([[[5, 7], -2]]) == r.SequenceBias({(5, 7): -2.0})  # type: ignore[arg-type]
