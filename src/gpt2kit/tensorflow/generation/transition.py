"""How good each token of a text was, read off the scores that a generation returned.

Dimensions: B texts, R rows of the search, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from gpt2kit.errors import InputError

__all__ = ["transition_scores"]


def transition_scores(
    sequences: Any, scores: Sequence[Any] | None, beam_indices: Any = None, normalize_logits: bool = False
) -> tf.Tensor:
    """Return the score of each new token, [B, N]; see `TFGenerationMixin.compute_transition_scores`.

    Raises:
        InputError: scores that were not kept, or not those of these texts.
    """
    if not scores:
        raise InputError(
            "There are no scores. Generate with output_scores=True and return_dict_in_generate=True, and "
            "pass output.scores."
        )
    sequences, stacked = tf.convert_to_tensor(sequences), tf.stack(list(scores))  # [B, T + N], [N, R, V]
    if beam_indices is None:
        beam_indices = tf.repeat(tf.range(stacked.shape[1])[:, None], len(scores), axis=1)  # [R, N]
    beam_indices = tf.cast(tf.convert_to_tensor(beam_indices), tf.int32)  # [B, N]
    if beam_indices.shape[0] != sequences.shape[0]:
        raise InputError(
            f"There are {sequences.shape[0]} texts, and scores of {stacked.shape[1]} rows. After a beam "
            "search pass output.beam_indices too, one row for each text."
        )
    if normalize_logits:
        stacked = tf.nn.log_softmax(stacked)  # [N, R, V]
    written = tf.reduce_sum(tf.cast(beam_indices >= 0, tf.int32), axis=1)  # [B]
    longest = int(tf.reduce_max(written))  # new tokens of the longest text
    rows = beam_indices[:, :longest]  # [B, N]
    tokens = tf.cast(sequences[:, sequences.shape[1] - longest :], tf.int32)  # [B, N]
    steps = tf.broadcast_to(tf.range(longest), tf.shape(rows))  # [B, N]
    places = tf.stack([steps, tf.maximum(rows, 0), tokens], axis=-1)  # [B, N, 3]
    found = tf.gather_nd(stacked, places)  # [B, N]
    return tf.where(rows < 0, tf.zeros_like(found), found)  # [B, N]; nothing after the end of a text
