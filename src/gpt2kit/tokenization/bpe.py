"""Byte-pair encoding: how GPT-2 cuts a text into words, and a word into tokens.

1. `PATTERN` cuts the text into words, so that no token runs from one word into the next.
2. `spell` (bytes.py) writes the bytes of a word as characters, one symbol to a byte.
3. `merge` joins neighbours, always the pair that comes first in the list of merges, until no pair of
   neighbours is in the list. What is left are the tokens.

The list of merges is the whole of the training's result. The vocabulary follows from it: 256 bytes, one
token for each merge, and `<|endoftext|>`.

Source: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, section 3.2; Radford et al. 2019 (GPT-2), 2.2.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import regex

from gpt2kit.errors import HubError, TokenizerError
from gpt2kit.tokenization.bytes import BYTE_TO_CHAR

__all__ = [
    "END_OF_TEXT",
    "PATTERN",
    "Pair",
    "check_fit",
    "merge",
    "official_merges",
    "read_merges",
    "read_vocabulary",
    "vocabulary_of",
    "write_merges",
    "write_vocabulary",
]

Pair = tuple[str, str]

END_OF_TEXT = "<|endoftext|>"

# How a text is cut into words. The first alternative that fits at a place is taken. Joined again, the words
# are the text: nothing is lost. Case matters, so "'S" is not cut off as "'s" is.
PATTERN = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d"  # English endings: it|'s, we|'re
    r"| ?\p{L}+"  # letters of any script, with one space before them: "Hello", " world"
    r"| ?\p{N}+"  # digits and other numbers, the same way: " 1984", "½"
    r"| ?[^\s\p{L}\p{N}]+"  # what is neither letter, number nor white space: "!?", " --", emoji, marks
    r"|\s+(?!\S)"  # white space, but its last character when a word follows: that space goes with the word
    r"|\s+"  # white space that is left: a newline or a tab right before a word
)


def merge(symbols: Sequence[str], ranks: Mapping[Pair, int]) -> list[str]:
    """Join neighbouring symbols in the order of the merges.

    Every pair of neighbours that can be joined waits in a heap, sorted by rank and then by place. The first
    is joined, which makes at most two new pairs. With n symbols that is O(n log n), so a word of a million
    letters is no trap, as it is for the loop that looks at all pairs again after each merge.

    Args:
        symbols: One symbol for each byte of a word.
        ranks: Pair -> its place in the list of merges; the lower is joined first.

    Returns:
        The tokens of the word.

    Example:
        >>> merge("lower", {("e", "r"): 0, ("l", "o"): 1})
        ['lo', 'w', 'er']
    """
    parts: list[str | None] = list(symbols)  # None: joined to a part further left
    after = [*range(1, len(parts)), -1]  # place -> place of the right neighbour, -1 at the end
    before = list(range(-1, len(parts) - 1))
    waiting = [(ranks[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in ranks]
    heapq.heapify(waiting)

    while waiting:
        rank, left = heapq.heappop(waiting)
        right = after[left]
        first, second = parts[left], parts[right] if right >= 0 else None
        if first is None or second is None or ranks.get((first, second)) != rank:
            continue  # one of the two has been joined to something else since
        joined = first + second
        parts[left], parts[right] = joined, None
        after[left] = after[right]
        if after[left] >= 0:
            before[after[left]] = left
            if (pair := (joined, str(parts[after[left]]))) in ranks:
                heapq.heappush(waiting, (ranks[pair], left))
        if before[left] >= 0 and (pair := (str(parts[before[left]]), joined)) in ranks:
            heapq.heappush(waiting, (ranks[pair], before[left]))
    return [part for part in parts if part is not None]


def vocabulary_of(merges: Iterable[Pair]) -> dict[str, int]:
    """Derive GPT-2's vocabulary: the 256 bytes, one token for each merge, and the end of text."""
    tokens = [*BYTE_TO_CHAR.values(), *(first + second for first, second in merges), END_OF_TEXT]
    return {token: index for index, token in enumerate(tokens)}


