"""WikiText's own tokens undone: spaces before punctuation and `@-@` are not how people write.

GPT-2's paper scores such corpora after "invertible de-tokenizers", which were not published, and divides by
the number of the original tokens. These are rules of ours for the same purpose.
"""

from __future__ import annotations

import re

__all__ = ["undo_wikitext_tokens"]

# One after the other, over each line.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r" @([-,.])@ ", r"\1"),  # 1 @,@ 000, two @-@ thirds
        (r" ([,.;:!?%)\]}])", r"\1"),
        (r"([(\[{$£€#]) ", r"\1"),
        (r" (n't|'(?:s|S|re|ve|ll|d|m))\b", r"\1"),
        (r'" ([^"]*?) ?"', r'"\1"'),  # quotation marks have their spaces inside
        (r"(?<= )' ([^']*?) '(?= |$)", r"'\1'"),
        (r" (['’])(?= |$)", r"\1"),  # the boys ' school
        (r" ([–—/°]) ", r"\1"),
        (r"(?<==) (?==)", ""),  # = = a heading = =
    )
)


def undo_wikitext_tokens(text: str) -> str:
    """Write WikiText as people write.

    Args:
        text: WikiText, raw or tokenized; its lines have a space at either end.

    Example:
        >>> undo_wikitext_tokens(" It had 1 @,@ 200 men ( about two @-@ thirds ) , the king 's own . ")
        "It had 1,200 men (about two-thirds), the king's own."
    """
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    line = line.strip(" ")
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    return line
