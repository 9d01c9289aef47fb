"""Keys and values of the positions that a model has already seen.

4.34 hands out a tuple: for each layer a pair (key, value) of shape [B, H, S, K]. `GPT2Cache` is that tuple,
and behind its tensors there may be a room: one buffer for each key and value, longer than what is filled.
A call that continues from the cache then writes its new positions into the room instead of copying all the
old ones. The cache is a value all the same, as the tuple was: continuing never changes what an older cache
shows.

        room   [ 0 1 2 3 4 5 6 . . . . ]     filled = 7
        older  [ 0 1 2 3 4 ]                 may not append in place: the room has gone on
        newer  [ 0 1 2 3 4 5 6 ]             may: its end is where the room's filled part ends

Whoever appends first claims the next positions by moving the mark `filled`; anyone else copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpt2kit.errors import InputError, LengthError

if TYPE_CHECKING:
    from gpt2kit.config import GPT2Config

__all__ = ["GPT2Cache", "append", "cache_of"]

# A room that must grow gets this many positions more at least, so that short texts do not copy at every step.
SMALLEST_GROWTH = 64

Pair = tuple[Tensor, Tensor]


class Room:
    """One buffer for every key and value, [B, H, capacity, K]; allocated when the first layer writes."""

    def __init__(self, n_layer: int, capacity: int, filled: int = 0) -> None:
        self.keys: list[Tensor | None] = [None] * n_layer
        self.values: list[Tensor | None] = [None] * n_layer
        self.capacity = capacity
        self.filled = filled

    def write(self, layer: int, start: int, key: Tensor, value: Tensor) -> Pair:
        """Write positions from `start` on and return everything up to their end as views."""
        stop = start + key.size(2)
        keys, values = self.keys[layer], self.values[layer]
        if keys is None or values is None:
            batch, heads, _, width = key.shape
            keys = self.keys[layer] = key.new_empty(batch, heads, self.capacity, width)  # [B, H, capacity, K]
            values = self.values[layer] = torch.empty_like(keys)  # [B, H, capacity, K]
        keys[:, :, start:stop] = key
        values[:, :, start:stop] = value
        return keys[:, :, :stop], values[:, :, :stop]  # [B, H, S, K] each

    def is_writable(self) -> bool:
        """Tell whether buffers made under torch.inference_mode() may still be written to here."""
        made_in_inference = any(keys is not None and keys.is_inference() for keys in self.keys)
        return torch.is_inference_mode_enabled() or not made_in_inference


class Slot:
    """The next free positions of one layer's room, claimed for one call."""

    def __init__(self, room: Room, layer: int, start: int) -> None:
        self.room, self.layer, self.start = room, layer, start

    def append(self, key: Tensor, value: Tensor) -> Pair:
        """Write the new positions and return all of them, [B, H, S, K] each."""
        return self.room.write(self.layer, self.start, key, value)


def append(layer_past: Slot | Sequence[Tensor], key: Tensor, value: Tensor) -> Pair:
    """Put new keys and values [B, H, T, K] behind those of one layer's past.

    Args:
        layer_past: The pair of one layer as a tuple has it, or a claimed slot of a room.
        key: New keys, [B, H, T, K].
        value: New values, [B, H, T, K].

    Returns:
        All keys and all values, [B, H, S, K] each.
    """
    if isinstance(layer_past, Slot):
        return layer_past.append(key, value)
    past_key, past_value = layer_past
    if not torch.jit.is_tracing() and past_key.size(2) == 0:  # an empty cache says nothing about B and H
        return key, value
    return torch.cat((past_key, key), dim=2), torch.cat((past_value, value), dim=2)  # [B, H, S, K] each


