"""What a beam search reads of the model: all texts of a prompt as branches of one sequence.

Keys and values of a prompt are there once, whatever the number of beams. Behind them each step puts those of
the W tokens that it reads, side by side, and they never move: a mask says for each beam which of all these
positions its own text went through. So where a beam goes on from another one, the mask changes and the cache,
the largest array of a search, does not.

Dimensions: B prompts, W beams of each, T tokens of a text that have room, C places of the cache, V
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gpt2kit.flax import arguments
from gpt2kit.flax.generation.program import key_of
from gpt2kit.flax.generation.prompt import Prompt, is_traced
from gpt2kit.flax.generation.reader import Past, Reader
from gpt2kit.flax.mask import score_dtype

__all__ = ["BranchReader", "Branches"]


class Branches(NamedTuple):
    """What the model has read of all texts.

    Attributes:
        past: Keys and values; None where nothing is kept.
        seen: Which places of the cache belong to each text, [B, W, C]; None without a cache.
        read: Steps whose tokens are in the cache, [].
    """

    past: Past
    seen: Any
    read: Any


@dataclass(frozen=True)
class BranchReader:
    """Run a module on a prompt, then on one token of each of its beams at a time.

    Attributes:
        reader: What reads the prompt; its cache has room for it and W tokens of each step.
        beams: W.
    """

    reader: Reader
    beams: int

    def first(self, params: Any, prompt: Prompt) -> tuple[Array, Branches]:
        """Read the prompt once: the scores of what may follow it, [B, V]."""
        scores, past = self.reader.first(params, prompt)  # [B, V]
        if past is None:
            return scores, Branches(None, None, jnp.zeros((), jnp.int32))
        C = self.reader.places
        mask = jnp.asarray(prompt.mask)[:, :C] != 0  # [B, at most C]
        mask = jnp.pad(mask, ((0, 0), (0, C - mask.shape[1]))) & (jnp.arange(C) < prompt.positions)  # [B, C]
        seen = jnp.repeat(mask[:, None], self.beams, axis=1)  # [B, W, C]
        return scores, Branches(past, seen, jnp.zeros((), jnp.int32))

    def next(
        self, params: Any, prompt: Prompt, branches: Branches, texts: Array, length: Array, sources: Array
    ) -> tuple[Array, Branches]:
        """Read the last token of each text: the scores of what may follow, [B, W, V].

        Args:
            params: The parameters.
            prompt: The prompts.
            branches: What was read before.
            texts: The tokens so far, [B, W, T].
            length: How many there are, [].
            sources: The beam that each text went on from by its last token, [B, W].
        """
        given = (params, prompt, branches, texts, length, sources)
        programs = self.reader.programs
        if programs is None or is_traced(given):
            return self._next(*given)
        within = replace(self, reader=replace(self.reader, programs=None))
        step: tuple[Array, Branches] = programs.get(
            BranchReader._next, (within,), key_of(self.reader.module)
        )(*given)
        return step

    def _next(
        self, params: Any, prompt: Prompt, branches: Branches, texts: Array, length: Array, sources: Array
    ) -> tuple[Array, Branches]:
        B, W, T = texts.shape
        if branches.past is None:
            rows = prompt.repeat(W)
            scores, _ = self.reader.next(params, rows, None, texts.reshape(B * W, T), length)  # [B*W, V]
            return scores.reshape(B, W, -1), branches
        C = self.reader.places
        own = prompt.positions + branches.read * W + jnp.arange(W)  # [W]
        seen = jnp.take_along_axis(branches.seen, sources[:, :, None], axis=1)  # [B, W, C]
        seen = seen | (jnp.arange(C) == own[:, None])  # [B, W, C]
        places = jnp.asarray(prompt.next_place)[:, None] + branches.read  # [B, 1]
        heads = None
        if prompt.head_mask is not None:
            heads = arguments.head_masks(prompt.head_mask, self.reader.module.config, 1, W, C, None)
        output, changed = self.reader.module.apply(
            {"params": params, "cache": branches.past},
            lax.dynamic_index_in_dim(texts, length - 1, axis=2, keepdims=False),  # [B, W]
            seen,
            jnp.broadcast_to(places, (B, W)),
            prompt.encoder_hidden_states,
            prompt.encoder_attention_mask,
            token_type_ids=self._types(prompt),
            head_mask=heads,
            mutable=["cache"],
        )
        scores = output.logits.astype(score_dtype(output.logits.dtype))  # [B, W, V]
        return scores, Branches(changed["cache"], seen, branches.read + 1)

    def _types(self, prompt: Prompt) -> Array | None:
        """Return the type of every new token, that of the prompt's last, [B, W]."""
        if prompt.token_type_ids is None:
            return None
        last = lax.dynamic_slice_in_dim(prompt.token_type_ids, prompt.length - 1, 1, axis=1)  # [B, 1]
        return jnp.broadcast_to(last, (len(last), self.beams))  # [B, W]
