"""The list of finished texts: the best few are kept, and it closes in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2kit.generation.hypotheses import Hypotheses


@given(st.lists(st.floats(-50, 0), max_size=12), st.integers(1, 4))
def test_the_best_are_kept(totals: list[float], size: int):
    found = Hypotheses(size, 0.0, False, 11)
    for place, total in enumerate(totals):
        found.add(total, 5, place)
    assert sorted((one.score for one in found.found), reverse=True) == sorted(totals, reverse=True)[:size]


def test_of_equal_texts_the_first_stays_and_a_better_one_takes_the_first_place_of_the_worst():
    found = Hypotheses(2, 1.0, False, 11)
    for text, total in (("a", -6.0), ("b", -6.0), ("c", -6.0), ("d", -3.0)):
        found.add(total, 3, text)
    assert [(one.text, one.score) for one in found.found] == [("b", -2.0), ("d", -1.0)]


@pytest.mark.parametrize(
    ("early", "penalty", "best", "done"),
    [
        (True, 1.0, -1.0, True),
        (False, 1.0, -7.0, False),  # at 8 tokens that would be -0.875
        (False, 1.0, -8.0, True),
        (False, 0.0, -4.5, True),
        ("never", 1.0, -8.0, False),  # at 16 tokens that would be -0.5
        ("never", 1.0, -16.0, True),
        ("never", -1.0, -0.7, True),
        ("never", -1.0, -0.1, False),
    ],
)
def test_a_list_closes_when_nothing_better_can_come(
    early: bool | str, penalty: float, best: float, done: bool
):
    found = Hypotheses(1, penalty, early, 16)
    found.settle(-0.001, 8)
    assert not found.done
    found.add(-1.0 * 4**penalty, 4, "text")  # of score -1
    found.settle(best, 8)
    assert found.done is done


def test_texts_that_lack_something_are_marked():
    found = Hypotheses(1, 2.0, False, 16)
    found.add(-4.0, 2, "all")
    found.add_spare(-4.0, 4, "less", "rows")
    assert [(one.score, one.fulfilled, one.beams) for one in found.found] == [
        (-1.0, True, None),
        (-0.25, False, "rows"),
    ]
