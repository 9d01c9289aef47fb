r"""Cut texts into words, as the regular expression of GPT-2 does, in a few passes over whole arrays.

TensorFlow's regular expressions know no look-ahead, and `PATTERN` (tokenization/bpe.py) has one:
`\s+(?!\S)`. But where a word of that pattern begins can be told from three neighbours of a character:

* A letter, number or other character begins a word if the one before it is of another kind, unless that is
  a space " ", which goes with the word.
* White space begins a word if the one before it is none, or if the one after it is none: the last of several
  goes with the next word or stands alone. At the end of a text nothing comes after it, and it stays.
* An apostrophe with s, t, m, d, re, ve or ll after it is a word with these letters, if it is where a word
  begins: the letter after it begins none, and whatever follows does.

A text is cut here into words that are those of `PATTERN.findall`, which the tests compare.
"""

from __future__ import annotations

import tensorflow as tf

from gpt2kit.tensorflow.character import EDGE, KIND, OTHER, SPACE, kinds

__all__ = ["Words"]


class Words(tf.Module):
    """Where words begin. Letters of shapes: P pieces of text, C characters, W words."""

    def __init__(self) -> None:
        super().__init__(name="words")
        self.kinds = tf.constant(kinds() & KIND)  # [0x110000]

    def cut(self, pieces: tf.Tensor, whole: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Cut pieces of text into words.

        Args:
            pieces: Texts in UTF-8, none of them empty. Shape [P].
            whole: Which of them are one word, whatever is in them. Shape [P].

        Returns:
            The words, shape [W], and the number of the piece that each is from, shape [W].
        """
        rows = tf.strings.unicode_decode(pieces, "UTF-8")  # [P, (characters)]
        codes, begins = rows.flat_values, rows.row_splits[:-1]  # [C], [P]
        first = tf.scatter_nd(
            begins[:, None], tf.ones_like(begins, tf.bool), tf.shape(codes, tf.int64)
        )  # [C]
        place = tf.cumsum(tf.cast(first, tf.int32)) - 1  # [C] the piece of each character
        start = first | (self._starts(codes, first) & ~tf.gather(whole, place))  # [C]
        places = tf.where(start)[:, 0]  # [W]
        words = tf.RaggedTensor.from_row_starts(codes, places, validate=False)  # [W, (characters)]
        return tf.strings.unicode_encode(words, "UTF-8"), tf.gather(place, places)  # [W], [W]

    def _starts(self, codes: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """Tell for each character whether a word begins with it; the first of a text aside. Shape [C]."""
        last = tf.roll(first, -1, 0)  # [C]
        kind = tf.gather(self.kinds, codes)  # [C]
        edge = tf.constant(EDGE, kind.dtype)
        before = tf.where(first, edge, tf.roll(kind, 1, 0))  # [C]
        after = tf.where(last, edge, tf.roll(kind, -1, 0))  # [C]
        follows_space = tf.roll(codes, 1, 0) == ord(" ")  # [C] in one text: its first character begins a word
        of_space = (before != SPACE) | ((after != SPACE) & (after != EDGE))  # [C]
        start = tf.where(kind == SPACE, of_space, (kind != before) & ~follows_space)  # [C]

        one = tf.where(last, 0, tf.roll(codes, -1, 0))  # [C] the next character
        two = tf.where(last, 0, tf.roll(one, -1, 0))  # [C] and the one after it
        opens = (codes == ord("'")) & (first | ((before != OTHER) & ~follows_space))  # [C]
        short = opens & _is_one_of(one, "stmd")  # [C]
        long = opens & _is_one_of(two, "e") & _is_one_of(one, "rv")  # [C]
        long |= opens & _is_one_of(two, "l") & _is_one_of(one, "l")  # [C]
        start &= ~tf.roll(short | long, 1, 0)  # [C]
        # What is rolled past the end comes to the first character of all, which begins a word anyway ...
        return start | tf.roll(short, 2, 0) | tf.roll(long, 3, 0)  # [C]


def _is_one_of(codes: tf.Tensor, letters: str) -> tf.Tensor:
    """Tell which characters are one of a few letters; the shape stays."""
    found = [codes == ord(letter) for letter in letters]
    return tf.reduce_any(tf.stack(found), 0) if len(found) > 1 else found[0]
