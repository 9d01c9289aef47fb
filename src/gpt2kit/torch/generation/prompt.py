"""The prompt of a generation: what the caller gave, checked and brought into one form.

Dimensions: B prompts, T tokens of a prompt, S positions that it takes, D n_embd. S is T unless
embeddings or a cache stand for a part of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError, LengthError
from gpt2kit.torch.arguments import cache_of_pairs, tensors
from gpt2kit.torch.cache import GPT2Cache

__all__ = ["Prompt", "make_prompt"]

# What may come with the tokens and is looked at here, so that it has to be a tensor.
_TENSORS = ("attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


@dataclass(frozen=True)
class Prompt:
    """What a generation goes on from.

    Attributes:
        ids: The tokens that the returned text begins with, [B, T].
        positions: S, the positions that the prompt takes in the model.
        mask: 1 for tokens and 0 for padding, [B, S]; None where there is no padding.
        embeds: What the model reads in place of the tokens, [B, S, D].
        position_ids: Places that the caller chose, [B, S].
        token_type_ids: [B, T]; every new token takes the type of the last.
        past: Keys and values of the first positions.
        passed_on: Other arguments of the model, the same at every step.
    """

    ids: Tensor
    positions: int
    mask: Tensor | None = None
    embeds: Tensor | None = None
    position_ids: Tensor | None = None
    token_type_ids: Tensor | None = None
    past: GPT2Cache | None = None
    passed_on: dict[str, Any] = field(default_factory=dict)

    def repeat(self, times: int) -> Prompt:
        """Return every prompt `times` times in a row, for that many texts each."""
        if times == 1:
            return self
        rows = torch.arange(len(self.ids), device=self.ids.device)  # [B]
        return self.take(rows.repeat_interleave(times))

    def take(self, rows: Tensor) -> Prompt:
        """Return the prompts of these rows, in their order and as often as they are named."""
        B = self.ids.shape[0]

        def taken(value: Any) -> Any:
            per_row = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == B
            return value.index_select(0, rows.to(value.device)) if per_row else value  # [rows, ...]

        return replace(
            self,
            ids=taken(self.ids),
            mask=taken(self.mask),
            embeds=taken(self.embeds),
            position_ids=taken(self.position_ids),
            token_type_ids=taken(self.token_type_ids),
            past=None if self.past is None else self.past.reorder(rows),
            # A head mask is about heads, whatever its first size is.
            passed_on={k: v if k == "head_mask" else taken(v) for k, v in self.passed_on.items()},
        )

    def check_places(self, new_tokens: int, n_positions: int) -> None:
        """Refuse places of the caller's that run out of the model's positions before the text ends.

        Raises:
            LengthError: the largest place, the new tokens and the model's positions.
        """
        if self.position_ids is None:
            return
        largest = int(self.position_ids.max())
        if largest + new_tokens > n_positions:  # the last new token is never read
            raise LengthError(
                f"position_ids reach {largest} and {new_tokens} new token(s) follow, but the model has "
                f"n_positions={n_positions}. Lower max_new_tokens or the positions."
            )


def make_prompt(
    model: Any,
    inputs: Tensor | None,
    kwargs: dict[str, Any],
    *,
    bos_token_id: int | None = None,
    pad_token_id: int | None = None,
    eos_token_ids: Sequence[int] = (),
) -> Prompt:
    """Check what the caller gave and make a prompt of it.

    Args:
        model: What will read the prompt.
        inputs: Token ids or, where `input_ids` came too, nothing.
        kwargs: Arguments of the model by name; None counts as not given.
        bos_token_id: What a text begins with that has no tokens to begin with.
        pad_token_id: Where no mask is given, tokens of this id are padding, unless it is an end token too.
        eos_token_ids: End tokens.

    Raises:
        InputError: arguments that exclude each other, do not fit together, or hold no token.
        LengthError: positions beyond those of the model.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    tensors(model.device, **{name: given.get(name) for name in _TENSORS})
    embeds: Tensor | None = given.pop("inputs_embeds", None)
    past = given.pop("past_key_values", None)
    cache = None if past is None else cache_of_pairs(past)
    if embeds is not None and cache is not None:
        raise InputError("Both inputs_embeds and past_key_values came; after a cache only tokens can follow.")
    ids = _ids(model, inputs, given, embeds, bos_token_id)
    positions = _positions(ids, embeds, cache, given.get("attention_mask"))
    mask = _mask(
        given.pop("attention_mask", None), ids, positions, embeds, cache, pad_token_id, eos_token_ids
    )
    token_types = given.pop("token_type_ids", None)
    if token_types is not None and (token_types.shape != ids.shape or embeds is not None):
        raise InputError(
            f"token_type_ids should have the shape of input_ids, {list(ids.shape)}, but it is "
            f"{list(token_types.shape)}; with inputs_embeds, add their embeddings yourself."
        )
    places = given.pop("position_ids", None)
    if places is not None:
        if places.shape[-1] != positions or places.dim() != 2 or cache is not None:
            raise InputError(
                f"position_ids should have the shape [{ids.shape[0]}, {positions}] and come without "
                f"past_key_values, but the shape is {list(places.shape)}."
            )
        places = places.expand(ids.shape[0], -1)  # [B, S]
    return Prompt(ids, positions, mask, embeds, places, token_types, cache, given)


