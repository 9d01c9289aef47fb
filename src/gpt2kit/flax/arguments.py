"""The arguments of a call, checked: each comes out in the one shape that the model computes with.

Values are looked at where they are there: an array that jit, grad or vmap is tracing has a shape only.

Dimensions: B batch, T query positions, S key positions (past and present), D n_embd, H heads, K width of a
head, L layers, E encoder positions, P n_positions (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError, InputError, LengthError
from gpt2kit.flax.cache import heads_of

__all__ = [
    "arrays",
    "computation_dtype",
    "encoder",
    "filled",
    "head_masks",
    "ids",
    "input_shape",
    "inputs",
    "is_readable",
    "padding",
    "past",
    "positions",
    "rngs",
    "rows",
]

DTYPES = ("float16", "bfloat16", "float32", "float64")


def computation_dtype(dtype: Any) -> Any:
    """Return the dtype to compute in; refuse what is none, and float64 where JAX would make it float32."""
    try:
        wanted = None if dtype is None else jnp.dtype(dtype)  # NumPy takes None for float64
    except TypeError:
        wanted = None
    if wanted is None or wanted.name not in DTYPES:
        raise ConfigError(f"dtype should be one of {', '.join(DTYPES)}, but it is {dtype!r}.")
    if wanted.name == "float64" and not jax.config.jax_enable_x64:
        raise ConfigError(
            "dtype=float64 would silently become float32: JAX computes in float64 only where it was switched "
            "on. Do so with jax.enable_x64(True)."
        )
    return wanted


def is_readable(array: Any) -> bool:
    """Tell whether the values of an array may be looked at: nothing traces it, and it is all here."""
    if isinstance(array, jax.core.Tracer):
        return False
    return not isinstance(array, Array) or array.is_fully_addressable


def arrays(**given: Any) -> None:
    """Refuse what is no array.

    Args:
        **given: The arguments by their names; None is passed over.
    """
    for name, array in given.items():
        if array is not None and not isinstance(array, Array | np.ndarray):
            raise InputError(
                f"{name} should be an array of JAX or NumPy, but it is a {type(array).__name__}. A tokenizer "
                "makes arrays with return_tensors='np', and what it returns is handed over as model(**batch)."
            )


def input_shape(given: Any) -> None:
    """Refuse an input_shape that is not two numbers from 1 on."""
    sizes = list(given) if isinstance(given, Sequence) else []
    if len(sizes) != 2 or any(
        isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes
    ):
        raise InputError(f"input_shape should be (batch, positions), such as (1, 1), but it is {given!r}.")


def inputs(input_ids: Any, inputs_embeds: Any, D: int) -> tuple[int, int]:
    """Return B and T of ids [B, T] or embeddings [B, T, D], one of which has to be there."""
    if input_ids is not None and inputs_embeds is not None:
        raise InputError("Both input_ids and inputs_embeds came; give one of the two.")
    if input_ids is None and inputs_embeds is None:
        raise InputError("Neither input_ids nor inputs_embeds came; give one of the two.")
    if input_ids is not None:
        if input_ids.ndim != 2 or 0 in input_ids.shape:
            raise _shape_error("input_ids", "[batch, positions]", input_ids)
        return input_ids.shape
    if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != D or 0 in inputs_embeds.shape:
        raise _shape_error("inputs_embeds", f"[batch, positions, {D}]", inputs_embeds)
    _check_floating("inputs_embeds", inputs_embeds)
    return inputs_embeds.shape[:2]


def ids(name: str, given: Any, size: int, size_name: str) -> Array:
    """Return ids as int32, [B, T]; refuse those outside a table of `size` rows, if they can be looked at."""
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise InputError(f"{name} should hold ids, which are whole numbers, but its dtype is {given.dtype}.")
    if is_readable(given):
        values = np.asarray(given)  # [B, T]
        outside = values[(values < 0) | (values >= size)]
        if outside.size:
            message = f"{name} holds {int(outside[0])}, outside 0 to {size - 1} ({size_name}={size})."
            if size_name == "vocab_size":
                message += " Use this model's tokenizer, or resize the embeddings if tokens were added."
            raise InputError(message)
    return jnp.asarray(given, jnp.int32)  # [B, T]


def rows(name: str, given: Any, B: int, T: int) -> Any:
    """Return ids as [B, T], or as [1, T] where one row serves all."""
    if given.ndim < 1 or given.shape[-1] != T or given.size not in (T, B * T):
        raise _shape_error(name, f"[{B}, {T}]", given)
    return given.reshape(-1, T)  # [B or 1, T]


def past(past_key_values: Any, config: GPT2Config, B: int) -> int | None:
    """Check the cache of a body and return max_length, its places; None where there is no cache."""
    if past_key_values is None:
        return None
    places: int | None = None
    for layer in range(config.n_layer):
        try:
            leaves = past_key_values["h"][str(layer)]["attn"]
            pair, index = (leaves["cached_key"], leaves["cached_value"]), leaves["cache_index"]
            first, filled_shape = pair[0].shape, index.shape
        except (KeyError, TypeError, AttributeError):
            raise InputError(
                f"past_key_values has no h/{layer}/attn with the arrays cached_key, cached_value and "
                "cache_index; give what init_cache or a call of this model returned."
            ) from None
        if places is None and len(first) == 4:
            places = first[1]
        wanted = (B, places, heads_of(config, layer), config.n_embd // config.n_head)
        for name, each in zip(("cached_key", "cached_value"), pair, strict=True):
            if each.shape != wanted:
                raise _shape_error(
                    f"past_key_values: h/{layer}/attn/{name}", str([B, "max_length", *wanted[2:]]), each
                )
        if filled_shape != ():
            raise _shape_error(f"past_key_values: h/{layer}/attn/cache_index", "[]", index)
    if len(past_key_values["h"]) != config.n_layer:
        raise InputError(
            f"past_key_values has {len(past_key_values['h'])} layers and the model has {config.n_layer}; "
            "give what init_cache or a call of this model returned."
        )
    return places


def filled(past_key_values: Mapping[str, Any] | None, T: int, places: int | None) -> Any:
    """Return how many places of the cache are filled, and see that T more find room, if that can be seen."""
    if past_key_values is None or places is None:
        return 0
    index = past_key_values["h"]["0"]["attn"]["cache_index"]  # []
    if is_readable(index):
        index = int(index)
    if places < T + (index if isinstance(index, int) else 0):
        held = f" and {index} are filled" if isinstance(index, int) else ""
        raise InputError(
            f"The cache is too short: it has {places} places{held}, and {T} new positions came. Make a "
            "longer one with init_cache(batch_size, max_length)."
        )
    return index


def padding(attention_mask: Any, B: int, start: Any, T: int, places: int | None) -> Any:
    """Return the mask, [B, S] or [B, T, S]; refuse one that does not reach to the last new position.

    With a cache S may be anything from the positions so far to all its places, so that one mask serves every
    step.
    """
    if attention_mask is None:
        return None
    least = T + start if isinstance(start, int) else T
    most = least if places is None else places
    by_query = attention_mask.ndim == 3
    fits = attention_mask.shape[:-1] == ((B, T) if by_query else (B,))
    if not fits or not least <= attention_mask.shape[-1] <= most:
        S = str(least) if least == most else f"{least} to {most}"
        wanted = f"[{B}, {S}] or [{B}, {T}, {S}]"
        if least > T:
            wanted += f" ({start} in past_key_values and {T} new: give ones for the past as well)"
        raise _shape_error("attention_mask", wanted, attention_mask)
    return attention_mask


def positions(position_ids: Any, mask: Any, B: int, start: Any, T: int, P: int) -> Array:
    """Return the place of each token, [B or 1, T]: as given, else counted over what the mask shows."""
    if position_ids is not None:
        return ids("position_ids", rows("position_ids", position_ids, B, T), P, "n_positions")
    places = _places(mask, start, T, P)  # [B or 1, T]
    if is_readable(places) and int(places.max()) >= P:
        past = f" ({start} in past_key_values and {T} new)" if start else ""
        raise LengthError(
            f"{int(places.max()) + 1} positions were given{past}, and the model has n_positions={P}. Shorten "
            "the input (a tokenizer does it with truncation=True, max_length=...), take the last part of it, "
            "or use a model with more positions."
        )
    return jnp.asarray(places, jnp.int32)  # [B or 1, T]


def _places(mask: Any, start: Any, T: int, P: int) -> Any:
    """Count the places of T tokens, [B or 1, T]: by NumPy where all can be looked at, else by JAX."""
    xp: Any = np if isinstance(start, int) and (mask is None or is_readable(mask)) else jnp
    if mask is None:
        return (start + xp.arange(T))[None]  # [1, T]
    shown = xp.asarray(mask) != 0  # [B, S] or [B, T, S]
    if shown.ndim == 3:
        before = xp.arange(shown.shape[-1]) <= start + xp.arange(T)[:, None]  # [T, S]
        return xp.maximum((shown & before).sum(-1) - 1, 0)  # [B, T]
    # Padding has to be somewhere; 4.34's generate puts it at 1. A model of one position has only 0.
    counted = xp.where(shown, shown.cumsum(-1) - 1, min(1, P - 1))  # [B, S]
    return counted[:, start : start + T] if xp is np else lax.dynamic_slice_in_dim(counted, start, T, 1)


def head_masks(head_mask: Any, config: GPT2Config, B: int, T: int, S: int, E: int | None) -> Sequence[Any]:
    """Return one mask for each layer, broadcast to [B, H, T, S].

    Args:
        head_mask: [H], [L, H] or [L, B, H, T, S]; a 1 in place of a size repeats.
        config: Where heads were pruned everywhere, a mask may be as wide as what is left.
        B: Sequences.
        T: Queries.
        S: Keys; with a cache, all its places.
        E: Positions of the encoder that cross-attention looks at, to which the same mask applies.
    """
    H, L = config.n_head, config.n_layer
    if head_mask is None:
        return [None] * L
    left = {heads_of(config, layer) for layer in range(L)} | (set() if E is None else {H})
    widths = {1, H} | (left if len(left) == 1 else set())
    keys = (1, S) if E is None or E == S else (1, 1)
    wanted = {1: (widths,), 2: ({L}, widths), 5: ({L}, (1, B), widths, (1, T), keys)}
    axes: Sequence[Any] = wanted.get(head_mask.ndim, ())
    if not axes or not all(size in fits for size, fits in zip(head_mask.shape, axes, strict=True)):
        raise _shape_error("head_mask", f"[{H}], [{L}, {H}] or [{L}, {B}, {H}, {T}, {keys[1]}]", head_mask)
    if head_mask.ndim == 5:
        return [head_mask[layer] for layer in range(L)]  # [B, H, T, S] each
    if head_mask.ndim == 2:
        return [head_mask[layer, None, :, None, None] for layer in range(L)]  # [1, H, 1, 1] each
    return [head_mask[None, :, None, None]] * L  # [1, H, 1, 1] each


def encoder(states: Any, mask: Any, config: GPT2Config, B: int, T: int) -> tuple[Any, Any]:
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
    D = config.n_embd
    if states.ndim != 3 or states.shape[0] not in (1, B) or not states.shape[1] or states.shape[2] != D:
        raise _shape_error("encoder_hidden_states", f"[{B}, positions, {D}]", states)
    _check_floating("encoder_hidden_states", states)
    E = states.shape[1]
    states = jnp.broadcast_to(states, (B, E, D))  # [B, E, D]
    if mask is not None and (
        mask.ndim not in (2, 3)
        or mask.shape[0] not in (1, B)
        or mask.shape[-1] != E
        or (mask.ndim == 3 and mask.shape[1] not in (1, T))
    ):
        raise _shape_error("encoder_attention_mask", f"[{B}, {E}] or [{B}, {T}, {E}]", mask)
    return states, mask


def rngs(config: GPT2Config, dropout_rng: Any, train: bool) -> dict[str, Any]:
    """Return what dropout draws from; refuse training without it, if there is any dropout."""
    if dropout_rng is not None:
        if not isinstance(dropout_rng, Array | np.ndarray):
            raise InputError(
                "dropout_rng should be a key, such as jax.random.PRNGKey(0) makes, but it is "
                f"{dropout_rng!r}."
            )
        return {"dropout": dropout_rng}
    rates = {name: getattr(config, name) for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")}
    if train and any(rates.values()):
        at = ", ".join(f"{name}={rate}" for name, rate in rates.items())
        raise InputError(
            f"train=True draws dropout ({at}) and needs dropout_rng, which did not come. Give "
            "dropout_rng=jax.random.PRNGKey(...), another one at every step."
        )
    return {}


def _shape_error(name: str, wanted: str, given: Any) -> InputError:
    """Say which shape was wanted and which came."""
    return InputError(f"{name} should have the shape {wanted}, but it is {list(given.shape)}.")


def _check_floating(name: str, given: Any) -> None:
    """Refuse whole numbers where vectors are wanted."""
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise InputError(
            f"{name} should hold floating-point numbers, but its dtype is {given.dtype}. Ids go into "
            "input_ids."
        )