class GPT2Cache(tuple):
    """The past of all layers: 4.34's tuple of (key, value), each [B, H, S, K], with room to go on.

    Args:
        pairs: One (key, value) for each layer.
        room: The buffers that these tensors are views of, if they are.

    Example:
        >>> cache = GPT2Cache(((torch.zeros(2, 3, 5, 11), torch.zeros(2, 3, 5, 11)),) * 3)
        >>> len(cache), cache.get_seq_length(), cache[0][0].shape
        (3, 5, torch.Size([2, 3, 5, 11]))
    """

    room: Room | None

    def __new__(cls, pairs: Iterable[Sequence[Tensor]] = (), room: Room | None = None) -> GPT2Cache:
        """Make a tuple of pairs; the room is remembered beside it."""
        cache = super().__new__(cls, [tuple(pair) for pair in pairs])
        cache.room = room
        return cache

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the tensors only; the copy has no room until it grows one."""
        return GPT2Cache, (self.to_legacy(),)

    @classmethod
    def empty(cls, config: GPT2Config, capacity: int | None = None) -> GPT2Cache:
        """Make a cache of no positions that has room for `capacity` of them.

        Batch size, dtype and device are those of the first call that gets it as its past.

        Args:
            config: Of the model that will fill it.
            capacity: Number of positions to make room for; None is all `n_positions`.

        Raises:
            LengthError: The capacity is more than the model has positions.
        """
        capacity = config.n_positions if capacity is None else capacity
        if not 0 < capacity <= config.n_positions:
            raise LengthError(
                f"A cache of {capacity} positions was asked for, and the model has "
                f"n_positions={config.n_positions}. "
                f"Ask for 1 to {config.n_positions}."
            )
        width = config.n_embd // config.n_head
        nothing = torch.empty(0, config.n_head, 0, width)  # [0, H, 0, K]
        return cls(((nothing, nothing),) * config.n_layer, Room(config.n_layer, capacity))

    @classmethod
    def from_legacy(cls, past_key_values: Iterable[Sequence[Tensor]]) -> GPT2Cache:
        """Make a cache of 4.34's tuple; a cache is returned as it is."""
        return past_key_values if isinstance(past_key_values, cls) else cls(past_key_values)

    def to_legacy(self) -> tuple[Pair, ...]:
        """Return the plain tuple of 4.34."""
        return tuple(tuple.__iter__(self))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return S, the number of positions in the cache."""
        return self[layer_idx][0].size(2) if self else 0

    def reorder(self, indices: Tensor) -> GPT2Cache:
        """Take sequences `indices` of the batch, in that order, as a beam search does; a new cache."""
        room = None if self.room is None else Room(len(self), self.room.capacity, self.get_seq_length())
        pairs = []
        for layer, pair in enumerate(self):
            key, value = (
                tensor.index_select(0, indices.to(tensor.device)) for tensor in pair
            )  # [B', H, S, K]
            pairs.append((key, value) if room is None else room.write(layer, 0, key, value))
        return GPT2Cache(pairs, room)

    def reorder_(self, rows: Tensor, start: int) -> None:
        """Take sequences `rows` of the batch in place, from position `start` on; only for the only owner.

        What lies before `start` has to be the same in a sequence and in the one that it goes on from.

        Args:
            rows: For each sequence the one that it goes on from, [B].
            start: The first position that may differ.
        """
        into = torch.arange(len(rows), device=rows.device)  # [B]
        if rows.is_cpu:  # elsewhere, asking which ones move would wait for the device
            into = into[rows != into]  # [sequences that move]
        source = rows[into]
        if len(into):
            for pair in self:
                for tensor in pair:
                    tensor[into, :, start:] = tensor[source, :, start:]  # [moved, H, S - start, K]

    def crop(self, length: int) -> GPT2Cache:
        """Keep the first `length` positions, or all but the last `-length` if it is negative; a new cache."""
        length = length if length >= 0 else max(self.get_seq_length() + length, 0)
        return GPT2Cache(((key[:, :, :length], value[:, :, :length]) for key, value in self), self.room)

    def rewind(self, length: int) -> GPT2Cache:
        """Keep the first `length` positions and give the places of the rest back to the room.

        Only for who owns the cache alone: the next call overwrites what an older cache shows behind `length`.
        """
        if self.room is not None and self.room.filled == self.get_seq_length():
            self.room.filled = length
        return self.crop(length)

    def keep_branch(self, start: int, branch: Tensor) -> GPT2Cache:
        """Keep the first `start` positions and one of those that follow, in place; only for the only owner.

        Args:
            start: Where the branches begin, each of one position.
            branch: Number of the branch that each sequence goes on with, [B].
        """
        rows = torch.arange(len(branch), device=branch.device)  # [B]
        for pair in self:
            for tensor in pair:
                tensor[:, :, start] = tensor[rows, :, start + branch]  # [B, H, K]
        return self.rewind(start + 1)

    def claim(self, count: int, limit: int) -> tuple[Room | None, list[Slot] | list[Pair]]:
        """Prepare for `count` more positions: return the room, and what each layer gets as its past.

        Where tensors may not be written in place (gradients are on, or the call is being traced), there is no
        room, and each layer gets its own pair, which `append` concatenates.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None, list(self)
        length = self.get_seq_length()
        room = self.room
        if room is None or room.filled != length or room.capacity < length + count or not room.is_writable():
            room = self._moved(length, count, limit)
        room.filled = length + count
        return room, [Slot(room, layer, length) for layer in range(len(self))]

    def _moved(self, length: int, count: int, limit: int) -> Room:
        """Copy the filled part into a new room: twice as long, so that the copies of a long text stay few."""
        wanted = length + count
        capacity = max(wanted, min(limit, wanted + max(length, SMALLEST_GROWTH)))
        room = Room(len(self), capacity, length)
        if length:
            for layer, (key, value) in enumerate(self):
                room.write(layer, 0, key, value)
        return room


def cache_of(outputs: Any, way: str) -> GPT2Cache:
    """Return the cache that a model gave, for a way of decoding that cannot do without.

    Raises:
        InputError: there is none.
    """
    if outputs.past_key_values is None:
        raise InputError(
            f"{way} goes on from keys and values, and this model returned none: gradient checkpointing while "
            "training switches them off. Call model.eval()."
        )
    return GPT2Cache.from_legacy(outputs.past_key_values)
