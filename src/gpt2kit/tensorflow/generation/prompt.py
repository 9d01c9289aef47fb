"""The prompt of a generation: what the caller gave, checked, brought into one form, and laid out in buckets.

Dimensions: B prompts, T tokens of a prompt, S positions that it takes, D n_embd, C places of the cache. S is
T unless embeddings stand for the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.errors import InputError, LengthError
from gpt2kit.tensorflow import arguments
from gpt2kit.tensorflow.cache import FixedCache
from gpt2kit.tensorflow.generation.program import is_symbolic

__all__ = ["Prompt", "make_prompt"]

# What may come with the tokens and is looked at here.
_ARRAYS = ("attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


@dataclass(frozen=True)
class Prompt:
    """What a generation goes on from: arrays of NumPy, or tensors of a graph.

    Attributes:
        ids: The tokens that the returned text begins with, [B, T].
        length: T, the tokens that are the prompt's; when laid out, what fills the bucket stands behind them.
        positions: S, the positions that the prompt takes in the model.
        mask: 1 for tokens and 0 for padding, [B, S]; when laid out, [B, C].
        position_ids: Places of the prompt's positions, [B, S].
        next_place: Place of the first new token, [B].
        embeds: What the model reads in place of the tokens, [B, S, D].
        token_type_ids: [B, T]; every new token takes the type of the last.
        past: Keys and values of the first positions.
        passed_on: Other arguments of the model, the same at every step.
    """

    ids: Any
    length: Any
    positions: Any
    mask: Any
    position_ids: Any
    next_place: Any
    embeds: Any = None
    token_type_ids: Any = None
    past: Any = None
    passed_on: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> dict[str, Any]:
        """Return what is there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def repeat(self, times: int) -> Prompt:
        """Return every prompt `times` times in a row, for that many texts each."""
        if times == 1:
            return self

        def again(value: Any) -> Any:
            return value if value is None else tf.repeat(value, times, axis=0)  # [B * times, ...]

        rows = ("ids", "mask", "position_ids", "next_place", "embeds", "token_type_ids")
        past = self.past and tuple(tf.repeat(layer, times, axis=1) for layer in self.past)
        passed_on = {name: v if name == "head_mask" else again(v) for name, v in self.passed_on.items()}
        changed: dict[str, Any] = {name: again(getattr(self, name)) for name in rows}
        return replace(self, **changed, past=past, passed_on=passed_on)

    def laid_out(self, tokens: int, positions: int, places: int) -> Prompt:
        """Return arrays of these lengths; what is put behind is never seen.

        Args:
            tokens: Room for T.
            positions: Room for S.
            places: C.
        """

        def longer(value: Any, length: int, filling: int = 0) -> Any:
            if value is None or value.shape[1] >= length:
                return value
            widths = [[0, 0] for _ in value.shape]
            widths[1][1] = length - value.shape[1]
            pad = tf.pad if is_symbolic(value) else np.pad
            return pad(value, widths, constant_values=filling)  # [B, length, ...]

        return replace(
            self,
            ids=longer(self.ids, tokens),
            length=np.int32(self.length),
            positions=np.int32(self.positions),
            mask=longer(self.mask, places, 1),  # the new tokens are no padding
            position_ids=longer(self.position_ids, positions),
            embeds=longer(self.embeds, positions),
            token_type_ids=longer(self.token_type_ids, tokens),
        )

    def check_places(self, new_tokens: int, n_positions: int, last_is_read: bool) -> None:
        """Refuse places of the caller's that run out of the model's positions before the text ends.

        Args:
            new_tokens: How many may follow.
            n_positions: Places that the model has.
            last_is_read: Whether the last new token needs a place too.

        Raises:
            LengthError: the largest place, the new tokens and the model's positions.
        """
        if is_symbolic(self.position_ids):
            return
        largest = int(np.max(self.position_ids))
        if largest + new_tokens + last_is_read > n_positions:
            raise LengthError(
                f"position_ids reach {largest} and {new_tokens} new token(s) follow, but the model has "
                f"n_positions={n_positions}. Lower max_new_tokens or the positions."
            )


