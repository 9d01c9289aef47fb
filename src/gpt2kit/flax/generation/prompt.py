"""The prompt of a generation: what the caller gave, checked, brought into one form, and laid out in buckets.

Dimensions: B prompts, T tokens of a prompt, S positions that it takes, D n_embd, E encoder positions. S is T
unless embeddings stand for the prompt. C places of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt2kit.errors import InputError, LengthError
from gpt2kit.flax import arguments
from gpt2kit.flax.generation.bucket import bucket
from gpt2kit.generation import GenerationPlan

__all__ = ["Prompt", "is_traced", "make_prompt"]

_ROWS = ("ids", "mask", "position_ids", "next_place", "embeds", "token_type_ids")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prompt:
    """What a generation goes on from: arrays of NumPy, which compile nothing, or traced ones of JAX.

    Attributes:
        ids: The tokens that the returned text begins with, [B, T].
        length: T, the tokens that are the prompt's; when laid out, what fills the bucket stands behind them.
        positions: S, the positions that the prompt takes in the model.
        mask: 1 for tokens and 0 for padding, [B, S]; when laid out, [B, C].
        position_ids: Places of the prompt's positions, [B, S].
        next_place: Place of the first new token, [B].
        embeds: What the model reads in place of the tokens, [B, S, D].
        token_type_ids: [B, T]; every new token takes the type of the last.
        encoder_hidden_states: What cross-attention looks at, [B, E, D].
        encoder_attention_mask: [B, E].
        head_mask: [H] or [L, H].
    """

    ids: Any
    length: Any
    positions: Any
    mask: Any
    position_ids: Any
    next_place: Any
    embeds: Any = None
    token_type_ids: Any = None
    encoder_hidden_states: Any = None
    encoder_attention_mask: Any = None
    head_mask: Any = None

    def repeat(self, times: int) -> Prompt:
        """Return every prompt `times` times in a row, for that many texts each."""
        if times == 1:
            return self
        changes = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and each.name not in ("length", "positions", "head_mask"):
                changes[each.name] = jnp.repeat(value, times, axis=0)  # [B * times, ...]
        return replace(self, **changes)

    def laid_out(self, plan: GenerationPlan, exact: bool) -> tuple[Prompt, int, int]:
        """Return the prompt in its buckets, the places of the text, and those of the cache.

        Args:
            plan: How long the text may become.
            exact: Whether every array gets the length that is needed, as within a caller's own program.
        """
        most = plan.n_positions
        places = plan.capacity - 1  # the last token is never read
        if exact:
            return self._filled(self.length, self.positions, places), plan.max_length, places
        cache = bucket(places, most)
        laid = self._filled(bucket(self.length, most), bucket(self.positions, most), cache)
        return laid, bucket(plan.max_length, most), cache

    def _filled(self, tokens: int, positions: int, places: int) -> Prompt:
        """Return arrays of these lengths; what is put behind is never seen."""

        def longer(array: Any, length: int, value: int = 0) -> Any:
            if array is None or array.shape[1] >= length:
                return array
            widths = [(0, 0)] * array.ndim
            widths[1] = (0, length - array.shape[1])
            return _with_numpy(array).pad(array, widths, constant_values=value)  # [B, length, ...]

        return replace(
            self,
            ids=longer(self.ids, tokens),
            mask=longer(self.mask, places, 1),  # the new tokens are no padding
            position_ids=longer(self.position_ids, positions),
            embeds=longer(self.embeds, positions),
            token_type_ids=longer(self.token_type_ids, tokens),
        )

    def check_places(self, new_tokens: int, n_positions: int) -> None:
        """Refuse places of the caller's that run out of the model's positions before the text ends.

        Raises:
            LengthError: the largest place, the new tokens and the model's positions.
        """
        if is_traced(self.position_ids):
            return
        largest = int(np.max(self.position_ids))
        if largest + new_tokens > n_positions:  # the last new token is never read
            raise LengthError(
                f"position_ids reach {largest} and {new_tokens} new token(s) follow, but the model has "
                f"n_positions={n_positions}. Lower max_new_tokens or the positions."
            )


def is_traced(*trees: Any) -> bool:
    """Tell whether anything in these trees is being traced, so that no value can be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def _with_numpy(*arrays: Any) -> Any:
    """Return the library to compute with: NumPy, which compiles nothing, unless something is traced."""
    return jnp if is_traced(*arrays) else np


