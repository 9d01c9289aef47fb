"""Constraints: what a constrained beam search must write somewhere in its text. No tensors.

A constraint is asked for the tokens that bring it forward, and told each token that was written. Several are
followed by a `ConstraintListState`, which works on one at a time. Your own constraint is a subclass of
`Constraint` with an attribute `seqlen`, the number of tokens it needs at most.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from gpt2kit.errors import InputError

__all__ = [
    "Constraint",
    "ConstraintListState",
    "DisjunctiveConstraint",
    "DisjunctiveTrie",
    "PhrasalConstraint",
    "constraints_of",
]

# A constraint that has not come to an end after so many tokens of its own choice never will.
_PATIENCE = 10_000


class Constraint(ABC):
    """Say what has to be written, and how far the text has come with it.

    Subclasses have an attribute `seqlen`: the most tokens that fulfil them.
    """

    seqlen: int

    def __init__(self) -> None:
        self.test()

    def test(self) -> None:
        """Follow the constraint's own advice until it is fulfilled.

        Raises:
            InputError: the advice leads nowhere, so that no text could fulfil the constraint.
        """
        name = type(self).__name__
        for count in range(_PATIENCE):
            if count == 1:
                self.reset()
            advice = self.advance()
            token = advice if isinstance(advice, int) else next(iter(advice or ()), None)
            if token is None or not self.does_advance(token):
                raise InputError(
                    f"{name}.advance() gives {advice!r}, and does_advance() does not take it. Each token "
                    "that advance() names has to bring the constraint forward."
                )
            if self.update(token)[1]:
                break
        else:
            raise InputError(f"{name} is not fulfilled after {_PATIENCE} tokens of its own advance().")
        if self.remaining() != 0:
            raise InputError(
                f"{name} says it is complete, and remaining() is {self.remaining()}; it has to be 0."
            )

    @abstractmethod
    def advance(self) -> int | list[int] | None:
        """Return the token, or the tokens one of which, brings the constraint one step on."""

    @abstractmethod
    def does_advance(self, token_id: int) -> bool:
        """Tell whether a token brings the constraint one step on."""

    @abstractmethod
    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take a token that was written; return whether it was a step, the last step, and a way back."""

    @abstractmethod
    def reset(self) -> None:
        """Begin again."""

    @abstractmethod
    def remaining(self) -> int:
        """Return how many tokens are missing; 0 once the constraint is fulfilled."""

    @abstractmethod
    def copy(self, stateful: bool = False) -> Constraint:
        """Return the same constraint at its beginning, or at the same place with `stateful=True`."""

    def fewest(self) -> int:
        """Return the fewest tokens that may be missing; 1 where a subclass does not say more."""
        return min(1, self.remaining())

    def words(self) -> list[list[int]]:
        """Return the words one of which fulfils the constraint, where they can be listed."""
        return []


