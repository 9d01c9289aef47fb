"""The arguments of a forward pass, checked: each comes out in the one shape that the model computes with.

Dimensions: B batch, T query positions, S key positions (past and present), D n_embd, H heads, L layers,
E encoder positions (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError, LengthError
from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.mask import padding_bias
from gpt2kit.torch.tracing import unseen

__all__ = [
    "bias",
    "branches",
    "cache_of_pairs",
    "embed",
    "encoder_bias",
    "has_padding",
    "head_masks",
    "inputs",
    "is_readable",
    "kernel",
    "length",
    "padding",
    "past",
    "positions",
    "rows",
    "tensors",
]


def tensors(device: torch.device, **given: Tensor | None) -> None:
    """Refuse what is no tensor, or lies on another device than the model.

    Args:
        device: That of the model.
        **given: The arguments by their names; None is passed over.
    """
    for name, tensor in given.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"{name} should be a tensor, but it is a {type(tensor).__name__}. A tokenizer makes tensors "
                "with return_tensors='pt', and what it returns is handed over as model(**batch)."
            )
        if tensor.device != device:
            raise _device_error(name, tensor, device)


def inputs(input_ids: Tensor | None, inputs_embeds: Tensor | None, D: int) -> tuple[Any, Any, Sequence[int]]:
    """Return ids [B, T] or embeddings [B, T, D], None for the other, and the shape that the ids came in."""
    if input_ids is not None and inputs_embeds is not None:
        raise InputError("Both input_ids and inputs_embeds came; give one of the two.")
    if input_ids is not None:
        with unseen():
            if input_ids.dim() < 1 or 0 in input_ids.shape:
                raise InputError(
                    f"input_ids should hold at least one token, but its shape is {list(input_ids.shape)}."
                )
        return input_ids.reshape(-1, input_ids.size(-1)), None, input_ids.shape  # [B, T]
    if inputs_embeds is None:
        raise InputError("Neither input_ids nor inputs_embeds came; give one of the two.")
    with unseen():
        if inputs_embeds.dim() != 3 or inputs_embeds.size(-1) != D or 0 in inputs_embeds.shape:
            raise _shape_error("inputs_embeds", f"[batch, positions, {D}]", inputs_embeds)
    _check_floating("inputs_embeds", inputs_embeds)
    return None, inputs_embeds, inputs_embeds.shape[:-1]


def cache_of_pairs(past_key_values: Any) -> GPT2Cache:
    """Return the past as a cache; refuse what holds no keys and values."""
    try:
        cache = GPT2Cache.from_legacy(past_key_values)
    except TypeError:
        cache = GPT2Cache(((),))
    fits = [[isinstance(each, Tensor) and each.dim() == 4 for each in pair] for pair in cache]
    if fits != [[True, True]] * len(cache):
        raise InputError(
            "past_key_values should hold a pair (key, value) for each layer; give what this model returned."
        )
    return cache


def past(
    past_key_values: Sequence[Sequence[Tensor]] | None, B: int, blocks: nn.ModuleList, device: torch.device
) -> GPT2Cache:
    """Return the past as a cache, which has no layers where there is none.

    Args:
        past_key_values: For each layer a key and a value, [B, H, S - T, K] each.
        B: Sequences of the input.
        blocks: The layers, which know how many heads they have left.
        device: That of the model.
    """
    if past_key_values is None:
        return GPT2Cache()
    cache = cache_of_pairs(past_key_values)
    if len(cache) != len(blocks):
        raise InputError(
            f"past_key_values has {len(cache)} layers and the model has {len(blocks)}; give what this model "
            "returned."
        )
    traced = torch.jit.is_tracing()
    with unseen():
        _check_past(cache, B, blocks, device)
        if traced and not cache.get_seq_length():
            raise InputError(
                "An empty past cannot be traced, because the graph would be that of no past at all. Trace "
                "with a past of one position at least, or without any."
            )
    return cache


def _check_past(cache: GPT2Cache, B: int, blocks: nn.ModuleList, device: torch.device) -> None:
    """Refuse keys and values that are not those of so many sequences, of these layers, on this device."""
    held, S = cache[0][0].size(0), cache.get_seq_length()
    if S and held != B:
        raise InputError(
            f"past_key_values holds {held} sequences and the input {B}; give as many as before, or "
            "rearrange the past with its method reorder."
        )
    for layer, (pair, block) in enumerate(zip(cache, blocks, strict=True)):
        attn = block.attn
        wanted = (B, attn.num_heads, S, attn.head_dim)
        for each in pair:  # an empty cache says nothing about B and H, nor where it will be
            if each.shape != wanted and (S or each.size(2)):
                raise _shape_error(f"Each of past_key_values[{layer}]", str(list(wanted)), each)
            if S and each.device != device:
                raise _device_error("past_key_values", each, device)


def length(past_length: int, T: int, P: int, branches: bool = False) -> int:
    """Return S, the number of past and present positions, if the model has so many.

    Branches share places, so that there may be more keys than places; then the places alone are checked.
    """
    S = past_length + T
    with unseen():
        if S > P and not branches:
            made_of = f" ({past_length} in past_key_values and {T} new)" if past_length else ""
            raise LengthError(
                f"{S} positions were given{made_of}, and the model has n_positions={P}. Shorten the input (a "
                "tokenizer does it with truncation=True, max_length=...), take the last part of it, or use a "
                "model with more positions."
            )
    return S


def rows(name: str, ids: Tensor, B: int, T: int) -> Tensor:
    """Return ids as [B, T], or as [1, T] where one row serves all."""
    with unseen():
        if ids.dim() < 1 or ids.size(-1) != T or ids.numel() not in (T, B * T):
            raise _shape_error(name, f"[{B}, {T}]", ids)
    return ids.reshape(-1, T)  # [B or 1, T]


def branches(attention_mask: Tensor | None, input_shape: Sequence[int]) -> bool:
    """Tell whether a mask says for each query which positions it sees, [B, T, S].

    Where ids of three dimensions came, [B, C, T], it is that of their padding, in the same shape.
    """
    return attention_mask is not None and attention_mask.dim() == 3 and len(input_shape) < 3


def padding(attention_mask: Tensor | None, B: int, S: int, T: int, by_query: bool) -> Tensor | None:
    """Return the mask as [B, S], or None where it hides nothing and finding that out costs nothing.

    One of its own for each query is returned as [B, T, S].
    """
    if attention_mask is None:
        return None
    if by_query:
        with unseen():
            if attention_mask.shape != (B, T, S):
                raise _shape_error("attention_mask", f"[{B}, {T}, {S}]", attention_mask)
        return attention_mask.tril(S - T)  # [B, T, S]; no query sees what comes after it
    with unseen():
        if attention_mask.dim() < 1 or attention_mask.numel() != B * S or attention_mask.size(-1) != S:
            wanted = f"[{B}, {S}]"
            if S > T:
                wanted += f" ({S - T} in past_key_values and {T} new: give ones for the past as well)"
            raise _shape_error("attention_mask", wanted, attention_mask)
    mask = attention_mask.reshape(B, S)  # [B, S]
    return None if is_readable(mask) and bool((mask == 1).all()) else mask


def has_padding(input_ids: Tensor | None, pad_token_id: int | None) -> bool:
    """Tell whether a row begins or ends with the padding token, where finding that out costs nothing."""
    if input_ids is None or pad_token_id is None or not is_readable(input_ids):
        return False
    return bool((input_ids[..., [0, -1]] == pad_token_id).any())


def positions(
    position_ids: Tensor | None, mask: Tensor | None, B: int, S: int, T: int, P: int, device: torch.device
) -> Tensor:
    """Return the place of each token, [B or 1, T]: as given, else counted over what the mask shows."""
    if position_ids is not None:
        return rows("position_ids", position_ids, B, T)
    if mask is None:
        return torch.arange(S - T, S, device=device)[None]  # [1, T]
    if mask.dim() == 3:
        return ((mask != 0).sum(-1) - 1).clamp(min=0)  # [B, T]
    hidden = mask == 0  # [B, S]
    places = (~hidden).long().cumsum(-1) - 1  # [B, S]
    # Padding has to be somewhere; 4.34's generate puts it at 1. A model of one position has only 0.
    return places.masked_fill(hidden, min(1, P - 1))[:, S - T :]  # [B, T]


def bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return what is added to the attention scores, [B, 1, 1 or T, S]; None hides nothing."""
    if mask is None:
        return None
    added = padding_bias(mask, dtype)  # [B, S] or [B, T, S]
    return added[:, None] if mask.dim() == 3 else added[:, None, None, :]  # [B, 1, 1 or T, S]


