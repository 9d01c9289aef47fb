"""GPT-2 in PyTorch."""

from __future__ import annotations

from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.model import GPT2Model
from gpt2kit.torch.pretrained import GPT2PreTrainedModel

__all__ = ["GPT2Cache", "GPT2Model", "GPT2PreTrainedModel"]