class PhrasalConstraint(Constraint):
    """Have the text contain these tokens in a row.

    Args:
        token_ids: The tokens.

    Example:
        >>> phrase = PhrasalConstraint([5, 7])
        >>> phrase.update(5), phrase.remaining()
        ((True, False, False), 1)
    """

    def __init__(self, token_ids: list[int]) -> None:
        _check_word("token_ids", token_ids)
        self.token_ids = token_ids
        self.seqlen = len(token_ids)
        self.fulfilled_idx = -1  # the last token that was written
        self.completed = False

    def advance(self) -> int | None:
        """Return the next token of the phrase."""
        return None if self.completed else self.token_ids[self.fulfilled_idx + 1]

    def does_advance(self, token_id: int) -> bool:
        """Tell whether a token is the next of the phrase."""
        _check_token(token_id)
        return not self.completed and token_id == self.token_ids[self.fulfilled_idx + 1]

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take a token; one that is not the next of the phrase leads back to its beginning."""
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.fulfilled_idx += 1
        self.completed = self.fulfilled_idx == self.seqlen - 1
        return True, self.completed, False

    def reset(self) -> None:
        """Begin the phrase again."""
        self.completed = False
        self.fulfilled_idx = -1

    def remaining(self) -> int:
        """Return how many tokens of the phrase are missing."""
        return self.seqlen - (self.fulfilled_idx + 1)

    def copy(self, stateful: bool = False) -> PhrasalConstraint:
        """Return the same phrase, at the same place with `stateful=True`."""
        other = PhrasalConstraint(self.token_ids)
        if stateful:
            other.fulfilled_idx, other.completed = self.fulfilled_idx, self.completed
        return other

    def fewest(self) -> int:
        """Return how many tokens are missing."""
        return self.remaining()

    def words(self) -> list[list[int]]:
        """Return the phrase."""
        return [self.token_ids]


class DisjunctiveTrie:
    """Hold words by their beginnings, so that one can ask what may follow.

    Args:
        nested_token_ids: The words.
        no_subsets: Refuse a word that is the beginning of another.
    """

    def __init__(self, nested_token_ids: list[list[int]], no_subsets: bool = True) -> None:
        self.max_height = max(len(word) for word in nested_token_ids)
        self.trie: dict[int, Any] = {}
        for word in nested_token_ids:
            level = self.trie
            for token in word:
                level = level.setdefault(token, {})
        if no_subsets and any(self.next_tokens(word) for word in nested_token_ids):
            raise InputError(
                f"Each list in `nested_token_ids` can't be a complete subset of another list, but is "
                f"{nested_token_ids}: one word is the beginning of another. Leave out the longer one."
            )
        if len({tuple(word) for word in nested_token_ids}) < len(nested_token_ids):
            raise InputError(f"A word comes twice in {nested_token_ids}. Give each once.")

    def next_tokens(self, current_seq: Iterable[int]) -> list[int]:
        """Return the tokens that may follow a beginning; none where it is a whole word."""
        return list(self._level(current_seq))

    def reached_leaf(self, current_seq: Iterable[int]) -> bool:
        """Tell whether a beginning is a whole word."""
        return not self._level(current_seq)

    def fewest(self, current_seq: Iterable[int]) -> int:
        """Return how many tokens the shortest way to the end of a word has."""
        levels, count = [self._level(current_seq)], 0
        while all(levels):
            levels = [below for level in levels for below in level.values()]
            count += 1
        return count

    def _level(self, current_seq: Iterable[int]) -> dict[int, Any]:
        level = self.trie
        for token in current_seq:
            level = level[token]
        return level


class DisjunctiveConstraint(Constraint):
    """Have the text contain one of several words.

    Args:
        nested_token_ids: The words, none of which is the beginning of another.

    Example:
        >>> either = DisjunctiveConstraint([[5, 7], [5, 11, 13]])
        >>> either.update(5), either.advance()
        ((True, False, False), [7, 11])
    """

    def __init__(self, nested_token_ids: list[list[int]]) -> None:
        if not isinstance(nested_token_ids, list) or not nested_token_ids:
            raise InputError(f"`nested_token_ids` has to be a non-empty list, but is {nested_token_ids!r}.")
        for word in nested_token_ids:
            _check_word("nested_token_ids", word)
        self.trie = DisjunctiveTrie(nested_token_ids)
        self.token_ids = nested_token_ids
        self.seqlen = self.trie.max_height
        self.current_seq: list[int] = []
        self.completed = False

    def advance(self) -> list[int] | None:
        """Return the tokens that may follow."""
        return self.trie.next_tokens(self.current_seq) or None

    def does_advance(self, token_id: int) -> bool:
        """Tell whether a token may follow."""
        _check_token(token_id)
        return token_id in self.trie.next_tokens(self.current_seq)

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take a token; one that may not follow leads back to the beginning."""
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.current_seq = [*self.current_seq, token_id]  # a new list: copies of this state keep theirs
        self.completed = self.trie.reached_leaf(self.current_seq)
        return True, self.completed, False

    def reset(self) -> None:
        """Begin again."""
        self.completed = False
        self.current_seq = []

    def remaining(self) -> int:
        """Return how many tokens the longest word has still; 0 once one word is complete."""
        return 0 if self.completed else self.seqlen - len(self.current_seq)

    def copy(self, stateful: bool = False) -> DisjunctiveConstraint:
        """Return the same words, at the same place with `stateful=True`."""
        other = DisjunctiveConstraint(self.token_ids)
        if stateful:
            other.current_seq, other.completed = self.current_seq, self.completed
        return other

    def fewest(self) -> int:
        """Return how many tokens the shortest way to a whole word has."""
        return self.trie.fewest(self.current_seq)

    def words(self) -> list[list[int]]:
        """Return the words."""
        return self.token_ids


