"""GPT-2, complete: configuration, tokenizers, models, generation and training in one small library.

`import gpt2kit` imports no framework. A public name is looked up in the table below and its module is
imported when the name is first used (PEP 562), so `gpt2kit.GPT2Tokenizer` never costs a `import torch`.
`__init__.pyi` beside this file tells type checkers the same names.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# The one list of public names: module -> what users import from gpt2kit.
_PUBLIC: dict[str, tuple[str, ...]] = {
    "gpt2kit.config": ("AutoConfig", "GPT2Config"),
    "gpt2kit.outputs": ("ModelOutput",),
    "gpt2kit.tokenization": (
        "AddedToken",
        "AutoTokenizer",
        "BatchEncoding",
        "GPT2Tokenizer",
        "GPT2TokenizerFast",
    ),
    "gpt2kit.evaluation": ("Likelihood", "TextScore"),
    "gpt2kit.generation": (
        "AsyncTextIteratorStreamer",
        "BaseStreamer",
        "Constraint",
        "ConstraintListState",
        "DisjunctiveConstraint",
        "GenerationConfig",
        "PhrasalConstraint",
        "TextIteratorStreamer",
        "TextStreamer",
    ),
    "gpt2kit.flax": (
        "FlaxBaseModelOutputWithPastAndCrossAttentions",
        "FlaxBeamSearchOutput",
        "FlaxCausalLMOutputWithCrossAttentions",
        "FlaxEncoderRepetitionPenaltyLogitsProcessor",
        "FlaxEpsilonLogitsWarper",
        "FlaxEtaLogitsWarper",
        "FlaxExponentialDecayLengthPenalty",
        "FlaxForceTokensLogitsProcessor",
        "FlaxForcedBOSTokenLogitsProcessor",
        "FlaxForcedEOSTokenLogitsProcessor",
        "FlaxGPT2LMHeadModel",
        "FlaxGPT2Model",
        "FlaxGPT2PreTrainedModel",
        "FlaxGenerationMixin",
        "FlaxGreedySearchOutput",
        "FlaxInfNanRemoveLogitsProcessor",
        "FlaxLogitNormalization",
        "FlaxLogitsProcessor",
        "FlaxLogitsProcessorList",
        "FlaxLogitsWarper",
        "FlaxMinLengthLogitsProcessor",
        "FlaxMinNewTokensLengthLogitsProcessor",
        "FlaxMinPLogitsWarper",
        "FlaxNoBadWordsLogitsProcessor",
        "FlaxNoRepeatNGramLogitsProcessor",
        "FlaxRepetitionPenaltyLogitsProcessor",
        "FlaxSampleOutput",
        "FlaxSequenceBiasLogitsProcessor",
        "FlaxSuppressTokensAtBeginLogitsProcessor",
        "FlaxSuppressTokensLogitsProcessor",
        "FlaxTemperatureLogitsWarper",
        "FlaxTopKLogitsWarper",
        "FlaxTopPLogitsWarper",
        "FlaxTypicalLogitsWarper",
    ),
    "gpt2kit.tensorflow": (
        "TFBaseModelOutputWithPastAndCrossAttentions",
        "TFBeamSampleDecoderOnlyOutput",
        "TFBeamSearchDecoderOnlyOutput",
        "TFCausalLMOutputWithCrossAttentions",
        "TFContrastiveSearchDecoderOnlyOutput",
        "TFEncoderRepetitionPenaltyLogitsProcessor",
        "TFEpsilonLogitsWarper",
        "TFEtaLogitsWarper",
        "TFExponentialDecayLengthPenalty",
        "TFForceTokensLogitsProcessor",
        "TFForcedBOSTokenLogitsProcessor",
        "TFForcedEOSTokenLogitsProcessor",
        "TFGPT2DoubleHeadsModel",
        "TFGPT2DoubleHeadsModelOutput",
        "TFGPT2ForSequenceClassification",
        "TFGPT2LMHeadModel",
        "TFGPT2MainLayer",
        "TFGPT2Model",
        "TFGPT2PreTrainedModel",
        "TFGPT2Tokenizer",
        "TFGenerationMixin",
        "TFGreedySearchDecoderOnlyOutput",
        "TFInfNanRemoveLogitsProcessor",
        "TFLogitNormalization",
        "TFLogitsProcessor",
        "TFLogitsProcessorList",
        "TFLogitsWarper",
        "TFMinLengthLogitsProcessor",
        "TFMinNewTokensLengthLogitsProcessor",
        "TFMinPLogitsWarper",
        "TFNoBadWordsLogitsProcessor",
        "TFNoRepeatNGramLogitsProcessor",
        "TFRepetitionPenaltyLogitsProcessor",
        "TFSampleDecoderOnlyOutput",
        "TFSequenceBiasLogitsProcessor",
        "TFSequenceClassifierOutputWithPast",
        "TFSuppressTokensAtBeginLogitsProcessor",
        "TFSuppressTokensLogitsProcessor",
        "TFTemperatureLogitsWarper",
        "TFTopKLogitsWarper",
        "TFTopPLogitsWarper",
        "TFTypicalLogitsWarper",
    ),
    "gpt2kit.torch": (
        "AssistedDecoderOnlyOutput",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForQuestionAnswering",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
        "BaseModelOutputWithPastAndCrossAttentions",
        "BeamSampleDecoderOnlyOutput",
        "BeamScorer",
        "BeamSearchDecoderOnlyOutput",
        "BeamSearchScorer",
        "CausalLMOutputWithCrossAttentions",
        "ConstrainedBeamSearchScorer",
        "ContrastiveSearchDecoderOnlyOutput",
        "EncoderNoRepeatNGramLogitsProcessor",
        "EncoderRepetitionPenaltyLogitsProcessor",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "ExponentialDecayLengthPenalty",
        "ForceTokensLogitsProcessor",
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "GPT2DoubleHeadsModel",
        "GPT2DoubleHeadsModelOutput",
        "GPT2ForQuestionAnswering",
        "GPT2ForSequenceClassification",
        "GPT2ForTokenClassification",
        "GPT2LMHeadModel",
        "GPT2Model",
        "GPT2PreTrainedModel",
        "GenerationMixin",
        "GreedySearchDecoderOnlyOutput",
        "HammingDiversityLogitsProcessor",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
        "LogitsProcessor",
        "LogitsProcessorList",
        "LogitsWarper",
        "MaxLengthCriteria",
        "MaxTimeCriteria",
        "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "MinPLogitsWarper",
        "NoBadWordsLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "PrefixConstrainedLogitsProcessor",
        "QuestionAnsweringModelOutput",
        "RepetitionPenaltyLogitsProcessor",
        "SampleDecoderOnlyOutput",
        "SequenceBiasLogitsProcessor",
        "SequenceClassifierOutputWithPast",
        "SequenceSummary",
        "StopStringCriteria",
        "StoppingCriteria",
        "StoppingCriteriaList",
        "SuppressTokensAtBeginLogitsProcessor",
        "SuppressTokensLogitsProcessor",
        "TemperatureLogitsWarper",
        "TokenClassifierOutput",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TypicalLogitsWarper",
        "UnbatchedClassifierFreeGuidanceLogitsProcessor",
        "set_seed",
        "top_k_top_p_filtering",
    ),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name and return that name from it."""
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module 'gpt2kit' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names without importing what they stand for."""
    return sorted([*globals(), *_MODULE_OF])