def kernel(name: str, output_attentions: bool, head_mask: Tensor | None, tapped: str | None = None) -> str:
    """Return the attention kernel of a call; the fused one has no weights to show, to mask or to tap."""
    if name == "sdpa" and (output_attentions or head_mask is not None or tapped is not None):
        asked = "output_attentions" if output_attentions else tapped or "head_mask"
        raise InputError(
            f"{asked} needs the attention weights, which attn_implementation='sdpa' does not make. Choose "
            "'auto' or 'eager' with model.set_attn_implementation(...)."
        )
    return name if tapped is None else "eager"


def head_masks(
    head_mask: Tensor | None, H: int, blocks: nn.ModuleList, states: Tensor, S: int, encoder: Tensor | None
) -> Sequence[Any]:
    """Return one mask for each layer, broadcast to [B, H, T, S].

    Args:
        head_mask: [H], [L, H] or [L, B, H, T, S]; a 1 in place of a size repeats.
        H: Heads of the configuration.
        blocks: The layers; where heads were pruned everywhere, a mask may be as wide as what is left.
        states: The hidden states, [B, T, D].
        S: Keys.
        encoder: The states that cross-attention looks at, to which the same mask applies, [B, E, D].
    """
    L = len(blocks)
    if head_mask is None:
        return [None] * L
    with unseen():
        B, T = states.shape[:2]
        left = {block.attn.num_heads for block in blocks} | (set() if encoder is None else {H})
        widths = {1, H} | (left if len(left) == 1 else set())
        keys = (1, S) if encoder is None or encoder.size(1) == S else (1, 1)
        wanted = {1: (widths,), 2: ({L}, widths), 5: ({L}, (1, B), widths, (1, T), keys)}
        axes: Sequence[Any] = wanted.get(head_mask.dim(), ())
        if not axes or not all(size in fits for size, fits in zip(head_mask.shape, axes, strict=True)):
            raise _shape_error(
                "head_mask", f"[{H}], [{L}, {H}] or [{L}, {B}, {H}, {T}, {keys[1]}]", head_mask
            )
    mask = head_mask.to(states.dtype)
    if mask.dim() == 5:
        return mask.unbind()  # [B, H, T, S] each
    if mask.dim() == 2:
        return mask[:, None, :, None, None].unbind()  # [1, H, 1, 1] each
    return [mask[None, :, None, None]] * L  # [1, H, 1, 1] each