class ConstraintListState:
    """Follow several constraints through a text, one at a time.

    Args:
        constraints: What has to be fulfilled; they are copied and never changed.
    """

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self.constraints = constraints
        self.max_seqlen = max(constraint.seqlen for constraint in constraints)
        self.n_constraints = len(constraints)
        self.init_state()

    def init_state(self) -> None:
        """Begin again."""
        self.completed = False
        self.complete_constraints: list[Constraint] = []
        self.inprogress_constraint: Constraint | None = None
        self.pending_constraints = [constraint.copy(stateful=False) for constraint in self.constraints]

    def get_bank(self) -> int:
        """Return how far the text has come: more for each fulfilled constraint, some for one in progress."""
        begun = self.inprogress_constraint
        part = 0 if begun is None else self.max_seqlen - begun.remaining()
        return len(self.complete_constraints) * self.max_seqlen + part

    def advance(self) -> list[int] | None:
        """Return the tokens that bring the constraint in progress on, or begin any that is pending."""
        begun = self.inprogress_constraint
        found: list[int] = []
        for constraint in self.pending_constraints if begun is None else [begun]:
            advice = constraint.advance()
            if advice is not None:
                found.extend(advice if isinstance(advice, Iterable) else [advice])
        return found or None

    def reset(self, token_ids: Iterable[int] | None) -> None:
        """Begin again and follow a text until everything is fulfilled."""
        self.init_state()
        for token in token_ids or ():
            self.add(token)
            if self.completed:
                break

    def add(self, token_id: int) -> tuple[bool, bool]:
        """Take a token; return whether it fulfilled a constraint (or all are), and whether it was a step."""
        _check_token(token_id)
        if self.completed:
            return True, False
        begun = self.inprogress_constraint
        if begun is not None:
            stepped, complete, back = begun.update(token_id)
            if back:
                self.pending_constraints.append(begun.copy(stateful=False))
                self.inprogress_constraint = None
        else:
            stepped, complete = False, False
            for place, pending in enumerate(self.pending_constraints):
                if pending.does_advance(token_id):
                    stepped, complete, _ = pending.update(token_id)
                    if not stepped:
                        raise InputError(
                            f"{type(pending).__name__}.update({token_id}) makes no step, and "
                            "does_advance() says it does."
                        )
                    begun = self.inprogress_constraint = self.pending_constraints.pop(place)
                    break
        if complete and begun is not None:
            self.complete_constraints.append(begun)
            self.inprogress_constraint = None
            self.completed = not self.pending_constraints
        return complete, stepped

    def copy(self, stateful: bool = True) -> ConstraintListState:
        """Return a state of the same constraints: at the same place, or at the beginning."""
        other = ConstraintListState(self.constraints)
        if stateful:
            begun = self.inprogress_constraint
            other.complete_constraints = [one.copy(stateful=True) for one in self.complete_constraints]
            other.inprogress_constraint = None if begun is None else begun.copy(stateful=True)
            other.pending_constraints = [one.copy() for one in self.pending_constraints]
            other.completed = self.completed
        return other

    def fewest(self) -> int:
        """Return the fewest tokens that fulfil what is missing."""
        begun = self.inprogress_constraint
        missing = self.pending_constraints if begun is None else [begun, *self.pending_constraints]
        return sum(constraint.fewest() for constraint in missing)


def constraints_of(constraints: object, force_words_ids: object) -> tuple[Constraint, ...]:
    """Return the constraints that the options ask for.

    Args:
        constraints: Constraints, or None.
        force_words_ids: Words, each a list of token ids or a list of alternatives, or None.

    Raises:
        InputError: what is neither.
    """
    found: list[Constraint] = []
    if constraints is not None:
        if not isinstance(constraints, Sequence) or not all(isinstance(c, Constraint) for c in constraints):
            raise InputError(
                f"`constraints` has to be a list of gpt2kit.Constraint objects, but is {constraints!r}."
            )
        found.extend(constraints)
    if force_words_ids is not None:
        if not isinstance(force_words_ids, Sequence) or isinstance(force_words_ids, str):
            raise InputError(_words_wanted(force_words_ids))
        for word in force_words_ids:
            if not isinstance(word, list) or not word:
                raise InputError(_words_wanted(force_words_ids))
            found.append(
                DisjunctiveConstraint(word) if isinstance(word[0], list) else PhrasalConstraint(word)
            )
    if not found:
        raise InputError(
            "`constraints` and `force_words_ids` hold nothing that has to be written. Leave them out, or "
            "name the words."
        )
    return tuple(found)


def _words_wanted(given: object) -> str:
    return (
        "`force_words_ids` has to either be a `List[List[List[int]]]` or `List[List[int]]` of positive "
        f"integers, but is {given!r}."
    )


def _check_word(name: str, word: object) -> None:
    if not isinstance(word, list) or not word:
        raise InputError(f"`{name}` has to be a non-empty list of token ids, but holds {word!r}.")
    for token in word:
        _check_token(token)
        if token < 0:
            raise InputError(f"`{name}` has to hold token ids (integers from 0), but holds {word!r}.")


def _check_token(token: object) -> None:
    if isinstance(token, bool) or not isinstance(token, Integral):
        raise InputError(f"A token id has to be an integer, but one is {token!r} ({type(token).__name__}).")