def make_prompt(
    model: Any,
    inputs: Any,
    kwargs: dict[str, Any],
    *,
    bos_token_id: int | None = None,
    pad_token_id: int | None = None,
    eos_token_ids: Sequence[int] = (),
) -> Prompt:
    """Check what the caller gave and make a prompt of it.

    Args:
        model: What will read the prompt.
        inputs: Token ids, [B, T]; `input_ids` among the keywords is another name.
        kwargs: Arguments of the model by name; None counts as not given.
        bos_token_id: What a text begins with that has no tokens to begin with.
        pad_token_id: Where no mask is given, tokens of this id are padding, unless it is an end token too.
        eos_token_ids: End tokens.

    Raises:
        InputError: arguments that exclude each other, do not fit together, or hold no token.
    """
    config = model.config
    given = {name: value for name, value in kwargs.items() if value is not None}
    by_name = given.pop("input_ids", None)
    if inputs is not None and by_name is not None:
        raise InputError("Both `inputs` and `input_ids` name the prompt's tokens; pass one of them.")
    given |= {name: _array(given[name], name) for name in _ARRAYS if name in given}
    embeds = given.pop("inputs_embeds", None)
    ids = _ids(config, by_name if inputs is None else inputs, embeds, given, bos_token_id)  # [B, T]
    B, T = ids.shape
    S = T if embeds is None else _positions_of(embeds, config.n_embd, B)
    mask = _mask(given.pop("attention_mask", None), ids, S, embeds, pad_token_id, eos_token_ids)  # [B, S]
    types = given.pop("token_type_ids", None)
    if types is not None:
        if types.shape != ids.shape or embeds is not None:
            raise InputError(
                f"token_type_ids should have the shape of the tokens, {list(ids.shape)}, but it is "
                f"{list(types.shape)}; with inputs_embeds, add their embeddings yourself."
            )
        types = _readable(types, config.vocab_size, "token_type_ids", "vocab_size")  # [B, T]
    places = _places(given.pop("position_ids", None), mask, config.n_positions)  # [B, S]
    past = _past(given.pop("past_key_values", None), config, ids, embeds)
    return Prompt(ids, T, S, mask, places, places[:, -1] + 1, embeds, types, past, given)


def _array(value: Any, name: str) -> Any:
    """Return a value as an array of NumPy, or a tensor of a graph as it is, with shapes that are known."""
    if isinstance(value, Mapping):
        raise InputError(
            f"`{name}` should be an array, but is a {type(value).__name__} of {sorted(map(str, value))}. "
            "What a tokenizer returns is handed over as generate(**batch)."
        )
    if isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        raise _uneven(name)
    if not is_symbolic(value):
        try:
            array = np.asarray(value)
        except ValueError:  # NumPy's word for lists that are no rectangle
            raise _uneven(name) from None
        if array.dtype.kind not in "biufV":  # bfloat16 is of NumPy's kind V
            raise InputError(
                f"`{name}` should hold numbers, but it is {_told(value)}. A tokenizer makes numbers of text: "
                "tokenizer(texts, padding=True, return_tensors='tf')."
            )
        return array
    if not value.shape.is_fully_defined():
        raise InputError(
            f"`{name}` has the shape {value.shape} in this graph, and a text is written into arrays of known "
            "sizes. Give tf.function an input_signature without None, or call generate(..., "
            "jit_compile=True) outside of a graph, which takes prompts of any length."
        )
    return value


def _uneven(name: str) -> InputError:
    return InputError(
        f"The rows of `{name}` should be of one length. Pad them on the left: tokenizer(texts, padding=True, "
        "return_tensors='tf') with tokenizer.padding_side = 'left' makes tokens and their attention_mask."
    )


def _told(value: Any) -> str:
    """Return what a value is, as it is said in a message."""
    return f"{value.dtype.name} of shape {list(value.shape)}" if hasattr(value, "dtype") else repr(value)[:50]


def _is_integer(array: Any) -> bool:
    """Tell whether an array holds whole numbers."""
    return array.dtype.is_integer if is_symbolic(array) else array.dtype.kind in "iu"


def _ids(config: Any, ids: Any, embeds: Any, given: dict[str, Any], bos_token_id: int | None) -> Any:
    """Return the tokens of the prompt, [B, T]; where there are none, the one that begins a text."""
    if ids is None:
        if bos_token_id is None:
            raise InputError("`bos_token_id` has to be defined when no `input_ids` are provided.")
        named = (embeds, *(given.get(name) for name in _ARRAYS))
        rows = next((value.shape[0] for value in named if value is not None), 1)
        return np.full((rows, 1), bos_token_id, np.int32)  # [B, 1]
    ids = _array(ids, "input_ids")
    if 0 in ids.shape:
        raise InputError(
            f"input_ids hold no token (shape {list(ids.shape)}). Begin with a token, such as the tokenizer's "
            "bos_token, or pass None to begin with `bos_token_id`."
        )
    if len(ids.shape) != 2 or not _is_integer(ids):
        raise InputError(f"input_ids have to be integers of shape [batch, tokens], but are {_told(ids)}.")
    if embeds is not None:
        return tf.cast(ids, tf.int32) if is_symbolic(ids) else ids.astype(np.int32)  # [B, T]
    return _readable(ids, config.vocab_size, "input_ids", "vocab_size")


