"""What each character is: letter, number, white space, or none of these.

The kinds are those of the `regex` library, which cuts texts in `GPT2Tokenizer`. TensorFlow's own regular
expressions are of another version of Unicode, so the kind of every code point is looked up in a table.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
import regex

from gpt2kit.tokenization.added import WORD

__all__ = ["EDGE", "IN_WORD", "KIND", "LETTER", "NUMBER", "OTHER", "SPACE", "kinds"]

OTHER, LETTER, NUMBER, SPACE = range(4)
KIND = 0b011  # the bits of a table entry that hold the kind
IN_WORD = 0b100  # the bit of what `single_word` of an added token calls a word character
EDGE = 8  # before the first character of a text and after the last

_CLASSES = ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+"), (IN_WORD, rf"{WORD}+"))


@functools.cache
def kinds() -> np.ndarray:
    """Return kind and word bit of every code point; shape [0x110000], uint8."""
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    table = np.zeros(len(every), dtype=np.uint8)  # [0x110000]
    for bits, pattern in _CLASSES:
        for match in regex.finditer(pattern, every):
            table[match.start() : match.end()] |= bits
    table.flags.writeable = False
    return table
