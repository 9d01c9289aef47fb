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

from gpt2kit.torch.answering import GPT2ForQuestionAnswering
from gpt2kit.torch.auto import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from gpt2kit.torch.cache import GPT2Cache
from gpt2kit.torch.classification import GPT2ForSequenceClassification, GPT2ForTokenClassification
from gpt2kit.torch.double import GPT2DoubleHeadsModel
from gpt2kit.torch.generation import GenerationMixin, set_seed
from gpt2kit.torch.generation.assisted import AssistedDecoderOnlyOutput
from gpt2kit.torch.generation.contrastive import ContrastiveSearchDecoderOnlyOutput
from gpt2kit.torch.generation.logits import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    ForceTokensLogitsProcessor,
    HammingDiversityLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from gpt2kit.torch.generation.record import (
    BeamSampleDecoderOnlyOutput,
    BeamSearchDecoderOnlyOutput,
    GreedySearchDecoderOnlyOutput,
    SampleDecoderOnlyOutput,
)
from gpt2kit.torch.generation.scorer import BeamScorer, BeamSearchScorer, ConstrainedBeamSearchScorer
from gpt2kit.torch.generation.stopping import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)
from gpt2kit.torch.generation.warpers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    top_k_top_p_filtering,
)
from gpt2kit.torch.heads import GPT2LMHeadModel
from gpt2kit.torch.model import GPT2Model
from gpt2kit.torch.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    GPT2DoubleHeadsModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from gpt2kit.torch.pretrained import GPT2PreTrainedModel
from gpt2kit.torch.summary import SequenceSummary

__all__ = [
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
    "EosTokenCriteria",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "ExponentialDecayLengthPenalty",
    "ForceTokensLogitsProcessor",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "GPT2Cache",
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
]
