"""Added tokens: pieces of text that are one token before anything else is looked at.

`<|endoftext|>` in a text is found here and not cut into "<|", "end", "of", "text", "|>". The rules are those
of the tokenizers library, so that both tokenizers agree:

* Tokens that are not `normalized` are looked for first, the others in what is left between them.
* The leftmost match counts, and of several at one place the longest.
* `single_word`: a match with a word character right before or after it does not count.
* `lstrip`, `rstrip`: a match takes the white space on its left, on its right, with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import regex
from tokenizers import AddedToken

__all__ = ["WORD", "AddedTokens"]

# What the tokenizers library calls a word character; \w of Python leaves combining marks out.
WORD = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]"
_ENDS_WITH_WORD = regex.compile(rf"(?<={WORD})")
_STARTS_WITH_WORD = regex.compile(WORD)
_SPACE = regex.compile(r"\s*")
_SPACE_BEFORE = regex.compile(r"(?r)\s*")  # searched backwards, from the end given


class AddedTokens:
    """The added tokens of a tokenizer, by id, and how to find them in a text."""

    def __init__(self) -> None:
        self.by_id: dict[int, AddedToken] = {}
        self.ids: dict[str, int] = {}
        self._passes: list[regex.Pattern[str]] = []

    def insert(self, tokens: Iterable[AddedToken], vocabulary: dict[str, int]) -> None:
        """Add tokens in order; one that is there keeps its id, a new one gets the next free."""
        for token in tokens:
            index = self.ids.get(token.content, vocabulary.get(token.content))
            if index is None:
                index = max(len(vocabulary), max(self.by_id, default=-1) + 1)
            self.put(index, token)
        self._compile()

    def put_all(self, tokens: dict[int, AddedToken]) -> None:
        """Add tokens under the ids that a file gives them."""
        for index, token in tokens.items():
            self.put(index, token)
        self._compile()

    def put(self, index: int, token: AddedToken) -> None:
        """Add one token under an id; `insert` and `put_all` make it known to `split`."""
        self.by_id[index] = token
        self.ids[token.content] = index

    def split(self, text: str, split_special_tokens: bool = False) -> Iterator[str | int]:
        """Cut a text at its added tokens.

        Args:
            text: Any text.
            split_special_tokens: Whether special tokens are text like any other.

        Yields:
            A piece of text, or the id of an added token, in the order of the text.
        """
        pieces: Sequence[str | int] = [text]
        for pattern in self._passes:
            pieces = [
                part
                for piece in pieces
                for part in (
                    [piece] if isinstance(piece, int) else self._cut(piece, pattern, split_special_tokens)
                )
            ]
        yield from (piece for piece in pieces if piece != "")

    def _cut(self, text: str, pattern: regex.Pattern[str], split_special_tokens: bool) -> Iterator[str | int]:
        """Cut a text at the matches of one pass."""
        done = 0
        for match in pattern.finditer(text):
            index = self.ids[match.group()]
            token = self.by_id[index]
            start, end = match.span()
            if token.special and split_special_tokens:
                continue
            if token.single_word and (
                _ENDS_WITH_WORD.match(text, start) or _STARTS_WITH_WORD.match(text, end)
            ):
                continue
            if token.lstrip:
                start = max(_SPACE_BEFORE.match(text, 0, start).start(), done)
            if token.rstrip:
                end = _SPACE.match(text, end).end()
            if done < start:
                yield text[done:start]
            yield index
            done = end
        if done < len(text):
            yield text[done:]

    def _compile(self) -> None:
        """Make one pattern for each pass, longer tokens first."""
        self._passes = []
        for normalized in (False, True):
            contents = [token.content for token in self.by_id.values() if token.normalized == normalized]
            if contents:
                longest_first = sorted(contents, key=len, reverse=True)
                self._passes.append(regex.compile("|".join(map(regex.escape, longest_first))))
