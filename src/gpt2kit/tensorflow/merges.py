"""Byte-pair encoding of many words at once, in a loop of few passes over whole arrays.

`merge` (tokenization/bpe.py) joins the pair of lowest rank, the leftmost first, again and again. Here every
word takes such a step in each turn of the loop, and so does every stretch of a long word, so that the
number of turns does not grow with the length of a word:

* Words are laid end to end, and each is divided into blocks of some hundred bytes. A pair is joined if no
  pair in its block, nor in the blocks beside it, has a lower rank. A token is much shorter than a block, so
  nothing farther away can grow near enough to take one of the two symbols before their turn comes.
* Of the same pair all occurrences are joined at once. Where they overlap, as in "aaa", it is every second
  one of the run from its left end on, and only up to where a pair of the run has to wait.
* That all occurrences may be joined at once is true where a new symbol makes no pair of lower rank than the
  one it came from. Merges that were trained are like this. For others the leftmost alone is joined.

Symbols are numbered: 0-255 the bytes, then what the merges make.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from gpt2kit.tensorflow.rows import places
from gpt2kit.tokenization.bpe import Pair
from gpt2kit.tokenization.bytes import BYTE_TO_CHAR, CHAR_TO_BYTE, bytes_of

__all__ = ["Merges", "never_falls"]

_NEVER = tf.int64.max  # the rank of two symbols that are not joined


class Merges(tf.Module):
    """The merges of a vocabulary. Letters of shapes: W words, N symbols, K blocks."""

    def __init__(self, vocab: Mapping[str, int], merges: Iterable[Pair], unknown: int | None) -> None:
        super().__init__(name="merges")
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        numbers = {BYTE_TO_CHAR[byte]: byte for byte in range(256)}
        for first, second in ranks:
            numbers.setdefault(first + second, len(numbers))
        self._count = len(numbers)
        pairs = {pair: rank for pair, rank in ranks.items() if pair[0] in numbers and pair[1] in numbers}
        keys = [numbers[first] * self._count + numbers[second] for first, second in pairs]
        made = np.zeros(max(ranks.values(), default=0) + 1, np.int32)
        for (first, second), rank in pairs.items():
            made[rank] = numbers[first + second]
        self._is_calm = never_falls(ranks)
        # The longest token that merges make, in bytes, sets the size of a block.
        longest = max((_length(token) for token in numbers), default=1)
        self._block = (2 if self._is_calm else 4) * longest
        self.ranks = _table(keys or [-1], list(pairs.values()) or [_NEVER], _NEVER)
        self.made = tf.constant(made)  # [merges]
        ids = [vocab.get(token, unknown) for token in numbers]
        self.ids = tf.constant([0 if index is None else index for index in ids], tf.int32)  # [symbols]
        # Words that are a token and stay it; most words of a text are, and need no loop.
        tokens = tf.constant([bytes_of(token) for token in numbers if _length(token)])
        rows = tf.function(self._join, autograph=False)(tokens)  # [tokens, (ids)]
        alone = tf.where(rows.row_lengths() == 1)[:, 0]  # [known]
        single = tf.cast(tf.gather(rows.flat_values, tf.gather(rows.row_splits, alone)), tf.int64)  # [known]
        known = tf.lookup.KeyValueTensorInitializer(tf.gather(tokens, alone), single)
        self.known = tf.lookup.StaticHashTable(known, -1)

    def encode(self, words: tf.Tensor, ids: tf.Tensor) -> tf.RaggedTensor:
        """Turn words into ids.

        Args:
            words: Any bytes; the same word may come again. Shape [W].
            ids: The id of a word that is an added token, -1 for the others. Shape [W].

        Returns:
            The ids of each word, int32, shape [W, (tokens)].
        """
        is_added = ids >= 0  # [W]
        distinct, places = tf.unique(tf.where(is_added, "", words), tf.int64)  # [U], [W]
        known = self.known.lookup(distinct)  # [U]
        others = known < 0  # [U]
        rows = self._join(tf.boolean_mask(distinct, others))  # [unknown, (tokens)]
        single = [tf.cast(tf.boolean_mask(known, ~others), tf.int32), tf.boolean_mask(ids, is_added)]
        rows = tf.concat([rows, tf.RaggedTensor.from_uniform_row_length(tf.concat(single, 0), 1)], 0)
        # The rows are now: words that were merged, words that are a token, added tokens; [.., (tokens)].
        merged = tf.cumsum(tf.cast(others, tf.int64))  # [U] up to and with each
        known = merged[-1:] + tf.range(tf.size(merged, tf.int64)) - merged  # [U]
        place = tf.gather(tf.where(others, merged - 1, known), places)  # [W]
        added = tf.size(merged, tf.int64) + tf.cumsum(tf.cast(is_added, tf.int64)) - 1  # [W]
        return tf.gather(rows, tf.where(is_added, added, place))  # [W, (tokens)]

    def _join(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Merge words. Shape [W] in, [W, (tokens)] out."""
        symbols = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8), tf.int32)  # [N]
        word, offset = places(tf.strings.length(words), tf.size(symbols))  # [N], [N] in bytes
        begins = offset % self._block == 0  # [N]
        block = tf.cumsum(tf.cast(begins, tf.int32)) - 1  # [N]
        word = tf.boolean_mask(word, begins)  # [K] of each block
        has_left = tf.boolean_mask(offset, begins) > 0  # [K] whether the block before is of the same word
        ends = tf.roll(offset, -1, 0) == 0  # [N] the last symbol of a word

        def turn(
            symbols: tf.Tensor, block: tf.Tensor, ends: tf.Tensor, ranks: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            joined = self._choose(ranks, block, has_left)  # [N] with the next symbol
            made = tf.gather(self.made, tf.where(joined, ranks, 0))  # [N]
            symbols = tf.where(joined, made, symbols)  # [N]
            ends = tf.where(joined, tf.roll(ends, -1, 0), ends)  # [N]
            left = tf.where(~tf.roll(joined, 1, 0))[:, 0]  # [N'] what has not been joined to the one before
            symbols, block, ends = (tf.gather(each, left) for each in (symbols, block, ends))  # [N']
            return symbols, block, ends, self._ranks_of(symbols, ends)  # [N'] each

        symbols, block, _, _ = tf.while_loop(
            lambda *state: tf.reduce_any(state[-1] != _NEVER),
            turn,
            (symbols, block, ends, self._ranks_of(symbols, ends)),
            shape_invariants=(tf.TensorShape([None]),) * 4,
            parallel_iterations=1,
        )
        ones = tf.ones_like(block, tf.int64)  # [N]
        lengths = tf.math.unsorted_segment_sum(ones, tf.gather(word, block), tf.size(words))  # [W]
        return tf.RaggedTensor.from_row_lengths(tf.gather(self.ids, symbols), lengths, validate=False)

    def _ranks_of(self, symbols: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
        """Look up the rank of each symbol and the next one of its word. Shape [N]."""
        pairs = tf.cast(symbols, tf.int64) * self._count + tf.cast(tf.roll(symbols, -1, 0), tf.int64)  # [N]
        return tf.where(ends, _NEVER, self.ranks.lookup(pairs))  # [N]

    def _choose(self, ranks: tf.Tensor, block: tf.Tensor, has_left: tf.Tensor) -> tf.Tensor:
        """Tell which symbols are joined with the next one in this turn. Shape [N]."""
        if not self._is_calm:  # the leftmost alone: a rank of its own for each place
            index = tf.range(tf.size(ranks, tf.int64))  # [N]
            ranks = tf.where(ranks == _NEVER, _NEVER, ranks * tf.size(ranks, tf.int64) + index)  # [N]
        lowest = tf.math.unsorted_segment_min(ranks, block, tf.size(has_left))  # [K] of each block
        lowest = tf.cond(tf.reduce_any(has_left), lambda: _with_beside(lowest, has_left), lambda: lowest)
        may = (ranks == tf.gather(lowest, block)) & (ranks != _NEVER)  # [N]
        overlaps = may & (ranks == tf.roll(ranks, 1, 0))  # [N]
        return tf.cond(tf.reduce_any(overlaps), lambda: _every_second(ranks, may), lambda: may)  # [N]


def _with_beside(lowest: tf.Tensor, has_left: tf.Tensor) -> tf.Tensor:
    """Return the lowest rank of each block and of those of the same word beside it. Shape [K]."""
    left = tf.where(has_left, tf.roll(lowest, 1, 0), _NEVER)  # [K]
    right = tf.where(tf.roll(has_left, -1, 0), tf.roll(lowest, -1, 0), _NEVER)  # [K]
    return tf.minimum(lowest, tf.minimum(left, right))  # [K]


def _every_second(ranks: tf.Tensor, may: tf.Tensor) -> tf.Tensor:
    """Tell which pairs are joined of those that may be and overlap. Shape [N].

    Such pairs are equal and stand in a run; it is joined from its left end on, up to where one has to wait.
    """
    index = tf.range(tf.size(ranks, tf.int64))  # [N]
    begins = (ranks != tf.roll(ranks, 1, 0)) | (ranks == _NEVER)  # [N] the last of all is never joined
    run = tf.cumsum(tf.cast(begins, tf.int32)) - 1  # [N]
    starts = tf.where(begins)[:, 0]  # [runs]
    waits = tf.math.unsorted_segment_min(tf.where(may, _NEVER, index), run, tf.size(starts))  # [runs]
    is_odd = (index - tf.gather(starts, run)) % 2 == 1  # [N]
    return may & ~is_odd & (index < tf.gather(waits, run))  # [N]


def _length(token: str) -> int:
    """Return the number of bytes of a token, 0 for one that is not written in bytes."""
    return len(token) if all(char in CHAR_TO_BYTE for char in token) else 0


def _table(keys: Sequence[int], values: Sequence[int], default: int) -> tf.lookup.StaticHashTable:
    """Make a table of whole numbers that is saved with a model."""
    pairs = tf.lookup.KeyValueTensorInitializer(keys, values, tf.int64, tf.int64)
    return tf.lookup.StaticHashTable(pairs, default)


def never_falls(ranks: Mapping[Pair, int]) -> bool:
    """Tell whether a pair comes after all merges that make one of its two symbols."""
    last: dict[str, int] = {}
    for (first, second), rank in ranks.items():
        last[first + second] = max(rank, last.get(first + second, -1))
    return all(last.get(symbol, -1) < rank for pair, rank in ranks.items() for symbol in pair)
