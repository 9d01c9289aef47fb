"""Changes to a finished model: other embeddings, another number of tokens.

Dimensions: V vocabulary, D n_embd (docs/shapes.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.tensorflow.layers import TFEmbedding, TFLinear

__all__ = ["SurgeryMixin"]


class SurgeryMixin:
    """Embeddings of a model: get them, put others in their place, change their number."""

    def get_input_embeddings(self: Any) -> TFEmbedding:
        """Return the layer of token embeddings."""
        return self.transformer.wte

    def set_input_embeddings(self: Any, value: Any) -> None:
        """Put other token embeddings in their place.

        Args:
            value: A layer of such embeddings, or their values, [V, D].

        Raises:
            InputError: Of another size; `resize_token_embeddings` changes that.
        """
        table = value.weight if isinstance(value, TFEmbedding) else value
        wanted = [self.config.vocab_size, self.config.n_embd]
        if not hasattr(table, "shape") or list(table.shape) != wanted:
            came = list(table.shape) if hasattr(table, "shape") else f"a {type(value).__name__}"
            raise InputError(
                f"Token embeddings should have the shape {wanted}, but they are {came}. For another number "
                "of tokens call resize_token_embeddings first."
            )
        if isinstance(value, TFEmbedding):
            self.transformer.wte = value
            self._forget_programs()
        else:
            self.transformer.wte.weight.assign(table)

    def get_output_embeddings(self: Any) -> Any:
        """Return what scores the vocabulary: the token embeddings, or rows of its own.

        A model that scores no tokens has none, and returns None.
        """
        if not self.scores_tokens:
            return None
        return self.lm_head if self.lm_head is not None else self.get_input_embeddings()

    def set_output_embeddings(self: Any, value: Any) -> None:
        """Put other values in the place of what scores the vocabulary; as `set_input_embeddings`."""
        if not self.scores_tokens:
            raise InputError(f"{type(self).__name__} scores no tokens, so it has no output embeddings.")
        if self.lm_head is None:
            self.set_input_embeddings(value)
            return
        table = value.weight if isinstance(value, TFLinear | TFEmbedding) else value
        if not hasattr(table, "shape") or list(table.shape) != list(self.lm_head.weight.shape):
            wanted = list(self.lm_head.weight.shape)
            came = list(table.shape) if hasattr(table, "shape") else f"a {type(value).__name__}"
            raise InputError(f"Output embeddings should have the shape {wanted}, but they are {came}.")
        self.lm_head.weight.assign(table)

    def get_bias(self) -> None:
        """Return None: GPT-2 scores the vocabulary without a bias."""

    def get_lm_head(self) -> None:
        """Return None, as 4.34 does; `get_output_embeddings` returns what scores the vocabulary."""

    def resize_token_embeddings(self: Any, new_num_tokens: int | None = None) -> TFEmbedding:
        """Change the number of tokens, in the weights and in the configuration.

        Added rows are drawn as fresh weights are; where tokens are taken away, the last rows go. The
        configuration that the model had stays as it is: the model gets a copy. An optimizer has to be made
        anew, by `compile`.

        Args:
            new_num_tokens: The new vocabulary size, usually len(tokenizer); None keeps it.

        Returns:
            The layer of token embeddings.

        Raises:
            InputError: A size that is no positive number.
        """
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise InputError(f"new_num_tokens should be a positive whole number, but it is {size!r}.")
        if size != self.config.vocab_size:
            _resize(self.transformer.wte, int(size), self.config.initializer_range)
            if self.scores_tokens and self.lm_head is not None:
                _resize(self.lm_head, int(size), self.config.initializer_range)
            self.config = copy.deepcopy(self.config)
            self.config.vocab_size = int(size)
            self.transformer.config = self.config
            self._forget_programs()
        return self.transformer.wte

    def prune_heads(self: Any, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Remove heads of self-attention for good, in the weights and in the configuration.

        The configuration that the model had stays as it is: the model gets a copy. An optimizer has to be
        made anew, by `compile`.

        Args:
            heads_to_prune: Layer -> numbers of its heads, as they were before any pruning. Those that are
                gone already are passed over.

        Raises:
            InputError: No such layer or head, or a layer would have no head left. Nothing is removed then.
        """
        config = copy.deepcopy(self.config)
        left = {}
        for layer, heads in heads_to_prune.items():
            gone = set(config.pruned_heads.get(layer, ()))
            left[layer] = _left(config, layer, set(heads), gone)
            config.pruned_heads[layer] = sorted(gone | set(heads))
        for layer, kept in left.items():
            self.transformer.h[layer].attn.keep_heads(kept, config)
        self.config = self.transformer.config = config
        self._forget_programs()

    def _forget_programs(self: Any) -> None:
        """Have `fit`, `evaluate`, `predict` and `generate` trace their steps again."""
        self.train_function = self.test_function = self.predict_function = None
        made = self.__dict__.get("_programs")  # of `generate`
        if made is not None:
            made.forget()  # else it would hold the weights that are gone


def _left(config: GPT2Config, layer: Any, heads: set[int], gone: set[int]) -> list[int]:
    """Return which of the heads that a layer has stay, counted among them."""
    L, H = config.n_layer, config.n_head
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < L:
        raise InputError(f"There is no layer {layer!r}: layers are numbered 0 to {L - 1}.")
    if unknown := sorted(head for head in heads if not 0 <= head < H):
        raise InputError(f"There is no head {unknown[0]}: heads are numbered 0 to {H - 1}.")
    present = [head for head in range(H) if head not in gone]
    kept = [place for place, head in enumerate(present) if head not in heads]
    if not kept:
        raise InputError(f"Pruning heads {sorted(heads)} would leave layer {layer} without any head.")
    return kept


def _resize(layer: Any, size: int, deviation: float) -> None:
    """Give a layer another number of rows in its weight; new ones are normal."""
    old = tf.convert_to_tensor(layer.weight.value)  # [V, D]
    count, D = old.shape
    added = tf.random.normal([max(0, size - count), D], stddev=deviation, dtype=old.dtype)  # [V - old V, D]
    table = tf.concat([old[:size], added], axis=0)  # [V, D]
    layer.replace_weight(table)
