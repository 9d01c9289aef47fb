"""One printable character for every byte.

GPT-2 merges bytes, but its files are text: a vocabulary in JSON and merges one to a line, two words to a
merge. So each of the 256 byte values is written as one character that prints, and that is no white space:

* the 188 bytes that Latin-1 prints stand for themselves: `!`..`~` (0x21-0x7E), `¡`..`¬` (0xA1-0xAC) and
  `®`..`ÿ` (0xAE-0xFF). "a" is "a", and the two bytes of "é" (0xC3 0xA9) are "Ã©";
* the other 68 (control characters, the space, 0x7F-0xA0, the soft hyphen 0xAD) take the code points from
  U+0100 on, in their order: 0x00 is "Ā" (U+0100), the newline 0x0A is "Ċ" (U+010A), the space 0x20 is
  "Ġ" (U+0120), 0xAD, the last, is "Ń" (U+0143).

Written so, " Führer" is "ĠFÃ¼hrer", one character to a byte.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["BYTE_TO_CHAR", "CHAR_TO_BYTE", "bytes_of", "spell"]

_THEMSELVES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_SHIFTED = [byte for byte in range(0x100) if byte not in _THEMSELVES]

# In the order of the official vocabulary: ids 0-187 stand for themselves, 188-255 are shifted.
BYTE_TO_CHAR: dict[int, str] = {byte: chr(byte) for byte in _THEMSELVES}
BYTE_TO_CHAR.update({byte: chr(0x100 + place) for place, byte in enumerate(_SHIFTED)})
CHAR_TO_BYTE: dict[str, int] = {char: byte for byte, char in BYTE_TO_CHAR.items()}

# bytes -> text in one pass: each byte is read as the Latin-1 character of its value, then that is replaced.
_REPLACEMENTS = dict(BYTE_TO_CHAR)


def spell(text: str) -> str:
    """Write the UTF-8 bytes of a text as one printable character each.

    Raises:
        UnicodeEncodeError: The text has a lone surrogate, which has no UTF-8.

    Example:
        >>> spell(" Führer")
        'ĠFÃ¼hrer'
    """
    return text.encode("utf-8").decode("latin-1").translate(_REPLACEMENTS)


def bytes_of(token: Iterable[str]) -> bytes:
    """Turn what `spell` wrote, or a piece of it, back into bytes.

    Raises:
        KeyError: A character stands for no byte.

    Example:
        >>> bytes_of("ĠFÃ¼hrer").decode()
        ' Führer'
    """
    return bytes(CHAR_TO_BYTE[char] for char in token)
