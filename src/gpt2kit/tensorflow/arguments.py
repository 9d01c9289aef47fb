"""The arguments of a call, checked: each comes out in the one shape that the model computes with.

Values are looked at in eager calls on the CPU; in a graph a tensor has a shape only, and that perhaps
in part.

Dimensions: B batch, T query positions, S key positions (past and present), D n_embd, H heads, K width of a
head, L layers, E encoder positions, P n_positions (docs/shapes.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError, LengthError
from gpt2kit.tensorflow.cache import FixedCache, heads_of, pair
from gpt2kit.tensorflow.layers import sizes

__all__ = [
    "check_keras_mask",
    "encoder",
    "head_masks",
    "ids",
    "indices",
    "inputs",
    "is_readable",
    "padding",
    "past",
    "positions",
    "rows",
    "tensor",
]

TENSORS = (
    "input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask", "inputs_embeds",
    "encoder_hidden_states", "encoder_attention_mask", "mc_token_ids", "labels", "mc_labels",
)  # fmt: skip


def tensor(name: str, given: Any) -> tf.Tensor | None:
    """Return an argument as a tensor; refuse what is no array.

    Args:
        name: Of the argument.
        given: A tensor, an array of NumPy, or None.
    """
    if given is None or isinstance(given, tf.Tensor):
        return given
    if (
        isinstance(given, tf.Variable | np.ndarray | np.generic | keras.Variable)
        and given.dtype != np.object_
    ):
        return tf.convert_to_tensor(given)
    if isinstance(given, tf.RaggedTensor):
        raise InputError(
            f"{name} has rows of different lengths. Make them dense: {name}.to_tensor(), and the "
            "attention_mask likewise; or give TFGPT2Tokenizer max_length and pad_token_id."
        )
    raise InputError(
        f"{name} should be a tensor of TensorFlow or an array of NumPy, but it is a {type(given).__name__}. "
        "A tokenizer makes tensors with return_tensors='tf', and what it returns is handed over as "
        "model(**batch) or model(batch)."
    )


def is_readable(given: Any) -> bool:
    """Tell whether the values of a tensor may be looked at: it is there, and on the CPU."""
    return tf.is_tensor(given) and hasattr(given, "numpy") and "CPU" in (given.device or "CPU")


def inputs(
    input_ids: tf.Tensor | None, inputs_embeds: tf.Tensor | None, config: GPT2Config
) -> tuple[tf.Tensor | None, tf.Tensor | None, list[Any]]:
    """Return ids [B, T] or embeddings [B, T, D], one of which has to be there, and the shape they came in.

    More leading axes, as that of choices, are made one.
    """
    D = config.n_embd
    if input_ids is not None and inputs_embeds is not None:
        raise InputError("Both input_ids and inputs_embeds came; give one of the two.")
    if input_ids is None and inputs_embeds is None:
        raise InputError("Neither input_ids nor inputs_embeds came; give one of the two.")
    if input_ids is not None:
        if input_ids.shape.rank is None or input_ids.shape.rank < 2 or 0 in input_ids.shape.as_list():
            raise shape_error("input_ids", "[batch, positions]", input_ids)
        shape = sizes(input_ids)
        input_ids = ids("input_ids", input_ids, config.vocab_size, "vocab_size")  # [..., T]
        return tf.reshape(input_ids, [-1, shape[-1]]), None, shape  # [B, T]
    embeds = inputs_embeds
    assert embeds is not None
    given = [] if embeds.shape.rank is None else embeds.shape.as_list()
    if len(given) < 3 or given[-1] != D or 0 in given:
        raise shape_error("inputs_embeds", f"[batch, positions, {D}]", embeds)
    check_floating("inputs_embeds", embeds)
    *shape, _ = sizes(embeds)
    return None, tf.reshape(embeds, [-1, shape[-1], D]), shape  # [B, T, D]


def check_keras_mask(inputs_embeds: Any, attention_mask: Any) -> None:
    """Refuse embeddings that say by Keras' own mask what is padding, where no attention_mask says it.

    Keras keeps the mask as an attribute of the tensor; it hands it only to layers that have an argument for
    it by a name of Keras' own.
    """
    if attention_mask is None and getattr(inputs_embeds, "_keras_mask", None) is not None:
        raise InputError(
            "inputs_embeds carry a mask of Keras, as those of Embedding(mask_zero=True) do, which attention "
            "does not read. Give attention_mask=embedding.compute_mask(ids)."
        )


def ids(name: str, given: tf.Tensor, size: int, size_name: str) -> tf.Tensor:
    """Return ids, [..., T]; refuse those outside a table of `size` rows, if they can be looked at."""
    if not given.dtype.is_integer:
        raise InputError(
            f"{name} should hold ids, which are whole numbers, but its dtype is {given.dtype.name}."
        )
    if is_readable(given):
        values = given.numpy()  # [..., T]
        outside = values[(values < 0) | (values >= size)]
        if outside.size:
            message = f"{name} holds {int(outside[0])}, outside 0 to {size - 1} ({size_name}={size})."
            if size_name == "vocab_size":
                message += " Use this model's tokenizer, or resize the embeddings if tokens were added."
            raise InputError(message)
    return indices(given)  # [..., T]


def indices(given: tf.Tensor) -> tf.Tensor:
    """Return whole numbers in a dtype that every kernel takes."""
    return given if given.dtype in (tf.int32, tf.int64) else tf.cast(given, tf.int64)  # [...]


def rows(name: str, given: tf.Tensor, B: Any, T: Any) -> tf.Tensor:
    """Return ids as [B, T], or as [1, T] where one row serves all."""
    shape = given.shape.as_list()
    count = given.shape.num_elements()
    known = count is not None and isinstance(B, int) and isinstance(T, int)
    if not shape or not _fits(shape[-1], (T,)) or (known and count not in (T, B * T)):
        raise shape_error(name, f"[{_told(B)}, {_told(T)}]", given)
    # In numbers, not as -1: then a size that only the graph's run tells ends it where it does not fit.
    return tf.reshape(given, [math.prod(sizes(given)[:-1]), T])  # [B or 1, T]


def past(past_key_values: Any, config: GPT2Config, B: Any) -> tuple[Sequence[Any], Any, Any]:
    """Check a cache; return what each layer has, how long that is, and how much of it is filled.

    What is filled is None where all of it is, and with no cache.
    """
    L = config.n_layer
    if past_key_values is None:
        return [None] * L, 0, None
    fixed = isinstance(past_key_values, FixedCache)
    layers = past_key_values.layers if fixed else past_key_values
    if not isinstance(layers, list | tuple) or len(layers) != L:
        count = len(layers) if isinstance(layers, list | tuple) else f"a {type(layers).__name__}"
        raise InputError(
            f"past_key_values should have the keys and values of {L} layers, but has {count}; give what a "
            "call of this model returned."
        )
    lengths, pairs = set(), []
    for layer, states in enumerate(layers):
        both = isinstance(states, list | tuple) and len(states) == 2
        if not both and not (hasattr(states, "shape") and len(states.shape) == 5 and states.shape[0] == 2):
            raise _past_error(layer, config, B, getattr(states, "shape", type(states).__name__))
        wanted = ((B,), (heads_of(config, layer),), None, (config.n_embd // config.n_head,))
        pairs.append(pair(states))  # [B, H, S, K] both
        for each in pairs[-1]:
            shape = list(each.shape) if hasattr(each, "shape") else []
            if len(shape) != 4 or not all(
                fits is None or _fits(size, fits) for size, fits in zip(shape, wanted, strict=True)
            ):
                raise _past_error(layer, config, B, shape)
            if not tf.as_dtype(each.dtype).is_floating:
                raise _past_error(layer, config, B, f"{shape} of {tf.as_dtype(each.dtype).name}")
            lengths.add(shape[2])
    if len(lengths - {None}) > 1:
        raise InputError(
            f"past_key_values holds keys and values of different lengths, {sorted(lengths - {None})}. Give "
            "what one call returned."
        )
    places = sizes(tf.convert_to_tensor(pairs[0][0]))[2]
    filled: Any = past_key_values.filled if fixed else None  # []
    return pairs, places, int(filled) if is_readable(filled) else filled


def _past_error(layer: int, config: GPT2Config, B: Any, came: Any) -> InputError:
    """Say what a layer's cache should have been."""
    K = config.n_embd // config.n_head
    shape = f"[2, {_told(B)}, {heads_of(config, layer)}, past, {K}]"
    return InputError(
        f"past_key_values: layer {layer} should have keys and values in one tensor {shape}, or in a pair of "
        f"them, but it is {came}. Give what a call of this model returned."
    )