def official_merges() -> list[Pair]:
    """Return OpenAI's 50,000 merges, which come with this package."""
    return read_merges(Path(__file__).parent / "data" / "merges.txt")


def read_merges(path: str | os.PathLike[str]) -> list[Pair]:
    """Read a list of merges: one to a line, two symbols with a space between; `#version` in the first line.

    Raises:
        TokenizerError: Not UTF-8, or a line that is not two symbols.
    """
    lines = _read_text(path, "merges").split("\n")
    if lines[0].startswith("#version"):
        lines[0] = ""
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2 or not all(pair):
            raise TokenizerError(
                f"Line {number} of {path} is {line[:80]!r}, and a merge is two symbols and one space. "
                "Pass the merges.txt that belongs to the vocabulary."
            )
        merges.append((pair[0], pair[1]))
    return merges


def read_vocabulary(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read a vocabulary: a JSON object from token to id.

    Raises:
        TokenizerError: Not UTF-8, not JSON, or not an object of whole numbers.
    """
    try:
        vocabulary = json.loads(_read_text(path, "a vocabulary"))
    except json.JSONDecodeError as error:
        raise TokenizerError(
            f"{path} is not JSON ({error}). Pass the vocab.json of the tokenizer, an object from token to id."
        ) from error
    if not isinstance(vocabulary, dict) or not all(type(index) is int for index in vocabulary.values()):
        raise TokenizerError(
            f"{path} is no object from token to whole number. Pass the vocab.json of the tokenizer."
        )
    return vocabulary


def write_merges(merges: Iterable[Pair]) -> str:
    """Return the text of a merges.txt."""
    return "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in merges)


def write_vocabulary(vocabulary: Mapping[str, int]) -> str:
    """Return the text of a vocab.json."""
    return json.dumps(dict(vocabulary), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def check_fit(
    vocabulary: Mapping[str, int],
    merges: Iterable[Pair],
    added: Iterable[int] = (),
    source: str = "vocabulary",
) -> None:
    """Refuse a vocabulary and merges that do not belong together.

    Args:
        vocabulary: Token -> id.
        merges: The list of merges.
        added: Ids of added tokens, which may fill the holes of the vocabulary.
        source: What to call the vocabulary in the message.

    Raises:
        TokenizerError: A merge of symbols, or with a result, that the vocabulary lacks; an id given twice;
            an id that nothing has below one that something has.
    """
    for first, second in merges:
        for token in (first, second, first + second):
            if token not in vocabulary:
                raise TokenizerError(
                    f"The merge {first!r} + {second!r} needs the token {token!r}, which the {source} lacks. "
                    "Vocabulary and merges are of two tokenizers: pass two files that were saved together."
                )
    ids = set(vocabulary.values())
    if len(ids) < len(vocabulary):
        seen: dict[int, str] = {}
        for token, index in vocabulary.items():
            if index in seen:
                raise TokenizerError(
                    f"The {source} gives the id {index} to {seen[index]!r} and to {token!r}. Ids must differ."
                )
            seen[index] = token
    ids.update(added)
    if ids and (min(ids) < 0 or max(ids) >= len(ids)):
        hole = min(set(range(len(ids))) - ids)
        raise TokenizerError(
            f"The {source} has no token with id {hole}, but ids up to {max(ids)}. "
            "Ids must be 0, 1, 2, ... without a hole: pass the whole vocabulary."
        )


def _read_text(path: str | os.PathLike[str], what: str) -> str:
    """Read a UTF-8 file, or say that it is none."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path} is not UTF-8 (byte {error.start}), and {what} must be. Pass the file of the tokenizer."
        ) from error
    except OSError as error:
        raise HubError(f"{path} cannot be read: {error.strerror}. Pass the path of {what} file.") from error