def encoder_bias(
    states: Tensor | None, mask: Tensor | None, config: GPT2Config, B: int, T: int, dtype: torch.dtype
) -> Tensor | None:
    """Return what is added to the scores of cross-attention, [B, 1, 1 or T, E]; None hides nothing."""
    if states is None:
        if mask is not None:
            raise InputError("encoder_attention_mask came without encoder_hidden_states; give both.")
        return None
    if not config.add_cross_attention:
        raise InputError(
            "encoder_hidden_states were given to a model without cross-attention; build it with "
            "add_cross_attention=True in its configuration."
        )
    with unseen():
        if (
            states.dim() != 3
            or states.size(0) not in (1, B)
            or states.size(1) == 0
            or states.size(-1) != config.n_embd
        ):
            raise _shape_error("encoder_hidden_states", f"[{B}, positions, {config.n_embd}]", states)
    _check_floating("encoder_hidden_states", states)
    if mask is None:
        return None
    with unseen():
        E = states.size(1)
        if (
            mask.dim() not in (2, 3)
            or mask.size(0) not in (1, B)
            or mask.size(-1) != E
            or (mask.dim() == 3 and mask.size(1) not in (1, T))
        ):
            raise _shape_error("encoder_attention_mask", f"[{B}, {E}] or [{B}, {T}, {E}]", mask)
    bias = padding_bias(mask, dtype)  # [B, E] or [B, T, E]
    return bias[:, None, None, :] if mask.dim() == 2 else bias[:, None]  # [B, 1, 1 or T, E]


def _shape_error(name: str, wanted: str, given: Tensor) -> InputError:
    """Say which shape was wanted and which came."""
    return InputError(f"{name} should have the shape {wanted}, but it is {list(given.shape)}.")


def _device_error(name: str, given: Tensor, device: torch.device) -> InputError:
    """Say where an argument is and where the model is."""
    return InputError(f"{name} is on {given.device} and the model on {device}; move one to the other.")


def _check_floating(name: str, given: Tensor) -> None:
    """Refuse whole numbers where vectors are wanted."""
    if not given.is_floating_point():
        raise InputError(
            f"{name} should hold floating-point numbers, but its dtype is {given.dtype}. Ids go into "
            "input_ids."
        )


def embed(table: nn.Module, ids: Tensor, name: str, size_name: str) -> Tensor:
    """Look ids up in an embedding table; [B, T] to [B, T, D].

    Raises:
        InputError: The ids are no whole numbers, or one lies outside the table. Of the latter only the CPU
            tells; an accelerator reports it later, as an assertion of its own.
    """
    if ids.dtype not in (torch.long, torch.int):
        raise InputError(f"{name} should hold ids, of dtype torch.long, but its dtype is {ids.dtype}.")
    try:
        return table(ids)
    except IndexError:
        size = table.weight.size(0)
        outside = ids[(ids < 0) | (ids >= size)]
        if outside.numel() == 0:
            raise
        message = f"{name} holds {int(outside.flatten()[0])}, outside 0 to {size - 1} ({size_name}={size})."
        if size_name == "vocab_size":
            message += " Use this model's tokenizer, or resize_token_embeddings if tokens were added."
        raise InputError(message) from None


def is_readable(tensor: Any) -> TypeGuard[Tensor]:
    """Tell whether the values of a tensor may be looked at: on a CPU, and while nothing traces the call."""
    return (
        type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and torch._C._functorch.maybe_current_level() is None
        and torch._C._len_torch_dispatch_stack() == 0
    )