def padding(attention_mask: tf.Tensor | None, shape: Sequence[Any], T: Any, least: Any, most: Any) -> Any:
    """Return the mask, [B, S] or [B, T, S]; refuse one that does not reach to the last new position.

    Sizes that only a graph's run tells are asked for by its shape, so that the run ends where they differ.

    Args:
        attention_mask: What came, with the leading axes of the ids.
        shape: Of the ids as they came.
        T: Queries.
        least: Positions so far, the new ones included.
        most: All places of a cache of fixed size; else `least` itself.
    """
    if attention_mask is None:
        return None
    attention_mask = _shown("attention_mask", attention_mask)  # [..., S] or [..., T, S]
    given = attention_mask.shape.as_list()
    leading, by_query = list(shape[:-1]), len(given) == len(shape) + 1
    axes = [*leading, T] if by_query else leading
    fits = len(given) == len(axes) + 1 and all(
        _fits(size, (wanted,)) for size, wanted in zip(given, axes, strict=False)
    )
    known = bool(given) and all(isinstance(number, int) for number in (given[-1], least, most))
    if not fits or (known and not least <= given[-1] <= most):
        S = _told(least) if _told(least) == _told(most) else f"{_told(least)} to {_told(most)}"
        wanted = f"[{', '.join(map(_told, leading))}, {S}]"
        if known and least > T:
            wanted += f" ({least - T} in past_key_values and {T} new: give ones for the past as well)"
        raise shape_error("attention_mask", wanted, attention_mask)
    S, B = (least if most is least else sizes(attention_mask)[-1]), math.prod(leading)
    return tf.reshape(attention_mask, [B, T, S] if by_query else [B, S])  # [B, S] or [B, T, S]


