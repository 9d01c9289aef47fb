"""Cut texts at added tokens, by the rules of tokenization/added.py.

TensorFlow's regular expressions find the contents of the tokens: of literal texts they find the same as
Python's. Each place is marked with the byte 0xFF before and after it, which no UTF-8 has, and the texts are
split there: text, token, text, ..., text. What the flags of a token say is done to these parts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tokenizers import AddedToken

from gpt2kit.errors import TokenizerError
from gpt2kit.tensorflow.character import IN_WORD, KIND, SPACE, kinds
from gpt2kit.tensorflow.rows import places

__all__ = ["AddedTokens"]

_MARK = b"\xff"
_FLAGS = ("lstrip", "rstrip", "single_word")


class AddedTokens(tf.Module):
    """All added tokens. Letters of shapes: R texts, P pieces."""

    def __init__(self, tokens: Mapping[int, AddedToken], split_special_tokens: bool) -> None:
        super().__init__(name="added")
        self._passes = [
            _Pass(found, split_special_tokens)
            for normalized in (False, True)
            if (found := {i: token for i, token in tokens.items() if token.normalized == normalized})
        ]

    def cut(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Cut texts at their added tokens.

        Args:
            texts: UTF-8. Shape [R].

        Returns:
            The pieces, none of them empty; the id of each that is an added token, -1 for text; and the number
            of the text that each is from. Shape [P] each.
        """
        pieces, rows = texts, tf.range(tf.size(texts))  # [P], [P]
        ids = tf.fill(tf.shape(texts), -1)  # [P]
        for each in self._passes:
            pieces, ids, rows = each.cut(pieces, ids, rows)
        filled = (pieces != "") | (ids >= 0)  # [P]
        pieces, ids, rows = (tf.boolean_mask(each, filled) for each in (pieces, ids, rows))
        return pieces, ids, rows


class _Pass(tf.Module):
    """The tokens that are looked for at the same time. Letters of shapes: Q parts."""

    def __init__(self, tokens: Mapping[int, AddedToken], split_special_tokens: bool) -> None:
        super().__init__(name="added_pass")
        longest_first = sorted((token.content for token in tokens.values()), key=len, reverse=True)
        self._pattern = "|".join(map(_literal, longest_first))
        try:
            tf.strings.regex_replace("", self._pattern, "")
        except tf.errors.InvalidArgumentError as error:
            raise TokenizerError(
                f"The {len(tokens)} added tokens are more than TensorFlow's regular expressions hold. "
                "Use a tokenizer with fewer added tokens, or cut the texts before."
            ) from error
        contents = tf.constant([token.content for token in tokens.values()])  # [tokens]
        numbers = tf.range(len(tokens), dtype=tf.int64)  # [tokens]
        self.numbers = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(contents, numbers), -1)
        self.ids = tf.constant([*tokens, -1], tf.int32)  # [tokens + 1] the last one for text, as of all below
        flags = {name: [getattr(token, name) for token in tokens.values()] for name in _FLAGS}
        ignored = [token.special and split_special_tokens for token in tokens.values()]
        self._strips = any(flags["lstrip"] + flags["rstrip"])
        self._refuses = any(flags["single_word"] + ignored)
        self.flags = {name: tf.constant([*values, False]) for name, values in flags.items()}  # [tokens + 1]
        self.ignored = tf.constant([*ignored, False])  # [tokens + 1]
        self._text = tf.constant(len(tokens), tf.int64)  # the number of what is no token

    def cut(
        self, pieces: tf.Tensor, ids: tf.Tensor, rows: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Cut those pieces further that are text. Shape [P] each in, [Q] each out."""
        marked = tf.strings.regex_replace(pieces, self._pattern, _MARK + rb"\0" + _MARK)  # [P]
        split = tf.strings.split(tf.where(ids < 0, marked, pieces), sep=_MARK)  # [P, (parts)]
        parts = split.flat_values  # [Q]
        piece, place = places(split.row_lengths(), tf.size(parts, tf.int64))  # [Q]
        is_token = place % 2 == 1  # [Q] every second part of a piece
        number = tf.where(is_token, self.numbers.lookup(parts), self._text)  # [Q]
        if self._refuses:
            parts, number, piece = self._refuse(parts, number, piece)
        if self._strips:
            parts = self._strip(parts, number)
        found = tf.gather(self.ids, number)  # [Q]
        return parts, tf.where(found < 0, tf.gather(ids, piece), found), tf.gather(rows, piece)

    def _refuse(
        self, parts: tf.Tensor, number: tf.Tensor, piece: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Make text again of tokens that do not count, and join it with the text around it."""
        # Between two tokens is a text, if an empty one, so what stands before one is in one of two parts.
        same = piece == tf.roll(piece, 2, 0)  # [Q] for a token: whether there is one before it
        before = tf.roll(parts, 1, 0)  # [Q]
        before = tf.where((before == "") & same, tf.roll(parts, 2, 0), before)  # [Q]
        same = piece == tf.roll(piece, -2, 0)  # [Q]
        after = tf.roll(parts, -1, 0)  # [Q]
        after = tf.where((after == "") & same, tf.roll(parts, -2, 0), after)  # [Q]
        inside = tf.strings.regex_full_match(before, rf"(?s).*{_IN_WORD}")  # [Q]
        inside |= tf.strings.regex_full_match(after, rf"(?s){_IN_WORD}.*")  # [Q]
        refused = tf.gather(self.flags["single_word"], number) & inside  # [Q]
        refused |= tf.gather(self.ignored, number)  # [Q]
        number = tf.where(refused, self._text, number)  # [Q]
        other = (
            (number != self._text) | (tf.roll(number, 1, 0) != self._text) | (piece != tf.roll(piece, 1, 0))
        )  # [Q]
        group = tf.cumsum(tf.cast(other, tf.int32)) - tf.cast(other[:1], tf.int32)  # [Q]
        first = tf.where(tf.concat([tf.ones_like(other[:1]), other[1:]], 0))[:, 0]  # [Q']
        parts = tf.strings.unsorted_segment_join(parts, group, tf.size(first))  # [Q']
        return parts, tf.gather(number, first), tf.gather(piece, first)

    def _strip(self, parts: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Take white space away from texts, where the token beside them takes it. Shape [Q]."""
        # The first and the last part of a piece are texts, so what is rolled over an edge takes nothing.
        is_text = number == self._text  # [Q]
        taken = is_text & tf.gather(self.flags["rstrip"], tf.roll(number, 1, 0))  # [Q]
        parts = tf.where(taken, tf.strings.regex_replace(parts, rf"^{_SPACE}+", ""), parts)  # [Q]
        taken = is_text & tf.gather(self.flags["lstrip"], tf.roll(number, -1, 0))  # [Q]
        return tf.where(taken, tf.strings.regex_replace(parts, rf"{_SPACE}+$", ""), parts)  # [Q]


def _literal(text: str) -> str:
    """Write a regular expression for one text."""
    return "".join(f"\\x{{{ord(char):x}}}" for char in text)


def _class(member: np.ndarray) -> str:
    """Write a regular expression for one of some characters, given as a table of all code points."""
    edges = np.flatnonzero(np.diff(member, prepend=False, append=False)).reshape(-1, 2)  # [runs, 2]
    return "[" + "".join(f"\\x{{{first:x}}}-\\x{{{after - 1:x}}}" for first, after in edges) + "]"


_IN_WORD = _class((kinds() & IN_WORD) > 0)
_SPACE = _class((kinds() & KIND) == SPACE)