def _positions_of(embeds: Any, n_embd: int, B: int) -> int:
    """Return S of the embeddings of B rows."""
    if len(embeds.shape) != 3 or embeds.shape[-1] != n_embd or embeds.shape[0] != B or not embeds.shape[1]:
        raise InputError(
            f"inputs_embeds should have the shape [{B}, positions, {n_embd}], but it is {list(embeds.shape)}."
        )
    return int(embeds.shape[1])


def _readable(ids: Any, size: int, name: str, size_name: str) -> Any:
    """Return ids as int32; refuse numbers that are none, and those outside a table that is known, [B, T]."""
    if not _is_integer(ids):
        raise InputError(f"{name} have to be integers, but are {_told(ids)}.")
    if is_symbolic(ids):
        return tf.cast(ids, tf.int32)  # [B, T]
    outside = ids[(ids < 0) | (ids >= size)]
    if outside.size:
        raise InputError(
            f"{name} hold {int(outside[0])}, which is outside 0 to {size - 1} ({size_name}={size})."
        )
    return ids.astype(np.int32)  # [B, T]


def _mask(
    mask: Any, ids: Any, S: int, embeds: Any, pad_token_id: int | None, eos_token_ids: Sequence[int]
) -> Any:
    """Return the mask, [B, S]: ones where nothing is padding."""
    B = ids.shape[0]
    if mask is None:
        told_apart = pad_token_id is not None and pad_token_id not in eos_token_ids
        if embeds is not None or not told_apart:
            return np.ones((B, S), np.int32)  # [B, S]
        mask = ids != pad_token_id  # [B, S]
    if tuple(mask.shape) != (B, S):
        raise InputError(f"attention_mask should have the shape [{B}, {S}], but it is {list(mask.shape)}.")
    if is_symbolic(mask):
        return tf.cast(tf.cast(mask, tf.bool), tf.int32)  # [B, S]
    if (mask != mask).any():
        raise InputError("attention_mask holds NaN. It should be 1 for tokens and 0 for padding.")
    mask = (mask != 0).astype(np.int32)  # [B, S]
    if not mask[:, -1].all():
        raise InputError(
            "A prompt ends in padding, and the text goes on from the last position. Pad on the left: "
            "tokenizer.padding_side = 'left'."
        )
    return mask


def _places(position_ids: Any, mask: Any, n_positions: int) -> Any:
    """Return the place of each position of the prompt, [B, S]: as given, else counted over the mask."""
    B, S = mask.shape
    if position_ids is None:
        # Padding has to be somewhere, and is where a call of the model puts it.
        padding = min(1, n_positions - 1)
        if is_symbolic(mask):
            return tf.where(mask != 0, tf.cumsum(mask, axis=-1) - 1, padding)  # [B, S]
        return np.where(mask != 0, mask.cumsum(-1) - 1, padding).astype(np.int32)  # [B, S]
    if tuple(position_ids.shape) not in ((B, S), (1, S)):
        raise InputError(
            f"position_ids should have the shape [{B}, {S}], but the shape is {list(position_ids.shape)}."
        )
    places = _readable(position_ids, n_positions, "position_ids", "n_positions")  # [B or 1, S]
    return tf.broadcast_to(places, (B, S)) if is_symbolic(places) else np.broadcast_to(places, (B, S))


def _past(past: Any, config: Any, ids: Any, embeds: Any) -> Any:
    """Return the cache that the caller has, L of [2, B, H, places, K], if it fits the text."""
    if past is None:
        return None
    if isinstance(past, FixedCache):
        raise InputError(
            "past_key_values of a fixed size cannot be gone on with. Pass what a call of the model returned."
        )
    B, T = ids.shape
    layers, seen, _ = arguments.past(past, config, B)
    if embeds is not None or seen >= T:
        raise InputError(
            f"past_key_values hold {seen} position(s) and the prompt has {T}. Pass the tokens of the whole "
            "text, of which the past holds the first, and no inputs_embeds."
        )
    return tuple(tf.convert_to_tensor(layer) for layer in layers)  # [2, B, H, places, K] each
