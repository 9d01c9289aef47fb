"""GPT-2 in PyTorch."""

from __future__ import annotations

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
