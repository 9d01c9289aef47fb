from gpt2kit.config import GPT2Config
from gpt2kit.generation import GenerationConfig, TextIteratorStreamer, TextStreamer
from gpt2kit.outputs import ModelOutput
from gpt2kit.tokenization import AddedToken, AutoTokenizer, BatchEncoding, GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.torch import (
    GPT2LMHeadModel,
    GPT2Model,
    GPT2PreTrainedModel,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    set_seed,
)

__all__ = [
    "AddedToken",
    "AutoTokenizer",
    "BatchEncoding",
    "GPT2Config",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2PreTrainedModel",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "GenerationConfig",
    "LogitsProcessor",
    "LogitsProcessorList",
    "ModelOutput",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TextIteratorStreamer",
    "TextStreamer",
    "__version__",
    "set_seed",
]

__version__: str
