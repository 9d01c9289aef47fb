"""GPT-2 in PyTorch."""

from __future__ import annotations

from gpt2kit.errors import MissingDependencyError

try:
    import torch as _torch  # noqa: F401  # only to know that it is there
except ModuleNotFoundError as _error:
    if _error.name != "torch":
        raise
    raise MissingDependencyError(
        "This part of gpt2kit needs PyTorch, which is not installed: pip install 'gpt2kit[torch]'"
    ) from None

from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.generation import set_seed
from gpt2kit.torch.heads import GPT2LMHeadModel
from gpt2kit.torch.logits import LogitsProcessor, LogitsProcessorList
from gpt2kit.torch.model import GPT2Model
from gpt2kit.torch.pretrained import GPT2PreTrainedModel
from gpt2kit.torch.stopping import StoppingCriteria, StoppingCriteriaList

__all__ = [
    "GPT2Cache",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2PreTrainedModel",
    "LogitsProcessor",
    "LogitsProcessorList",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "set_seed",
]
