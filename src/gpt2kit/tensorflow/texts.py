"""From ids back to texts, inside the graph, as tokenization/decode.py does it.

Tokens are bytes: those of a row are joined first, and read as UTF-8 afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.tensorflow.rows import places
from gpt2kit.tensorflow.xla import inside_xla
from gpt2kit.tokenization.decode import CLEAN_UPS, bytes_of_token

__all__ = ["Texts"]

_NO_TOKEN = (
    "There are ids without a token. Take ids of another tokenizer, padding such as -100 and ids of a padded "
    "embedding out:"
)


class Texts(tf.Module):
    """The bytes of all tokens. Letters of shapes: B rows, T ids of a row, N ids of all rows.

    Args:
        tokens: Id -> token; the ids are 0, 1, 2, ... without a hole.
        added: The ids of added tokens, which are their own text.
        special: The ids that are left out where that is asked for.
    """

    def __init__(self, tokens: Mapping[int, str], added: Container[int], special: Container[int]) -> None:
        super().__init__(name="texts")
        ids = range(len(tokens))
        self.bytes = tf.constant([bytes_of_token(tokens[index], index in added) for index in ids])  # [tokens]
        self.special = tf.constant([index in special for index in ids])  # [tokens]

    def decode(self, ids: Any, skip_special_tokens: bool, clean_up: bool) -> tf.Tensor:
        """Turn ids into texts; see `TFGPT2Tokenizer.decode`. Shape [T] in, [] out; [B, T] in, [B] out."""
        if inside_xla():
            raise InputError(
                "XLA has no strings, so a function with jit_compile=True cannot make texts. Decode outside "
                "it, or leave out jit_compile."
            )
        rows = _as_ids(ids)  # [B, T], [B, (T)] or [T]
        with tf.device("CPU:0"):
            is_one = rows.shape.rank == 1
            texts, unknown = self._join(rows[None] if is_one else rows, skip_special_tokens)  # [B], [...]
            if tf.executing_eagerly():
                _refuse(unknown.numpy())
            else:
                check = tf.debugging.Assert(tf.equal(tf.size(unknown), 0), [_NO_TOKEN, unknown])
                with tf.control_dependencies([check]):
                    texts = tf.identity(texts)  # [B]
            for what, instead in CLEAN_UPS if clean_up else ():
                texts = tf.strings.regex_replace(texts, re.escape(what), instead)  # [B]
            return texts[0] if is_one else texts  # [] or [B]

    def _join(
        self, ids: tf.Tensor | tf.RaggedTensor, skip_special_tokens: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the texts of rows, [B, T] or [B, (T)] in and [B] out; and those ids that have no token."""
        is_ragged = isinstance(ids, tf.RaggedTensor)
        flat = ids.flat_values if is_ragged else ids  # [N] or [B, T]
        is_known = (flat >= 0) & (flat < self.bytes.shape[0])  # as flat
        known = tf.where(is_known, flat, 0)  # as flat
        pieces = tf.gather(self.bytes, known)  # as flat
        if skip_special_tokens:
            pieces = tf.where(tf.gather(self.special, known), "", pieces)  # as flat
        if is_ragged:
            row, _ = places(ids.row_lengths(), tf.size(flat, tf.int64))  # [N]
            texts = tf.strings.unsorted_segment_join(pieces, row, ids.nrows())  # [B]
        else:
            texts = tf.strings.reduce_join(pieces, axis=-1)  # [B]
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")  # [B]
        return texts, tf.boolean_mask(flat, ~is_known)


def _as_ids(ids: Any) -> tf.Tensor | tf.RaggedTensor:
    """Return what came as int64, in one row or several: shape [T], [B, T] or [B, (T)]."""
    if not isinstance(ids, tf.Tensor | tf.RaggedTensor):
        try:
            ids = tf.convert_to_tensor(ids)  # [T] or [B, T]
        except (TypeError, ValueError):
            try:
                ids = tf.ragged.constant(ids)  # [B, (T)]
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"Ids are whole numbers, in one row or several, not {ids!r:.60} ({error})."
                ) from error
        if ids.dtype == tf.float32 and ids.shape.num_elements() == 0:  # [] has no dtype of its own
            ids = tf.cast(ids, tf.int64)  # [0] or [B, 0]
    if not ids.dtype.is_integer:
        raise InputError(f"Ids are whole numbers, not of dtype {ids.dtype.name}. Pass ids, such as argmax's.")
    if ids.shape.rank not in (1, 2):
        raise InputError(
            f"Ids come in one row or several, and these have the shape {ids.shape}. Reshape them."
        )
    return tf.cast(ids, tf.int64)


def _refuse(unknown: np.ndarray[Any, Any]) -> None:
    """Refuse ids that have no token."""
    if unknown.size:
        raise TokenizerError(f"{_NO_TOKEN} {', '.join(map(str, unknown[:8]))}.")
