"""What a search reads of the model: the scores of the next token after the prompt, then after each token.

The prompt stands at the beginning of the cache, whatever its bucket: what fills the bucket lies behind its
last position, so no position of the prompt sees it, and the tokens that follow are written over it.
Dimensions: B prompts, R rows of text, S positions of a prompt in its bucket, T tokens of a text that have
room, C places of the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gpt2kit.flax import arguments
from gpt2kit.flax.cache import empty_cache, turned_cache
from gpt2kit.flax.generation.program import Programs, key_of
from gpt2kit.flax.generation.prompt import Prompt, is_traced
from gpt2kit.flax.mask import score_dtype

__all__ = ["Past", "Reader", "repeated"]

# Keys and values of what was read, in the tree of the module's own cache; None where nothing is kept.
Past = dict[str, Any] | None


@dataclass(frozen=True)
class Reader:
    """Run a module on a prompt, then on one token of each row at a time.

    Attributes:
        module: A Linen module with `transformer` and a head.
        places: C, the places of the cache.
        use_cache: Whether keys and values are kept; without, every step reads the whole text.
        programs: Where compiled forms of `first` and `next` are kept, for a loop in Python; None within a
            program.
    """

    module: Any = field(compare=False)  # `program.key_of` tells programs of other modules apart
    places: int
    use_cache: bool = True
    programs: Programs | None = field(default=None, compare=False)

    def first(self, params: Any, prompt: Prompt) -> tuple[Array, Past]:
        """Read the prompt: the scores of what may follow, [B, V], and the keys and values of the prompt."""
        return self._run(Reader._first, params, prompt)

    def _first(self, params: Any, prompt: Prompt) -> tuple[Array, Past]:
        B = len(prompt.position_ids)
        read = {"input_ids": prompt.ids, "token_type_ids": prompt.token_type_ids}
        if prompt.embeds is not None:
            read = {"input_ids": None, "inputs_embeds": prompt.embeds}
        past = None
        if self.use_cache:
            body = empty_cache(self.module.config, B, self.places, self.module.dtype)
            past = {"transformer": turned_cache(body)}
        read |= {"position_ids": prompt.position_ids}
        scores, past = self._scores(params, prompt, past, prompt.positions - 1, **read)  # [B, V]
        return scores, None if past is None else _filled(past, prompt.positions)

    def next(
        self, params: Any, prompt: Prompt, past: Past, text: Array, cur_len: Array
    ) -> tuple[Array, Past]:
        """Read the last token of each row: the scores of what may follow, [R, V], and all keys and values.

        Args:
            params: The parameters.
            prompt: The prompt of each row.
            past: Keys and values of everything before the last token.
            text: The tokens so far, [R, T].
            cur_len: How many there are; at least one is new.
        """
        return self._run(Reader._next, params, prompt, past, text, cur_len)

    def _next(
        self, params: Any, prompt: Prompt, past: Past, text: Array, cur_len: Array
    ) -> tuple[Array, Past]:
        written = cur_len - 1 - prompt.length  # new tokens before the last one
        if past is None:
            return self._whole(params, prompt, text, cur_len)
        last = lax.dynamic_slice_in_dim(text, cur_len - 1, 1, axis=1)  # [R, 1]
        places = (prompt.next_place + written)[:, None]  # [R, 1]
        types = self._last_types(prompt)
        return self._scores(
            params, prompt, past, 0, input_ids=last, position_ids=places, token_type_ids=types
        )

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what reads the model: as it is within a program, else as a small program of its own."""
        if self.programs is None or is_traced(arguments):
            return function(self, *arguments)
        compiled_in = (replace(self, programs=None),)
        return self.programs.get(function, compiled_in, key_of(self.module))(*arguments)

    def _whole(self, params: Any, prompt: Prompt, text: Array, cur_len: Array) -> tuple[Array, Past]:
        """Read the whole text as if for the first time."""
        T = text.shape[1]
        new = jnp.arange(T) - prompt.length  # [T]; below 0 in the prompt
        room = T - min(T, prompt.position_ids.shape[1])
        known = jnp.pad(prompt.position_ids, ((0, 0), (0, room)))[:, :T]  # [R, T]
        places = jnp.where(new < 0, known, prompt.next_place[:, None] + new)  # [R, T]
        places = jnp.minimum(places, self.module.config.n_positions - 1)  # behind the end of the text
        types = self._last_types(prompt)
        if prompt.token_type_ids is not None:
            known = jnp.pad(prompt.token_type_ids, ((0, 0), (0, room)))[:, :T]  # [R, T]
            types = jnp.where(new < 0, known, types)  # [R, T]
        text = jnp.where(jnp.arange(T) < cur_len, text, 0)  # [R, T]; padding may be no token
        read = {"input_ids": text, "position_ids": places, "token_type_ids": types}
        return self._scores(params, prompt, None, cur_len - 1, **read)

    def _last_types(self, prompt: Prompt) -> Array | None:
        """Return the type of every new token, [R, 1]."""
        types = prompt.token_type_ids
        return None if types is None else lax.dynamic_slice_in_dim(types, prompt.length - 1, 1, axis=1)

    def _scores(self, params: Any, prompt: Prompt, past: Past, at: Any, **read: Any) -> tuple[Array, Past]:
        """Return the scores at one position, [R, V], in float32 at least; and the cache."""
        T = read["position_ids"].shape[1]
        C = T if past is None else self.places
        config = self.module.config
        heads = arguments.head_masks(prompt.head_mask, config, 1, T, C, None)
        mask = prompt.mask[:, :C]  # [R, C]
        mask = jnp.pad(mask, ((0, 0), (0, C - mask.shape[1])), constant_values=1)  # [R, C]
        read |= {"attention_mask": mask, "head_mask": heads if prompt.head_mask is not None else None}
        read["encoder_hidden_states"] = prompt.encoder_hidden_states
        read["encoder_attention_mask"] = prompt.encoder_attention_mask
        if past is None:
            scores, cache = self.module.apply({"params": params}, at, read, method=_logits_at), None
        else:
            variables = {"params": params, "cache": past}
            scores, changed = self.module.apply(variables, at, read, method=_logits_at, mutable=["cache"])
            cache = changed["cache"]
        return scores.astype(score_dtype(scores.dtype)), cache  # [R, V]


def _logits_at(module: Any, at: Any, read: dict[str, Any]) -> Array:
    """Return the logits of one position, [R, V]; those of the others are never made."""
    states = module.transformer(**read).last_hidden_state  # [R, T, D]
    states = lax.dynamic_slice_in_dim(states, at, 1, axis=1)  # [R, 1, D]
    tied = module.config.tie_word_embeddings
    logits = module.transformer.wte.attend(states) if tied else module.lm_head(states)  # [R, 1, V]
    return logits[:, 0]  # [R, V]


def _filled(past: dict[str, Any], positions: Any) -> dict[str, Any]:
    """Return a cache of which so many places are filled: what was read behind them is written over."""
    return jax.tree.map(lambda leaf: jnp.asarray(positions, leaf.dtype) if leaf.ndim == 0 else leaf, past)


def repeated(past: Past, times: int, B: int) -> Past:
    """Return the keys and values of B rows with every row `times` times in a row."""
    if times == 1:
        return past

    def again(leaf: Array) -> Array:
        if leaf.ndim == 0:
            return leaf
        rows = leaf.reshape(B, -1, *leaf.shape[1:])  # [B, H, C, K]
        return jnp.repeat(rows, times, axis=0).reshape(-1, *leaf.shape[1:])  # [B * times * H, C, K]

    return jax.tree.map(again, past)