def _ids(
    model: Any, inputs: Tensor | None, given: dict[str, Any], embeds: Tensor | None, bos_token_id: int | None
) -> Tensor:
    """Return the tokens of the prompt, [B, T]; where there are none, the one that begins a text."""
    ids = given.pop("input_ids", None)
    if ids is not None and inputs is not None:
        raise InputError("Both `inputs` and `input_ids` came, and they are two names of the same; give one.")
    ids = inputs if ids is None else ids
    if ids is None:
        if bos_token_id is None:
            raise InputError("`bos_token_id` has to be defined when no `input_ids` are provided.")
        rows = next((value.shape[0] for value in (embeds, *given.values()) if isinstance(value, Tensor)), 1)
        ids = torch.full((rows, 1), bos_token_id, dtype=torch.long, device=model.device)  # [B, 1]
    if not isinstance(ids, Tensor):
        way_out = (
            "Unpack it: generate(**inputs)"
            if isinstance(ids, Mapping)
            else "Pass return_tensors='pt' to the tokenizer"
        )
        raise InputError(f"input_ids have to be a tensor, but are a {type(ids).__name__}. {way_out}.")
    if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(
            f"input_ids have to be integers of shape [batch, tokens], but are {ids.dtype} of shape "
            f"{list(ids.shape)}."
        )
    if ids.numel() == 0:
        raise InputError(
            f"input_ids hold no token (shape {list(ids.shape)}). Begin with a token, such as the tokenizer's "
            "bos_token, or leave input_ids out to begin with `bos_token_id`."
        )
    if embeds is not None and embeds.shape[0] != ids.shape[0]:
        raise InputError(
            f"inputs_embeds have {embeds.shape[0]} rows and input_ids {ids.shape[0]}; give as many."
        )
    if ids.device.type != model.device.type:
        raise InputError(
            f"input_ids are on {ids.device}, the model is on {model.device}. Move them: "
            "input_ids.to(model.device)."
        )
    if embeds is None:
        V = model.config.vocab_size
        least, most = (int(value) for value in torch.aminmax(ids))
        if least < 0 or most >= V:
            wrong = least if least < 0 else most
            raise InputError(
                f"input_ids hold {wrong}, which is outside 0 to {V - 1} (vocab_size={V}). Use the tokenizer "
                "of this "
                "model, or resize_token_embeddings if tokens were added."
            )
    return ids


def _positions(ids: Tensor, embeds: Tensor | None, cache: GPT2Cache | None, mask: Tensor | None) -> int:
    """Return how many positions the prompt takes, those of the cache included."""
    T = ids.shape[1]
    if embeds is not None:
        return embeds.shape[1]
    if cache is None:
        return T
    seen = cache.get_seq_length()
    only_new = seen >= T if mask is None else mask.shape[-1] == seen + T
    if not only_new and seen < T:
        return T
    if T != 1:
        raise InputError(
            f"past_key_values hold {seen} positions and input_ids {T} tokens. Give the whole text, those "
            "of the past included, or a single new token."
        )
    return seen + 1


def _mask(
    mask: Tensor | None,
    ids: Tensor,
    positions: int,
    embeds: Tensor | None,
    cache: GPT2Cache | None,
    pad_token_id: int | None,
    eos_token_ids: Sequence[int],
) -> Tensor | None:
    """Return the mask [B, S], or None where nothing is padding."""
    B = ids.shape[0]
    if mask is None:
        told_apart = pad_token_id is not None and pad_token_id not in eos_token_ids
        if embeds is not None or positions != ids.shape[1] or not told_apart:
            return None
        mask = (ids != pad_token_id).long()  # [B, S]
    if mask.shape != (B, positions):
        past = "" if cache is None else f", of which {cache.get_seq_length()} are in past_key_values"
        raise InputError(
            f"attention_mask should have the shape [{B}, {positions}]{past}, but it is {list(mask.shape)}."
        )
    if bool((mask != 0).all()):
        return None
    if bool((mask[:, -1] == 0).any()):
        raise InputError(
            "A prompt ends in padding, and the text goes on from the last position. Pad on the left: "
            "tokenizer.padding_side = 'left'."
        )
    return mask