def positions(
    position_ids: tf.Tensor | None, mask: tf.Tensor | None, start: Any, B: Any, T: Any, P: int
) -> tf.Tensor:
    """Return the place of each token, [B or 1, T]: as given, else counted over what the mask shows."""
    if position_ids is not None:
        return ids("position_ids", rows("position_ids", position_ids, B, T), P, "n_positions")
    places = _places(mask, start, T, P)  # [B or 1, T]
    known = isinstance(start, int) and isinstance(T, int)
    last: Any = start + T - 1 if known and mask is None else None
    if is_readable(places):
        last = int(tf.reduce_max(places))
    if last is not None and last >= P:
        past = f" ({start} in past_key_values and {T} new)" if known and start else ""
        raise LengthError(
            f"{last + 1} positions were given{past}, and the model has n_positions={P}. Shorten the input (a "
            "tokenizer does it with truncation=True, max_length=...), take the last part of it, or use a "
            "model with more positions."
        )
    return places


def _places(mask: tf.Tensor | None, start: Any, T: Any, P: int) -> tf.Tensor:
    """Count the places of T tokens, [B or 1, T]."""
    if mask is None:
        return (start + tf.range(T))[None]  # [1, T]
    shown = tf.cast(tf.not_equal(mask, tf.zeros([], mask.dtype)), tf.int32)  # [B, S] or [B, T, S]
    if mask.shape.rank == 3:
        before = tf.cast(tf.range(sizes(mask)[-1]) <= start + tf.range(T)[:, None], tf.int32)  # [T, S]
        return tf.maximum(tf.reduce_sum(shown * before, axis=-1) - 1, 0)  # [B, T]
    # Padding has to be somewhere; 4.34's generate puts it at 1. A model of one position has only 0.
    counted = tf.where(shown == 1, tf.cumsum(shown, axis=-1) - 1, min(1, P - 1))  # [B, S]
    return counted[:, start : start + T]  # [B, T]


def head_masks(
    head_mask: tf.Tensor | None, config: GPT2Config, B: Any, T: Any, S: Any, E: Any
) -> Sequence[Any]:
    """Return one mask for each layer, broadcast to [B, H, T, S].

    Args:
        head_mask: [H], [L, H] or [L, B, H, T, S]; a 1 in place of a size repeats.
        config: Where heads were pruned everywhere, a mask may be as wide as what is left.
        B: Sequences.
        T: Queries.
        S: Keys; with a cache of fixed size, all its places.
        E: Positions of the encoder that cross-attention looks at, to which the same mask applies; or None.
    """
    H, L = config.n_head, config.n_layer
    if head_mask is None:
        return [None] * L
    _check_numbers("head_mask", head_mask)
    left = {heads_of(config, layer) for layer in range(L)} | (set() if E is None else {H})
    widths = (1, H, *(left if len(left) == 1 else ()))
    keys = (1, S) if E is None or (isinstance(E, int) and E == S) else (1,)
    wanted: dict[int, Any] = {1: (widths,), 2: ((L,), widths), 5: ((L,), (1, B), widths, (1, T), keys)}
    shape = head_mask.shape.as_list()
    axes = wanted.get(len(shape), ())
    if not axes or not all(_fits(size, fits) for size, fits in zip(shape, axes, strict=True)):
        full = ", ".join(_told(size) for size in (L, B, H, T, keys[-1]))
        raise shape_error("head_mask", f"[{H}], [{L}, {H}] or [{full}]", head_mask)
    if len(shape) == 5:
        return [head_mask[layer] for layer in range(L)]  # [B, H, T, S] each
    if len(shape) == 2:
        return [head_mask[layer][None, :, None, None] for layer in range(L)]  # [1, H, 1, 1] each
    return [head_mask[None, :, None, None]] * L  # [1, H, 1, 1] each


