"""The loss of a language model: the mean cross-entropy of each next token.

Dimensions: B batch, T positions, V vocabulary (docs/shapes.md).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from gpt2kit.errors import InputError

__all__ = ["IGNORED_LABEL", "next_token_loss"]

# Labels of this value count for nothing; it is the default of torch's cross-entropy.
IGNORED_LABEL = -100


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of each next token, a scalar.

    Position t predicts the label at t + 1, and the last position predicts nothing. The labels are shifted
    rather than the logits, because moving [B, T, V] numbers would cost a copy of the largest tensor of all.

    Args:
        logits: [B, T, V]
        labels: [B, T]

    Raises:
        InputError: A label outside the vocabulary (only a CPU tells).
    """
    targets = F.pad(labels[..., 1:], (0, 1), value=IGNORED_LABEL).to(logits.device)  # [B, T]
    try:
        return F.cross_entropy(
            logits.view(-1, logits.size(-1)), targets.flatten(), ignore_index=IGNORED_LABEL
        )
    except IndexError:
        outside = targets[(targets != IGNORED_LABEL) & ((targets < 0) | (targets >= logits.size(-1)))]
        if outside.numel() == 0:
            raise
        raise InputError(
            f"labels holds {int(outside.flatten()[0])}, which is outside 0 to {logits.size(-1) - 1} "
            f"(vocab_size={logits.size(-1)}). Use {IGNORED_LABEL} for positions that shall not count."
        ) from None