def make_prompt(
    model: Any,
    input_ids: Any,
    kwargs: dict[str, Any],
    *,
    bos_token_id: int | None = None,
    pad_token_id: int | None = None,
    eos_token_ids: Sequence[int] = (),
) -> Prompt:
    """Check what the caller gave and make a prompt of it.

    Args:
        model: What will read the prompt.
        input_ids: Token ids, [B, T].
        kwargs: Arguments of the model by name; None counts as not given.
        bos_token_id: What a text begins with that has no tokens to begin with.
        pad_token_id: Where no mask is given, tokens of this id are padding, unless it is an end token too.
        eos_token_ids: End tokens.

    Raises:
        InputError: arguments that exclude each other, do not fit together, or hold no token.
    """
    config = model.config
    given = {name: value for name, value in kwargs.items() if value is not None}
    arguments.arrays(input_ids=input_ids, **given)
    embeds = given.pop("inputs_embeds", None)
    ids = _ids(model, input_ids, embeds, given, bos_token_id)  # [B, T]
    B, T = ids.shape
    S = T
    if embeds is not None:
        rows, S = arguments.inputs(None, embeds, config.n_embd)
        if rows != B:
            raise InputError(f"inputs_embeds have {rows} rows and input_ids {B}; give as many.")
    mask = _mask(given.pop("attention_mask", None), ids, S, embeds, pad_token_id, eos_token_ids)  # [B, S]
    token_types = given.pop("token_type_ids", None)
    if token_types is not None:
        if token_types.shape != ids.shape or embeds is not None:
            raise InputError(
                f"token_type_ids should have the shape of input_ids, {list(ids.shape)}, but it is "
                f"{list(token_types.shape)}; with inputs_embeds, add their embeddings yourself."
            )
        token_types = _readable(token_types, config.vocab_size, "token_type_ids", "vocab_size")  # [B, T]
    places = _places(given.pop("position_ids", None), mask, config.n_positions)  # [B, S]
    states, encoder_mask = arguments.encoder(
        given.pop("encoder_hidden_states", None), given.pop("encoder_attention_mask", None), config, B, S
    )  # [B, E, D], [B, E]
    if encoder_mask is not None and encoder_mask.ndim != 2:
        raise InputError("encoder_attention_mask should be [batch, positions]: one for all new tokens.")
    head_mask = given.pop("head_mask", None)
    if head_mask is not None and head_mask.ndim > 2:
        raise InputError("head_mask should be [heads] or [layers, heads]: one for all new tokens.")
    return Prompt(
        ids, T, S, mask, places, places[:, -1] + 1, embeds, token_types, states, encoder_mask, head_mask
    )


def _ids(model: Any, ids: Any, embeds: Any, given: dict[str, Any], bos_token_id: int | None) -> Any:
    """Return the tokens of the prompt, [B, T]; where there are none, the one that begins a text."""
    if ids is None:
        if bos_token_id is None:
            raise InputError("`bos_token_id` has to be defined when no `input_ids` are provided.")
        rows = next((value.shape[0] for value in (embeds, *given.values()) if value is not None), 1)
        first = np.full((rows, 1), bos_token_id)  # [B, 1]
        return _readable(first, model.config.vocab_size, "bos_token_id", "vocab_size")
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputError(
            f"input_ids have to be integers of shape [batch, tokens], but are {ids.dtype} of shape "
            f"{list(ids.shape)}."
        )
    if 0 in ids.shape:
        raise InputError(
            f"input_ids hold no token (shape {list(ids.shape)}). Begin with a token, such as the tokenizer's "
            "bos_token, or pass None to begin with `bos_token_id`."
        )
    if embeds is not None:
        return ids
    return _readable(ids, model.config.vocab_size, "input_ids", "vocab_size")


def _readable(ids: Any, size: int, name: str, size_name: str) -> Any:
    """Return ids as int32; refuse those outside a table, if they can be looked at, [B, T]."""
    if is_traced(ids):
        return ids.astype(jnp.int32)  # [B, T]
    values = np.asarray(ids)  # [B, T]
    outside = values[(values < 0) | (values >= size)]
    if outside.size:
        raise InputError(
            f"{name} hold {int(outside[0])}, which is outside 0 to {size - 1} ({size_name}={size})."
        )
    return values.astype(np.int32)  # [B, T]


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
    if mask.shape != (B, S):
        raise InputError(f"attention_mask should have the shape [{B}, {S}], but it is {list(mask.shape)}.")
    if is_traced(mask):
        return (mask != 0).astype(jnp.int32)  # [B, S]
    mask = (np.asarray(mask) != 0).astype(np.int32)  # [B, S]
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
        xp = _with_numpy(mask)
        # Padding has to be somewhere, and is where a call of the model puts it.
        return xp.where(mask != 0, mask.cumsum(-1) - 1, min(1, n_positions - 1)).astype(np.int32)  # [B, S]
    if position_ids.ndim != 2 or position_ids.shape not in ((B, S), (1, S)):
        raise InputError(
            f"position_ids should have the shape [{B}, {S}], but the shape is {list(position_ids.shape)}."
        )
    places = _readable(position_ids, n_positions, "position_ids", "n_positions")  # [B or 1, S]
    return _with_numpy(places).broadcast_to(places, (B, S))  # [B, S]