def encoder(
    states: tf.Tensor | None, mask: tf.Tensor | None, config: GPT2Config, B: Any, T: Any
) -> tuple[Any, Any]:
    """Return the states of the encoder [B, E, D] and their mask, [B, E] or [B, T, E], as far as they came."""
    if states is None:
        if mask is not None:
            raise InputError("encoder_attention_mask came without encoder_hidden_states; give both.")
        return None, None
    if not config.add_cross_attention:
        raise InputError(
            "encoder_hidden_states were given to a model without cross-attention; build it with "
            "add_cross_attention=True in its configuration."
        )
    D, shape = config.n_embd, states.shape.as_list()
    if len(shape) != 3 or not _fits(shape[0], (1, B)) or shape[1] == 0 or shape[2] != D:
        raise shape_error("encoder_hidden_states", f"[{_told(B)}, positions, {D}]", states)
    check_floating("encoder_hidden_states", states)
    E = sizes(states)[1]
    states = tf.broadcast_to(states, [B, E, D])  # [B, E, D]
    if mask is not None:
        mask = _shown("encoder_attention_mask", mask)  # [B, E] or [B, T, E]
        given = mask.shape.as_list()
        axes = {2: ((1, B), (E,)), 3: ((1, B), (1, T), (E,))}.get(len(given), ())
        if not axes or not all(_fits(size, fits) for size, fits in zip(given, axes, strict=True)):
            told = [_told(size) for size in (B, T, E)]
            raise shape_error(
                "encoder_attention_mask", f"[{told[0]}, {told[2]}] or [{', '.join(told)}]", mask
            )
    return states, mask


def shape_error(name: str, wanted: str, given: Any) -> InputError:
    """Say which shape was wanted and which came."""
    shape = "?" if given.shape.rank is None else given.shape.as_list()
    return InputError(f"{name} should have the shape {wanted}, but it is {shape}.")


def check_floating(name: str, given: tf.Tensor) -> None:
    """Refuse whole numbers where vectors are wanted."""
    if not given.dtype.is_floating:
        raise InputError(
            f"{name} should hold floating-point numbers, but its dtype is {given.dtype.name}. Ids go into "
            "input_ids."
        )


def _check_numbers(name: str, given: tf.Tensor) -> None:
    """Refuse a mask that no number comes of."""
    if not (given.dtype.is_floating or given.dtype.is_integer or given.dtype.is_bool):
        raise InputError(f"{name} should hold numbers, but its dtype is {given.dtype.name}.")


def _shown(name: str, mask: tf.Tensor) -> tf.Tensor:
    """Return a mask; what says neither to see nor not to see is refused, or NaN if it cannot be looked at."""
    _check_numbers(name, mask)
    if mask.dtype.is_bool:
        return mask
    if is_readable(mask):
        values = mask.numpy()  # [*, S]
        others = values[(values != 0) & (values != 1)]
        if others.size:
            raise InputError(
                f"{name} should hold 1 (to see) and 0 (padding), but it holds {float(others[0]):g}."
            )
        return mask
    said = tf.logical_or(tf.equal(mask, tf.zeros([], mask.dtype)), tf.equal(mask, tf.ones([], mask.dtype)))
    return tf.where(said, tf.cast(mask, tf.float32), math.nan)  # [*, S]


def _fits(size: Any, wanted: Sequence[Any]) -> bool:
    """Tell whether a size may be one of those that are wanted; what a graph does not know may be any."""
    return size is None or any(not isinstance(each, int) or size == each for each in wanted)


def _told(size: Any) -> str:
    """Return a size as it is written in a message."""
    return str(size) if isinstance(size, int) else "?"
