"""Generation in TensorFlow: `generate` of a language model.

`gpt2kit.generation.plan` decides, `prompt` brings the input into one form, `parts` makes a search of the
plan, and each way of decoding runs its loop: step by step, as a part of the caller's graph, or as a program
of its own; this file ties them together.
Dimensions: B prompts, T tokens of a prompt.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.errors import InputError
from gpt2kit.generation import GenerationConfig, GenerationMode, GenerationPlan
from gpt2kit.generation.options import options_of
from gpt2kit.generation.order import end_tokens
from gpt2kit.tensorflow.generation.beams import beam_search
from gpt2kit.tensorflow.generation.bucket import bucket
from gpt2kit.tensorflow.generation.choice import seed_of
from gpt2kit.tensorflow.generation.compiled import compiled_search
from gpt2kit.tensorflow.generation.contrastive import contrastive_search
from gpt2kit.tensorflow.generation.parts import (
    plan_of,
    processors_of,
    refuse_in_graph,
    refuse_mode,
    refuse_unserved,
    warpers_of,
)
from gpt2kit.tensorflow.generation.processor import TFLogitsProcessorList
from gpt2kit.tensorflow.generation.program import Programs
from gpt2kit.tensorflow.generation.prompt import Prompt, make_prompt
from gpt2kit.tensorflow.generation.record import record_of
from gpt2kit.tensorflow.generation.search import Search, search
from gpt2kit.tensorflow.generation.stream import check_streamer, pays, stream
from gpt2kit.tensorflow.generation.transition import transition_scores

__all__ = ["RUNNER_OF", "TFGenerationMixin"]

_logger = logging.getLogger(__name__)

# Arguments of the model that a generation hands on to it.
_OF_THE_MODEL = (
    "attention_mask",
    "encoder_attention_mask",
    "encoder_hidden_states",
    "head_mask",
    "input_ids",
    "inputs_embeds",
    "past_key_values",
    "position_ids",
    "token_type_ids",
)
# Arguments of `generate` in PyTorch that this room does not have, and the way out.
_ELSEWHERE = {
    "assistant_model": "one model runs. Leave it out, or use the PyTorch room",
    "negative_prompt_attention_mask": "guidance is in the PyTorch room",
    "negative_prompt_ids": "guidance is in the PyTorch room",
    "prefix_allowed_tokens_fn": (
        "a compiled program cannot ask a Python function at each step. Write a TFLogitsProcessor of "
        "TensorFlow's operations and pass it in logits_processor, or use the PyTorch room"
    ),
    "stopping_criteria": "a compiled program asks nobody when to stop. Use eos_token_id and max_new_tokens",
    "synced_gpus": "a generation runs in one process. Leave it out",
    "tokenizer": "a search sees tokens, not text. Leave it out",
}


class TFGenerationMixin:
    """Give a language model `generate`."""

    config: Any
    generation_config: GenerationConfig

    @property
    def programs(self) -> Programs:
        """What `generate(..., jit_compile=True)` has compiled for this model."""
        made: Programs = self.__dict__.setdefault("_programs", Programs())
        return made

    @tf.autograph.experimental.do_not_convert
    def generate(
        self,
        inputs: Any = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: TFLogitsProcessorList | None = None,
        seed: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Write on from a prompt.

        As it stands, the loop runs in Python, token by token; where 16 tokens or more are asked for and
        nothing else is kept, a step of it is a graph, which the model keeps. With `jit_compile=True` it
        is one program that XLA compiles: the next call compiles nothing if its batch, the bucket of its
        prompt and that of its length are the same, and the same rules apply; their numbers and the seed may
        be others. Within a tf.function of the caller's the generation becomes a part of it, arrays get the
        lengths that are asked for, texts are `max_length` long, and the tokens of a row for which none could
        be chosen are -1.

        Args:
            inputs: The prompts, [B, T], padded on the left if at all; `input_ids` is another name. Without
                any, the text begins with `bos_token_id`.
            generation_config: The options; by default the model's own.
            logits_processor: Rules of the user's own, applied after those of the options.
            seed: Two integers that sampling draws from; by default TensorFlow's own state decides, which
                `tf.random.set_seed` sets.
            **kwargs: Options that override `generation_config`; `jit_compile`; `streamer`, which gets the
                prompt and then every token as it is made; and arguments of the model such as
                `attention_mask`.

        Returns:
            The prompts with their texts, [B * num_return_sequences, up to max_length]; or, with
            `return_dict_in_generate=True`, an output that holds them as `sequences`.

        Raises:
            InputError: what cannot be honoured, and what to do instead.
            LengthError: prompt and text together are longer than the model's positions.

        Example:
            >>> from gpt2kit import GPT2Config, TFGPT2LMHeadModel
            >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
            >>> model = TFGPT2LMHeadModel(config)
            >>> model.generate([[2, 3, 5]], max_new_tokens=4, pad_token_id=0).shape
            TensorShape([1, 7])
        """
        jit_compile = kwargs.pop("jit_compile", False)
        if not isinstance(jit_compile, bool):
            raise InputError(f"jit_compile has to be True or False, but is {jit_compile!r}.")
        streamer = kwargs.pop("streamer", None)
        config, model_kwargs = self._options(generation_config, kwargs)
        refuse_mode(config)
        prompt = make_prompt(
            self,
            inputs,
            model_kwargs,
            bos_token_id=config.bos_token_id,
            pad_token_id=config.pad_token_id,
            eos_token_ids=end_tokens(config),
        )
        plan = plan_of(self, config, prompt, max_length_given=kwargs.get("max_length") is not None)
        refuse_unserved(plan, config, prompt)
        compiled = jit_compile or not tf.executing_eagerly()
        if streamer is not None:
            check_streamer(streamer, config, prompt, plan, compiled)
        if compiled:
            refuse_in_graph(config, prompt)
        tokens = bucket(prompt.length, plan.n_positions) if compiled and tf.executing_eagerly() else 0
        seen = prompt.laid_out(tokens, 0, 0)  # by rules that look at it
        how = Search(
            max_length=plan.max_length,
            processors=processors_of(plan, seen, logits_processor or []),
            warpers=warpers_of(plan, seen),
            sampled=plan.sampled,
            seed=seed_of(seed),
            pad_token_id=plan.pad_token_id,
            eos_token_ids=np.array(plan.eos_token_ids, np.int32),  # [n]
            use_cache=plan.use_cache,
            record=record_of(config),
        )
        for text in plan.warnings:
            warnings.warn(text, UserWarning, stacklevel=3)  # of the caller, past the decorator
        for text in plan.remarks:
            _logger.warning(text)
        if streamer is not None:
            return stream(self, prompt, how, plan, streamer)
        return RUNNER_OF[plan.mode](self, prompt, how, plan, compiled)

    def compute_transition_scores(
        self,
        sequences: Any,
        scores: Any,
        beam_indices: Any = None,
        normalize_logits: bool = False,
    ) -> tf.Tensor:
        """Return the score of each token that a generation chose, [B, new tokens].

        Args:
            sequences: The texts, [B, T + new].
            scores: What `output_scores=True` returned.
            beam_indices: Of a beam search, as it was returned: the row of each step that a text went through.
            normalize_logits: Return log-probabilities, where scores are what the model and the rules gave.

        Raises:
            InputError: scores that were not kept, or not those of these texts.
        """
        return transition_scores(sequences, scores, beam_indices, normalize_logits)

    # ------------------------------------------------------------------ from arguments to a search

    def _options(
        self, generation_config: GenerationConfig | None, kwargs: dict[str, Any]
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Return the options of this call, and the arguments of the model among the keywords."""
        config, model_kwargs = options_of(self, generation_config, kwargs, stacklevel=5)
        self._check_model_kwargs(model_kwargs)
        config.validate()
        return config, model_kwargs

    def _check_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Refuse keywords that neither the options nor the model read."""
        given = [name for name, value in model_kwargs.items() if value is not None]
        for name in given:
            if name in _ELSEWHERE:
                raise InputError(f"In the TensorFlow room `{name}` cannot be followed: {_ELSEWHERE[name]}.")
        unknown = sorted(set(given) - set(_OF_THE_MODEL))
        if unknown:
            raise InputError(
                f"The following `model_kwargs` are not used by the model: {unknown} (typos in the options "
                "of a generation show up here too)."
            )


def _token_by_token(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan, compiled: bool) -> Any:
    """Run greedy search or sampling."""
    if compiled:
        return compiled_search(model, prompt, how, plan)
    if pays(prompt, how, plan):
        return stream(model, prompt, how, plan)
    return search(model, prompt.repeat(plan.returns), how)


# What runs each way of decoding: (model, prompt, how, plan, compiled) -> tokens or an output.
RUNNER_OF: dict[GenerationMode, Callable[[Any, Prompt, Search, GenerationPlan, bool], Any]] = {
    GenerationMode.GREEDY_SEARCH: _token_by_token,
    GenerationMode.SAMPLE: _token_by_token,
    GenerationMode.BEAM_SEARCH: beam_search,
    GenerationMode.BEAM_SAMPLE: beam_search,
    GenerationMode.CONTRASTIVE_SEARCH: contrastive_search,
}
