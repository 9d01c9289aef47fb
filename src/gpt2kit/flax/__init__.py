"""GPT-2 in JAX and Flax (Linen)."""

from __future__ import annotations

from gpt2kit.errors import MissingDependencyError

try:
    import flax as _flax  # noqa: F401  # only to know that they are there
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as _error:
    _missing = _error.name or getattr(_error.__cause__, "name", None)  # jax tells of jaxlib in its own words
    if _missing not in ("flax", "jax", "jaxlib"):
        raise
    raise MissingDependencyError(
        "This part of gpt2kit needs JAX and Flax, which are not installed: pip install 'gpt2kit[flax]'"
    ) from None

from gpt2kit.flax.generation.logits import (
    FlaxEncoderRepetitionPenaltyLogitsProcessor,
    FlaxExponentialDecayLengthPenalty,
    FlaxForcedBOSTokenLogitsProcessor,
    FlaxForcedEOSTokenLogitsProcessor,
    FlaxForceTokensLogitsProcessor,
    FlaxInfNanRemoveLogitsProcessor,
    FlaxLogitNormalization,
    FlaxMinLengthLogitsProcessor,
    FlaxMinNewTokensLengthLogitsProcessor,
    FlaxNoBadWordsLogitsProcessor,
    FlaxRepetitionPenaltyLogitsProcessor,
    FlaxSequenceBiasLogitsProcessor,
    FlaxSuppressTokensAtBeginLogitsProcessor,
    FlaxSuppressTokensLogitsProcessor,
)
from gpt2kit.flax.generation.mixin import FlaxGenerationMixin
from gpt2kit.flax.generation.ngram import FlaxNoRepeatNGramLogitsProcessor
from gpt2kit.flax.generation.processor import FlaxLogitsProcessor, FlaxLogitsProcessorList, FlaxLogitsWarper
from gpt2kit.flax.generation.record import FlaxBeamSearchOutput, FlaxGreedySearchOutput, FlaxSampleOutput
from gpt2kit.flax.generation.warpers import (
    FlaxEpsilonLogitsWarper,
    FlaxEtaLogitsWarper,
    FlaxMinPLogitsWarper,
    FlaxTemperatureLogitsWarper,
    FlaxTopKLogitsWarper,
    FlaxTopPLogitsWarper,
    FlaxTypicalLogitsWarper,
)
from gpt2kit.flax.heads import FlaxGPT2LMHeadModel
from gpt2kit.flax.model import FlaxGPT2Model
from gpt2kit.flax.outputs import (
    FlaxBaseModelOutputWithPastAndCrossAttentions,
    FlaxCausalLMOutputWithCrossAttentions,
)
from gpt2kit.flax.pretrained import FlaxGPT2PreTrainedModel

__all__ = [
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
]
