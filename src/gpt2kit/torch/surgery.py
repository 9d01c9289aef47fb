"""Changes to a finished model: another number of tokens, fewer attention heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gpt2kit.errors import InputError
from gpt2kit.torch.layers import Unembedding

__all__ = ["prune_heads", "resize_token_embeddings"]


def resize_token_embeddings(
    model: Any, new_num_tokens: int | None, pad_to_multiple_of: int | None
) -> nn.Module:
    """Change the vocabulary of a model; see `GPT2PreTrainedModel.resize_token_embeddings`."""
    old = model.get_input_embeddings()
    if new_num_tokens is None and pad_to_multiple_of is None:
        return old
    size = old.weight.size(0) if new_num_tokens is None else new_num_tokens
    if pad_to_multiple_of is not None:
        if (
            isinstance(pad_to_multiple_of, bool)
            or not isinstance(pad_to_multiple_of, int)
            or pad_to_multiple_of < 1
        ):
            raise InputError(
                f"pad_to_multiple_of should be a positive whole number, but it is {pad_to_multiple_of!r}."
            )
        size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
    if size < 1:
        raise InputError(f"new_num_tokens should be at least 1, but it is {new_num_tokens}.")

    if size != old.weight.size(0):
        model.set_input_embeddings(_resized(model, old, nn.Embedding, size))
    head = model.get_output_embeddings()
    if head is not None and not model.config.tie_word_embeddings and head.weight.size(0) != size:
        model.set_output_embeddings(_resized(model, head, nn.Linear, size))
    model.config.vocab_size = model.vocab_size = size
    model.tie_weights()
    return model.get_input_embeddings()


@torch.no_grad()
def _resized(model: Any, old: Any, kind: type[nn.Embedding | nn.Linear], size: int) -> nn.Module:
    """Return an embedding table or a linear layer with another number of rows; new ones are freshly drawn."""
    if not isinstance(old, kind):
        raise InputError(
            f"Only a {kind.__name__} can be resized, and this model has a {type(old).__name__} in its "
            f"place. Resize "
            "that yourself and set it with set_input_embeddings or set_output_embeddings."
        )
    place: dict[str, Any] = {"device": old.weight.device, "dtype": old.weight.dtype}
    width = old.weight.size(1)
    if kind is nn.Embedding:
        new: Any = nn.Embedding(size, width, padding_idx=old.padding_idx, **place)
    else:
        new = Unembedding(width, size, bias=old.bias is not None, **place)
    model._init_weights(new)
    rows = min(size, old.weight.size(0))
    new.weight[:rows] = old.weight[:rows]  # [V, D]
    if getattr(old, "bias", None) is not None:
        new.bias[:rows] = old.bias[:rows]  # [V]
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(getattr(old, name).requires_grad)
    new._is_initialized = True
    return new.train(old.training)


def prune_heads(model: Any, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
    """Remove heads from the blocks of a model; see `GPT2PreTrainedModel.prune_heads`."""
    blocks, config = model.base_model.h, model.config
    wanted = {int(layer): sorted(set(heads)) for layer, heads in heads_to_prune.items()}
    if strangers := sorted(layer for layer in wanted if not 0 <= layer < len(blocks)):
        raise InputError(f"There is no layer {strangers[0]}: layers are numbered 0 to {len(blocks) - 1}.")
    for layer, heads in wanted.items():
        attention = blocks[layer].attn
        attention.prune_heads(heads)
        config.pruned_heads[layer] = sorted({*config.pruned_heads.get(layer, ()), *attention.pruned_heads})
