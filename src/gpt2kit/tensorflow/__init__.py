"""GPT-2 in TensorFlow and Keras 3."""

from __future__ import annotations

from gpt2kit.errors import MissingDependencyError
from gpt2kit.tensorflow.noise import start_quietly

try:
    start_quietly()
except ModuleNotFoundError as _error:
    if _error.name != "tensorflow":
        raise
    raise MissingDependencyError(
        "This part of gpt2kit needs TensorFlow, which is not installed: pip install 'gpt2kit[tensorflow]'"
    ) from None

try:
    import keras as _keras

    _backend = _keras.backend.backend()
except ModuleNotFoundError as _error:  # of a framework that Keras is told to compute with
    _backend = f"nothing ({_error})"
if _backend != "tensorflow":
    raise MissingDependencyError(
        f"This part of gpt2kit needs Keras on TensorFlow, and Keras computes with {_backend} here. Set "
        "KERAS_BACKEND=tensorflow before Keras is imported first."
    )

from gpt2kit.tensorflow.classification import TFGPT2ForSequenceClassification
from gpt2kit.tensorflow.double import TFGPT2DoubleHeadsModel
from gpt2kit.tensorflow.generation.logits import (
    TFEncoderRepetitionPenaltyLogitsProcessor,
    TFEpsilonLogitsWarper,
    TFEtaLogitsWarper,
    TFExponentialDecayLengthPenalty,
    TFForcedBOSTokenLogitsProcessor,
    TFForcedEOSTokenLogitsProcessor,
    TFForceTokensLogitsProcessor,
    TFInfNanRemoveLogitsProcessor,
    TFLogitNormalization,
    TFLogitsProcessor,
    TFLogitsProcessorList,
    TFLogitsWarper,
    TFMinLengthLogitsProcessor,
    TFMinNewTokensLengthLogitsProcessor,
    TFMinPLogitsWarper,
    TFNoBadWordsLogitsProcessor,
    TFNoRepeatNGramLogitsProcessor,
    TFRepetitionPenaltyLogitsProcessor,
    TFSequenceBiasLogitsProcessor,
    TFSuppressTokensAtBeginLogitsProcessor,
    TFSuppressTokensLogitsProcessor,
    TFTemperatureLogitsWarper,
    TFTopKLogitsWarper,
    TFTopPLogitsWarper,
    TFTypicalLogitsWarper,
)
from gpt2kit.tensorflow.generation.mixin import TFGenerationMixin
from gpt2kit.tensorflow.generation.record import (
    TFBeamSampleDecoderOnlyOutput,
    TFBeamSearchDecoderOnlyOutput,
    TFContrastiveSearchDecoderOnlyOutput,
    TFGreedySearchDecoderOnlyOutput,
    TFSampleDecoderOnlyOutput,
)
from gpt2kit.tensorflow.heads import TFGPT2LMHeadModel
from gpt2kit.tensorflow.model import TFGPT2MainLayer, TFGPT2Model
from gpt2kit.tensorflow.outputs import (
    TFBaseModelOutputWithPastAndCrossAttentions,
    TFCausalLMOutputWithCrossAttentions,
    TFGPT2DoubleHeadsModelOutput,
    TFSequenceClassifierOutputWithPast,
)
from gpt2kit.tensorflow.pretrained import TFGPT2PreTrainedModel
from gpt2kit.tensorflow.tokenizer import TFGPT2Tokenizer

__all__ = [
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
]
