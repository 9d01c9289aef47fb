"""Greedy search and sampling in TensorFlow: the loops that write one token a step.

`search` runs step by step and keeps what is asked for; `fixed_search` writes into arrays of fixed sizes, so
that it can be a part of a graph, and with XLA one compiled program.
Dimensions: B prompts, R rows of text, T tokens so far, or that have room, S positions so far, H heads, C
places of the cache, K width of a head, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.tensorflow.cache import merged, parted
from gpt2kit.tensorflow.generation.choice import check_choice, chosen, padding
from gpt2kit.tensorflow.generation.processor import TFLogitsProcessorList
from gpt2kit.tensorflow.generation.prompt import Prompt
from gpt2kit.tensorflow.generation.reader import Reader, repeated
from gpt2kit.tensorflow.generation.record import (
    Record,
    TFGreedySearchDecoderOnlyOutput,
    TFSampleDecoderOnlyOutput,
)
from gpt2kit.tensorflow.mask import score_dtype

__all__ = ["Search", "begun", "ended_by", "fixed_search", "read", "search"]


@dataclass
class Search:
    """How tokens are chosen, and what ends a text.

    Attributes:
        max_length: Tokens of prompt and text together, at most.
        processors: Rules for the scores.
        warpers: Rules of sampling, which come after the processors; empty where nothing is drawn.
        sampled: Whether tokens are drawn, or the likeliest is taken.
        seed: What is drawn from, [2].
        pad_token_id: What fills a row that ends before the others.
        eos_token_ids: End tokens, [n].
        use_cache: Whether keys and values are kept from step to step.
        record: What is kept of every step; None returns the tokens alone.
    """

    max_length: Any
    processors: TFLogitsProcessorList
    warpers: TFLogitsProcessorList
    sampled: bool
    seed: Any
    pad_token_id: Any
    eos_token_ids: Any
    use_cache: bool = True
    record: Record | None = field(default=None)


def search(model: Any, prompt: Prompt, how: Search) -> Any:
    """Write on from a prompt, one token for every row at each step.

    Args:
        model: A language model.
        prompt: What the text begins with.
        how: The rules, the ends and what to keep.

    Returns:
        The tokens [R, T + new], or an output with them and what was kept.
    """
    text = tf.convert_to_tensor(prompt.ids)  # [R, T]
    R, T = text.shape
    past, record = prompt.past, how.record or Record()
    ended = np.zeros(R, bool)  # [R]
    worst = float("inf")
    while True:
        output = read(model, prompt, text, past, how)
        past = output.past_key_values if how.use_cache else None
        logits = output.logits[:, -1]  # [R, V]
        logits = tf.cast(logits, score_dtype(logits.dtype))  # [R, V]
        T = text.shape[1]
        scores = how.warpers(text, how.processors(text, logits, T), T)  # [R, V]
        record.add(scores, output)
        tokens, values = (x.numpy() for x in chosen(scores, how.sampled, how.seed, T))  # [R] each
        worst = np.minimum(worst, values[~ended].min())  # NaN stays
        if ended.any():
            tokens = np.where(ended, padding(how.pad_token_id), tokens).astype(np.int32)  # [R]
        text = tf.concat([text, tokens[:, None]], axis=1)  # [R, T + 1]
        ended |= np.isin(tokens, how.eos_token_ids)  # [R]
        if ended.all() or text.shape[1] >= how.max_length:
            break
    check_choice(float(worst))
    if how.record is None:
        return text
    kind = TFSampleDecoderOnlyOutput if how.sampled else TFGreedySearchDecoderOnlyOutput
    return kind(sequences=text, **record.fields())


def read(model: Any, prompt: Prompt, text: Any, past: Any, how: Search) -> Any:
    """Run the model on what the past has not seen yet of a text, [R, T]."""
    R, T = text.shape
    new = T - prompt.length
    seen = 0 if past is None else past[0].shape[-2]
    mask = tf.concat([prompt.mask, tf.ones((R, new), tf.int32)], axis=1)  # [R, S]
    places = prompt.next_place[:, None] + tf.range(new)  # [R, new]
    places = tf.concat([prompt.position_ids, places], axis=1)  # [R, S]
    inputs = {"input_ids": text[:, seen - mask.shape[1] :], "past_key_values": past}  # [R, S - seen]
    if prompt.embeds is not None and not seen:
        inputs = {"inputs_embeds": prompt.embeds}
    if prompt.token_type_ids is not None:
        types = tf.concat([prompt.token_type_ids, tf.repeat(prompt.token_type_ids[:, -1:], new, 1)], axis=1)
        inputs["token_type_ids"] = types[:, seen:]  # [R, S - seen]
    return model(
        **{name: value for name, value in inputs.items() if value is not None},
        attention_mask=mask,
        position_ids=places[:, seen:],
        **prompt.passed_on,
        use_cache=how.use_cache,
        output_attentions=how.record is not None and how.record.attentions is not None,
        output_hidden_states=how.record is not None and how.record.hidden_states is not None,
        return_dict=True,
        training=False,
    )


def fixed_search(
    reader: Reader, prompt: Prompt, how: Search, places: int, returns: int
) -> tuple[Any, Any, Any]:
    """Write on from a prompt, in arrays that do not grow.

    Args:
        reader: What reads the model.
        prompt: What the texts begin with, laid out.
        how: The rules and the ends.
        places: Tokens of a text that have room.
        returns: Texts of each prompt.

    Returns:
        The texts [R, T], padding behind them and -1 where no token could be chosen; how many tokens they
        have at most; and the lowest score that a token of each was chosen for, [R].
    """
    scores, past = reader.first(prompt)  # [B, V]
    scores, past = tf.repeat(scores, returns, axis=0), repeated(past, returns)  # [R, V]
    prompt = prompt.repeat(returns)
    text = begun(prompt, places, how.pad_token_id)  # [R, T]
    last_seen = tf.gather(prompt.mask, prompt.positions - 1, axis=1)  # [R]
    infinity = tf.constant(float("inf"), scores.dtype)
    worst = tf.where(last_seen == 0, infinity - infinity, infinity)  # [R]; after padding, nothing
    columns = tf.range(places)  # [T]

    def written(text: Any, cur_len: Any, ended: Any, worst: Any, scores: Any, past: Any) -> tuple[Any, ...]:
        scores = how.warpers(text, how.processors(text, scores, cur_len), cur_len)  # [R, V]
        tokens, values = chosen(scores, how.sampled, how.seed, cur_len)  # [R] each
        worst = tf.minimum(worst, tf.where(ended, infinity, values))  # [R]
        tokens = tf.where(ended, how.pad_token_id, tokens)  # [R]
        text = tf.where(columns == cur_len, tokens[:, None], text)  # [R, T]
        return text, cur_len + 1, ended | ended_by(tokens, how.eos_token_ids), worst, merged(past)

    def goes_on(text: Any, cur_len: Any, ended: Any, worst: Any, past: Any) -> Any:
        return (cur_len < how.max_length) & ~tf.reduce_all(ended)

    def step(text: Any, cur_len: Any, ended: Any, worst: Any, past: Any) -> tuple[Any, ...]:
        past = parted(past, text.shape[0])  # [R, H, C, K] each
        return written(text, cur_len, ended, worst, *reader.next(prompt, past, text, cur_len))

    begin = tf.convert_to_tensor(prompt.length, tf.int32)  # []
    state = written(text, begin, tf.zeros(text.shape[0], tf.bool), worst, scores, past)
    text, cur_len, _, worst, _ = tf.while_loop(goes_on, step, state)
    unwritable = ~(worst > -infinity)[:, None] & (columns >= prompt.length)  # [R, T]
    return tf.where(unwritable, -1, text), cur_len, worst  # [R, T], [], [R]


def begun(prompt: Prompt, places: int, pad_token_id: Any) -> Any:
    """Return the texts that begin with the prompts and have so many places, padding behind, [R, T]."""
    room = max(places - prompt.ids.shape[1], 0)
    ids = tf.pad(prompt.ids, [[0, 0], [0, room]])[:, :places]  # [R, T]
    return tf.where(tf.range(places) < prompt.length, ids, pad_token_id)  # [R, T]


def ended_by(tokens: Any, eos_token_ids: Any) -> Any:
    """Return which of these tokens are end tokens, in their shape."""
    return tf.reduce_any(tokens[..., None] == eos_token_ids, axis=-1)  # [R]
