"""What the authors of own layers, own models and own training loops call on a model: masks and estimates.

The models of this room do not need these methods; classes that were derived from 4.34's do.
Dimensions: B batch, T query positions, S key positions, E encoder positions, H heads, L layers
(docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError

__all__ = ["BuilderMixin"]

# Of each weight and token: a product and a sum forwards, and twice that backwards.
_OPERATIONS = 6


class BuilderMixin:
    """Masks in the form in which layers add or multiply them, and what a batch costs.

    Source:
        transformers v4.34.0, modeling_utils.py, ModuleUtilsMixin.
    """

    config: GPT2Config
    main_input_name: str
    dtype: torch.dtype

    def _warn_once(self, message: str) -> None:
        """Log a warning once; every model does."""
        raise NotImplementedError

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the parameters; every model does."""
        raise NotImplementedError

    # ------------------------------------------------------------------ masks

    def invert_attention_mask(self, encoder_attention_mask: Tensor) -> Tensor:
        """Turn a mask of ones (to see) and zeros (to hide) into what is added to the scores.

        Args:
            encoder_attention_mask: [B, E] or [B, T, E]

        Returns:
            0 or the least number of the model's dtype, [B, 1, 1, E] or [B, 1, T, E].

        Raises:
            InputError: A mask of another number of dimensions.
        """
        return self._bias(_over_heads(encoder_attention_mask, "encoder_attention_mask"), self.dtype)

    def get_extended_attention_mask(
        self,
        attention_mask: Tensor,
        input_shape: Sequence[int],
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Do as `invert_attention_mask` does, and hide later positions too where config.is_decoder says so.

        Args:
            attention_mask: [B, S] or [B, T, S]; of the latter every position counts as given.
            input_shape: B and T.
            device: Where the result shall be; None leaves it where the mask is.
            dtype: Of the result; None is the model's.

        Returns:
            [B, 1, 1 or T, S]

        Raises:
            InputError: A mask of another number of dimensions.
        """
        mask = _over_heads(attention_mask, "attention_mask")  # [B, 1, 1 or T, S]
        if self.config.is_decoder and attention_mask.dim() == 2:
            mask = self.create_extended_attention_mask_for_decoder(input_shape, attention_mask)
        bias = self._bias(mask, self.dtype if dtype is None else dtype)
        return bias if device is None else bias.to(device)

    @staticmethod
    def create_extended_attention_mask_for_decoder(
        input_shape: Sequence[int], attention_mask: Tensor, device: torch.device | None = None
    ) -> Tensor:
        """Return ones where a query may see a position: not a later one, and not padding; [B, 1, T, S].

        Args:
            input_shape: B and T.
            attention_mask: Of past and new positions, [B, S].
            device: Where the result shall be; None leaves it where the mask is.
        """
        T, S = input_shape[1], attention_mask.size(1)
        sees = attention_mask.new_ones(T, S).tril(S - T)  # [T, S]
        mask = sees * attention_mask[:, None, None, :]  # [B, 1, T, S]
        return mask if device is None else mask.to(device)

    def get_head_mask(
        self, head_mask: Tensor | None, num_hidden_layers: int, is_attention_chunked: bool = False
    ) -> Tensor | list[None]:
        """Return factors on the attention weights for each layer.

        Args:
            head_mask: [H] for every layer, [L, H], or five dimensions already; None for no factors.
            num_hidden_layers: L.
            is_attention_chunked: Add one more dimension at the end.

        Returns:
            [L, 1, H, 1, 1], with another 1 if chunked; or a list of L times None.

        Raises:
            InputError: A mask of another number of dimensions.
        """
        if head_mask is None:
            return [None] * num_hidden_layers
        if head_mask.dim() == 1:
            head_mask = head_mask.expand(num_hidden_layers, -1)  # [L, H]
        if head_mask.dim() == 2:
            head_mask = head_mask[:, None, :, None, None]  # [L, 1, H, 1, 1]
        if head_mask.dim() != 5:
            raise InputError(
                f"head_mask should be [heads] or [layers, heads], and its shape is {list(head_mask.shape)}."
            )
        head_mask = head_mask.to(self.dtype)
        return head_mask.unsqueeze(-1) if is_attention_chunked else head_mask  # [L, 1, H, 1, 1, 1] if chunked

    @staticmethod
    def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn ones into 0, and zeros into the least number of a dtype."""
        return (1.0 - mask.to(dtype)) * torch.finfo(dtype).min

    # ------------------------------------------------------------------ estimates

    def estimate_tokens(self, input_dict: Mapping[str, Any]) -> int:
        """Count the tokens of a batch, padding included; 0 with a warning where there are no token ids.

        Args:
            input_dict: The arguments of a forward pass by name.
        """
        if self.main_input_name in input_dict:
            count: int = input_dict[self.main_input_name].numel()
            return count
        self._warn_once(
            f"There is no {self.main_input_name} in this batch, so its tokens and floating-point operations "
            "count as 0."
        )
        return 0

    def floating_point_ops(self, input_dict: Mapping[str, Any], exclude_embeddings: bool = True) -> int:
        """Estimate the floating-point operations of a forward and backward pass: 6 per weight and token.

        The products of queries and keys, which grow with the square of the length, are left out.

        Args:
            input_dict: The arguments of a forward pass by name.
            exclude_embeddings: Leave out the embeddings, which are looked up and not multiplied.

        Source:
            Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
        """
        weights = self.num_parameters(exclude_embeddings=exclude_embeddings)
        return _OPERATIONS * self.estimate_tokens(input_dict) * weights


def _over_heads(mask: Tensor, name: str) -> Tensor:
    """Return a mask [B, S] or [B, T, S] as [B, 1, 1 or T, S]."""
    if mask.dim() not in (2, 3):
        raise InputError(
            f"{name} should have the shape [batch, keys] or [batch, queries, keys], and it is "
            f"{list(mask.shape)}."
        )
    return mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]  # [B, 1, 1 or T, S]
