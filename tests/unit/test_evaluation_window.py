"""The plan of windows: every token once, enough context, and the definition of transformers' page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2kit.errors import InputError, LengthError
from gpt2kit.evaluation.window import batches, check_window, plan_windows


@st.composite
def plans(draw):
    window = draw(st.integers(1, 13))
    return {
        "length": draw(st.integers(0, 61)),
        "first": draw(st.integers(0, 61)),
        "window": window,
        "stride": draw(st.integers(1, window)),
    }


@given(plans())
def test_every_token_is_scored_exactly_once_and_has_the_context_that_was_promised(plan):
    length, window, stride = plan["length"], plan["window"], plan["stride"]
    first = max(1, plan["first"])
    windows = plan_windows(**plan)
    assert [token for each in windows for token in range(each.first, each.stop)] == list(range(first, length))
    for number, each in enumerate(windows):
        assert 0 <= each.start < each.first < each.stop <= length
        assert each.inputs == each.stop - 1 - each.start <= window
        assert each.scored == each.stop - each.first
        # Token `first` sees those before it in the window: all there are, or what was promised.
        assert each.first - each.start >= min(first if number == 0 else length, window - stride + 1)
        if number:
            assert each.start == windows[number - 1].start + stride


def windows_of_transformers(length, max_length, stride):
    """The loop of transformers' page: the tokens that each window gets, and how many of them it scores."""
    previous_end, found = 0, []
    for begin in range(0, length, stride):
        end = min(begin + max_length, length)
        scored = end - previous_end if begin else end - 1  # the first token of all has nothing before it
        found.append((begin, end - scored, end))
        previous_end = end
        if end == length:
            break
    return found


@given(st.integers(2, 97), st.integers(2, 13), st.data())
def test_the_windows_are_those_of_transformers_page_whose_window_counts_one_token_more(length, size, data):
    stride = data.draw(st.integers(1, size - 1))
    ours = [(w.start, w.first, w.stop) for w in plan_windows(length, window=size - 1, stride=stride)]
    assert ours == windows_of_transformers(length, size, stride)


def test_a_long_context_is_cut_on_the_left_as_lm_eval_cuts_it():
    (only,) = plan_windows(41, first=37, window=11, stride=11)
    assert (only.start, only.first, only.stop) == (41 - 12, 37, 41)


def test_what_is_no_longer_than_the_stride_is_scored_in_one_window():
    (only,) = plan_windows(23, first=11, window=13, stride=13)
    assert (only.start, only.first, only.stop) == (23 - 14, 11, 23)


def test_sizes_that_cannot_work_are_refused_with_their_numbers():
    assert check_window(None, None, 13) == (13, 6)
    assert check_window(7, None, 13) == (7, 3)
    assert check_window(1, None, 13) == (1, 1)
    with pytest.raises(LengthError, match=r"window=17.*n_positions=13"):
        check_window(17, None, 13)
    with pytest.raises(InputError, match="stride=7 is more than the window of 5"):
        check_window(5, 7, 13)
    for wrong in ({"window": 0}, {"stride": -1}, {"window": 2.5}, {"stride": True}):
        with pytest.raises(InputError, match="whole number of at least 1"):
            check_window(**{"window": None, "stride": None, **wrong}, n_positions=13)


@given(
    st.lists(st.integers(1, 23), max_size=31), st.none() | st.integers(1, 5), st.none() | st.integers(1, 53)
)
def test_batches_hold_every_row_once_within_the_limits_the_longest_first(lengths, rows, positions):
    found = list(batches(lengths, rows=rows, positions=positions))
    assert sorted(row for batch in found for row in batch) == list(range(len(lengths)))
    in_order = [lengths[row] for batch in found for row in batch]
    assert in_order == sorted(lengths, reverse=True)
    for batch in found:
        assert rows is None or len(batch) <= rows
        assert positions is None or len(batch) == 1 or len(batch) * lengths[batch[0]] <= positions


def test_rows_of_like_length_share_a_batch():
    assert list(batches([3, 7, 3, 7, 5], positions=14)) == [[1, 3], [4, 0], [2]]
