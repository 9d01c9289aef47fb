"""What a search in arrays of fixed sizes reads of the model: the scores of the next token.

The prompt stands at the beginning of the cache, whatever its bucket: what fills the bucket lies behind its
last position, so no position of the prompt sees it, and the tokens that follow are written over it.
Dimensions: B prompts, R rows of text, S positions of a prompt in its bucket, T tokens of a text that have
room, C places of the cache, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from gpt2kit.tensorflow.cache import FixedCache, pair
from gpt2kit.tensorflow.generation.prompt import Prompt
from gpt2kit.tensorflow.mask import score_dtype

__all__ = ["Reader", "repeated"]

Layers = tuple[tuple[Any, Any], ...]


@dataclass(frozen=True)
class Reader:
    """Run a model on a prompt, then on one token of each row at a time.

    Attributes:
        model: A language model.
        places: C, the places of the cache.
        use_cache: Whether keys and values are kept; without, every step reads the whole text.
    """

    model: Any
    places: int
    use_cache: bool = True

    def first(self, prompt: Prompt) -> tuple[Any, Layers]:
        """Read the prompt: the scores of what may follow, [B, V], and the keys and values of the prompt."""
        output, past = self.whole_prompt(prompt)
        return self.scores(output, prompt.positions - 1), past  # [B, V]

    def whole_prompt(self, prompt: Prompt, **asked: bool) -> tuple[Any, Layers]:
        """Read the prompt: what the body gives, and keys and values with room for more, [B, H, C, K] each.

        Args:
            prompt: What the texts begin with, laid out.
            **asked: What else the body shall return.
        """
        read: dict[str, Any] = {"input_ids": prompt.ids, "token_type_ids": prompt.token_type_ids}
        if prompt.embeds is not None:
            read = {"inputs_embeds": prompt.embeds}
        S = prompt.position_ids.shape[1]
        read["attention_mask"] = prompt.mask[:, :S]  # [B, S]
        read["position_ids"] = prompt.position_ids
        output = self.run(prompt, read, **asked)
        if not self.use_cache:
            return output, ()
        room = [[0, 0], [0, 0], [0, self.places - S], [0, 0]]
        past = map(pair, output.past_key_values)
        return output, tuple((tf.pad(k, room), tf.pad(v, room)) for k, v in past)  # [B, H, C, K] each

    def next(self, prompt: Prompt, past: Layers, text: Any, cur_len: Any) -> tuple[Any, Layers]:
        """Read the last token of each row: the scores of what may follow, [R, V], and all keys and values.

        Args:
            prompt: The prompt of each row.
            past: Keys and values of everything before the last token.
            text: The tokens so far, [R, T].
            cur_len: How many there are; at least one is new.
        """
        if not self.use_cache:
            return self._whole(prompt, text, cur_len)
        written = cur_len - 1 - prompt.length  # new tokens before the last one
        read = {
            "input_ids": tf.gather(text, [cur_len - 1], axis=1),  # [R, 1]
            "past_key_values": FixedCache(past, tf.convert_to_tensor(prompt.positions + written)),
            "attention_mask": prompt.mask[:, : self.places],  # [R, C]
            "position_ids": (prompt.next_place + written)[:, None],  # [R, 1]
            "token_type_ids": self.last_types(prompt),
        }
        output = self.run(prompt, read)
        return self.scores(output, 0), output.past_key_values.layers  # [R, V]

    def _whole(self, prompt: Prompt, text: Any, cur_len: Any) -> tuple[Any, Layers]:
        """Read the whole text as if for the first time."""
        T, V = text.shape[1], self.model.config.vocab_size
        new = tf.range(T) - prompt.length  # [T]; below 0 in the prompt
        known = _to_length(prompt.position_ids, T)  # [R, T]
        places = tf.where(new < 0, known, prompt.next_place[:, None] + new)  # [R, T]
        types = self.last_types(prompt)
        if types is not None:
            types = tf.where(new < 0, _to_length(prompt.token_type_ids, T), types)  # [R, T]
        read = {
            # Padding may be no token, and what is behind the end of the text is not looked at.
            "input_ids": tf.where(text < V, tf.maximum(text, 0), 0),  # [R, T]
            "attention_mask": _to_length(prompt.mask, T, 1),  # [R, T]
            "position_ids": tf.minimum(places, self.model.config.n_positions - 1),  # [R, T]
            "token_type_ids": types,
        }
        return self.scores(self.run(prompt, read), cur_len - 1), ()  # [R, V]

    def last_types(self, prompt: Prompt) -> Any:
        """Return the type of every new token, [R, 1]."""
        types = prompt.token_type_ids
        return None if types is None else tf.gather(types, [prompt.length - 1], axis=1)  # [R, 1]

    def run(self, prompt: Prompt, read: dict[str, Any], **asked: bool) -> Any:
        """Return what the body of the model gives for what is read."""
        given = {name: value for name, value in (read | prompt.passed_on).items() if value is not None}
        return self.model.transformer(
            **given, **asked, use_cache=self.use_cache, return_dict=True, training=False
        )

    def scores(self, output: Any, at: Any) -> Any:
        """Return the scores at one position, [R, V], in float32 at least."""
        scores = self.model.scored(tf.gather(output.last_hidden_state, [at], axis=1))[:, 0]  # [R, V]
        return tf.cast(scores, score_dtype(scores.dtype))  # [R, V]


def _to_length(value: Any, length: int, filling: int = 0) -> Any:
    """Return the first columns of [R, n], with what fills them up behind, [R, length]."""
    value = value[:, :length]  # [R, at most length]
    missing = length - value.shape[1]
    return tf.pad(value, [[0, 0], [0, missing]], constant_values=filling)  # [R, length]


def repeated(past: Layers, times: int) -> Layers:
    """Return keys and values with every row `times` times in a row."""
    if times == 1:
        return past
    return tuple((tf.repeat(k, times, axis=0), tf.repeat(v, times, axis=0)) for k, v in past)
