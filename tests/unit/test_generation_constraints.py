"""Constraints: what has to be written, and how far a text has come with it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2kit.errors import InputError
from gpt2kit.generation import Constraint, ConstraintListState, DisjunctiveConstraint, PhrasalConstraint
from gpt2kit.generation.constraints import constraints_of


def test_a_phrase_is_followed_token_by_token():
    phrase = PhrasalConstraint([5, 7, 5])
    assert (phrase.advance(), phrase.remaining(), phrase.seqlen) == (5, 3, 3)
    assert phrase.update(5) == (True, False, False)
    assert phrase.update(7) == (True, False, False)
    assert (phrase.advance(), phrase.remaining(), phrase.completed) == (5, 1, False)
    assert phrase.update(5) == (True, True, False)
    assert (phrase.advance(), phrase.remaining(), phrase.completed) == (None, 0, True)
    assert not phrase.does_advance(5)


def test_another_token_leads_a_phrase_back_to_its_first():
    phrase = PhrasalConstraint([5, 7])
    phrase.update(5)
    assert phrase.update(11) == (False, False, True)
    assert phrase.advance() == 5  # in 4.34 a phrase that was reset goes on with its second token
    assert phrase.remaining() == 2


def test_one_of_several_words_is_enough():
    either = DisjunctiveConstraint([[5, 7], [5, 11, 13], [17]])
    assert sorted(either.advance() or []) == [5, 17]
    assert (either.seqlen, either.remaining(), either.fewest()) == (3, 3, 1)
    assert either.update(5) == (True, False, False)
    assert sorted(either.advance() or []) == [7, 11]
    assert either.fewest() == 1
    assert either.update(11) == (True, False, False)
    assert either.update(13) == (True, True, False)
    assert (either.advance(), either.remaining()) == (None, 0)
    either.reset()
    assert either.update(19) == (False, False, True)


@pytest.mark.parametrize("made", [PhrasalConstraint([5, 7]), DisjunctiveConstraint([[5, 7], [5, 11]])])
def test_a_copy_goes_its_own_way(made: Any):
    made.update(5)
    fresh, same = made.copy(), made.copy(stateful=True)
    assert fresh.remaining() == 2
    assert same.remaining() == 1
    same.update(7)
    assert same.completed
    assert not made.completed
    assert made.does_advance(7)  # in 4.34 copies of several words share the place they have come to
    made.test()
    copy.deepcopy(made).update(7)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PhrasalConstraint([]), "non-empty list"),
        (lambda: PhrasalConstraint("ab"), "non-empty list"),  # type: ignore[arg-type]
        (lambda: PhrasalConstraint([5, -1]), "integers from 0"),
        (lambda: PhrasalConstraint([5, 1.5]), "has to be an integer"),  # type: ignore[list-item]
        (lambda: PhrasalConstraint([5, True]), "has to be an integer"),
        (lambda: DisjunctiveConstraint([]), "non-empty list"),
        (lambda: DisjunctiveConstraint([[5], []]), "non-empty list"),
        (lambda: DisjunctiveConstraint([5]), "non-empty list"),  # type: ignore[list-item]
        (lambda: DisjunctiveConstraint([[5, 7], [5]]), "complete subset"),
        (lambda: DisjunctiveConstraint([[5], [5]]), "comes twice"),
        (lambda: PhrasalConstraint([5]).update("5"), "has to be an integer"),  # type: ignore[arg-type]
        (lambda: ConstraintListState([PhrasalConstraint([5])]).add(5.0), "has to be an integer"),  # type: ignore[arg-type]
        (lambda: constraints_of(None, None), "nothing that has to be written"),
        (lambda: constraints_of(None, "words"), "List"),
    ],
)
def test_what_is_no_constraint_is_refused(make: Any, said: str):
    with pytest.raises(InputError, match=said):
        make()


# ---------------------------------------------------------------------- a list of them


def test_a_list_is_followed_one_constraint_at_a_time():
    state = ConstraintListState([PhrasalConstraint([5, 7, 11]), PhrasalConstraint([13])])
    assert state.advance() == [5, 13]
    assert state.get_bank() == 0
    assert state.add(5) == (False, True)
    assert state.get_bank() == 1
    assert state.advance() == [7]
    assert state.add(13) == (False, False)  # breaks the phrase, and counts for nothing, as in 4.34
    assert sorted(state.advance() or []) == [5, 13]
    assert state.add(13) == (True, True)
    assert state.get_bank() == 3
    assert state.fewest() == 3
    state.reset([13, 2, 5, 7, 11, 3])
    assert state.completed
    assert state.advance() is None
    assert state.add(5) == (True, False)
    state.reset([5])
    assert not state.completed  # in 4.34 it stays complete
    state.reset(None)
    assert state.get_bank() == 0


def test_a_copy_of_a_list_goes_its_own_way():
    state = ConstraintListState([DisjunctiveConstraint([[5, 7], [5, 11]]), PhrasalConstraint([13])])
    state.add(5)
    other, fresh = state.copy(), state.copy(stateful=False)
    assert fresh.get_bank() == 0
    other.add(7)
    other.add(13)
    assert other.completed
    assert other.copy().completed
    assert state.get_bank() == 1
    assert state.add(11) == (True, True)


@given(
    phrases=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=3),
    text=st.lists(st.integers(0, 3), max_size=12),
)
def test_a_text_that_completes_a_list_contains_every_phrase(phrases: list[list[int]], text: list[int]):
    state = ConstraintListState([PhrasalConstraint(phrase) for phrase in phrases])
    state.reset(text)
    joined = ",".join(map(str, ["", *text, ""]))
    if state.completed:
        assert all(f",{','.join(map(str, phrase))}," in joined for phrase in phrases)
    else:
        for _ in range(sum(map(len, phrases))):  # following the advice always leads to the end
            state.add((state.advance() or [0])[0])
        assert state.completed


# ---------------------------------------------------------------------- constraints of the caller's


class Times(Constraint):
    """Have a token come so many times."""

    def __init__(self, token: int, times: int, step: int = 1) -> None:
        self.token, self.seqlen, self.step, self.left = token, times, step, times
        super().__init__()
        self.left = times

    def advance(self) -> Any:
        return self.token if self.left > 0 else None

    def does_advance(self, token_id: int) -> bool:
        return token_id == self.token and self.left > 0

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        stepped = self.does_advance(token_id)
        self.left -= self.step * stepped
        return stepped, self.left <= 0, False

    def reset(self) -> None:
        self.left = self.seqlen

    def remaining(self) -> int:
        return self.left

    def copy(self, stateful: bool = False) -> Times:
        other = Times(self.token, self.seqlen, self.step)
        other.left = self.left if stateful else self.seqlen
        return other


def test_a_constraint_of_the_callers_is_tested_and_followed():
    state = ConstraintListState([Times(5, 3)])
    state.reset([5, 5, 5])
    assert state.completed
    assert (Times(5, 3).fewest(), Times(5, 3).words()) == (1, [])
    with pytest.raises(InputError, match="not fulfilled after 10000"):
        Times(5, 1, step=0)
    with pytest.raises(InputError, match=r"remaining\(\) is -1"):
        Times(5, 3, step=2)


class Silent(Times):
    """Give no advice."""

    def advance(self) -> Any:
        return None


def test_advice_that_leads_nowhere_is_refused():
    with pytest.raises(InputError, match=r"Silent.advance\(\) gives None"):
        Silent(5, 3)
