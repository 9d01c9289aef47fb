"""DoLa: what the last layer knows beyond an earlier one, as scores of the next token.

    scores(v) = log p_last(v) - log p_early(v)        for tokens at least a tenth as likely as the likeliest

The early layer is the one of the candidates whose prediction differs most from the last one's, by the
Jensen-Shannon divergence; it is chosen anew for each token, and for all rows together.
Dimensions: B rows of text, D n_embd, V vocabulary, C candidates.

Source:
    Chuang et al. 2023, "DoLa: Decoding by Contrasting Layers Improves Factuality", sections 2 and 3;
    transformers v4.46, generation/utils.py, for what the paper leaves open: early layers are read by the
    head alone, without the last layer norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrast_layers"]

_RELATIVE_TOP = 0.1  # tokens less likely than this times the likeliest are barred


def contrast_layers(model: Any, outputs: Any, layers: Sequence[int]) -> Tensor:
    """Return the scores of the next token, [B, V].

    Args:
        model: The language model, for its head.
        outputs: Of a call with hidden states.
        layers: Candidates for the early layer, C of them; 0 is the embeddings.
    """
    head = model.get_output_embeddings()
    exact = torch.promote_types(outputs.logits.dtype, torch.float32)
    last = outputs.logits[:, -1, :].to(exact)  # [B, V]
    early = torch.stack(
        [head(outputs.hidden_states[layer][:, -1, :]).to(exact) for layer in layers]
    )  # [C, B, V]
    baseline = early[0] if len(layers) == 1 else early[int(_divergence(last, early).argmax())]  # [B, V]
    mature, baseline = last.log_softmax(dim=-1), baseline.log_softmax(dim=-1)  # [B, V] each
    barred = mature < mature.amax(dim=-1, keepdim=True) + math.log(_RELATIVE_TOP)  # [B, V]
    return (mature - baseline).masked_fill(barred, -float("inf"))  # [B, V]


def _divergence(last: Tensor, early: Tensor) -> Tensor:
    """Return how much each early prediction [C, B, V] differs from the last one [B, V], as [C]."""
    mean = 0.5 * (last.softmax(dim=-1) + early.softmax(dim=-1))  # [C, B, V]
    of_last = F.kl_div(last.log_softmax(dim=-1).expand_as(mean), mean, reduction="none")  # [C, B, V]
    of_early = F.kl_div(early.log_softmax(dim=-1), mean, reduction="none")  # [C, B, V]
    return (0.5 * (of_last.mean(dim=-1) + of_early.mean(dim=-1))).mean(dim=-1)  # [C]
