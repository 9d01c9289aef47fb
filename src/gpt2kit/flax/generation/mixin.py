"""Generation in JAX: `generate` of a language model.

`gpt2kit.generation.plan` decides, `prompt` brings the input into one form and lays it out in buckets, `parts`
makes a search of the plan, and each way of decoding is one compiled program; this file ties them together.
Dimensions: B prompts, T tokens of a prompt.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from gpt2kit.errors import InputError
from gpt2kit.flax import tree
from gpt2kit.flax.generation.beams import beam_search
from gpt2kit.flax.generation.parts import (
    ends_of,
    plan_of,
    processors_of,
    refuse_mode,
    refuse_unserved,
    warpers_of,
)
from gpt2kit.flax.generation.processor import FlaxLogitsProcessorList
from gpt2kit.flax.generation.program import Programs
from gpt2kit.flax.generation.prompt import Prompt, is_traced, make_prompt
from gpt2kit.flax.generation.reader import Reader
from gpt2kit.flax.generation.search import Search, search
from gpt2kit.generation import GenerationConfig, GenerationMode, GenerationPlan
from gpt2kit.generation.options import options_of
from gpt2kit.generation.order import end_tokens

__all__ = ["RUNNER_OF", "FlaxGenerationMixin"]

_logger = logging.getLogger(__name__)

# Arguments of the model that a generation hands on to it.
_OF_THE_MODEL = (
    "attention_mask",
    "encoder_attention_mask",
    "encoder_hidden_states",
    "head_mask",
    "inputs_embeds",
    "position_ids",
    "token_type_ids",
)
# Arguments of `generate` in PyTorch that have no place in one compiled program, and the way out.
_ELSEWHERE = {
    "assistant_model": "one program runs one model. Leave it out, or use the PyTorch room",
    "negative_prompt_attention_mask": "guidance is in the PyTorch room",
    "negative_prompt_ids": "guidance is in the PyTorch room",
    "past_key_values": "the cache of a program begins with the prompt. Pass the whole text",
    "prefix_allowed_tokens_fn": (
        "a compiled program cannot ask a Python function at each step. Write a FlaxLogitsProcessor in "
        "jax.numpy and pass it in logits_processor, or use the PyTorch room"
    ),
    "stopping_criteria": "a compiled program asks nobody when to stop. Use eos_token_id and max_new_tokens",
    "streamer": "the tokens of a compiled program come all at once. Use the PyTorch room",
    "synced_gpus": "a generation runs in one process. Leave it out",
    "tokenizer": "a compiled program sees tokens, not text. Leave it out",
}


class FlaxGenerationMixin:
    """Give a language model `generate`."""

    config: Any
    module: Any
    params: Any
    _params_shape_tree: Any
    prepare_inputs_for_generation: Callable[..., dict[str, Any]]

    @property
    def generation_config(self) -> GenerationConfig:
        """Options of `generate` that a call does not give."""
        made: GenerationConfig | None = self.__dict__.get("_generation_config")
        if made is None:
            made = self.__dict__["_generation_config"] = GenerationConfig.from_model_config(self.config)
        return made

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self.__dict__["_generation_config"] = config

    @property
    def programs(self) -> Programs:
        """What was compiled for this model."""
        made: Programs = self.__dict__.setdefault("_programs", Programs())
        return made

    def generate(
        self,
        input_ids: Array,
        generation_config: GenerationConfig | None = None,
        prng_key: Array | None = None,
        trace: bool = True,
        params: dict[str, Any] | None = None,
        logits_processor: FlaxLogitsProcessorList | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write on from a prompt, by one compiled program.

        The next call compiles nothing if its batch, the bucket of its prompt and that of its length are the
        same, and the same rules apply; their numbers, the parameters and the key may be others. Within a
        program of the caller's the generation becomes a part of it, arrays get the lengths that are asked
        for, and the tokens of a row for which no token could be chosen are -1.

        Args:
            input_ids: The prompts, [B, T], padded on the left if at all. With None the text begins with
                `bos_token_id`.
            generation_config: The options; by default the model's own.
            prng_key: What sampling draws from; by default `jax.random.PRNGKey(0)`.
            trace: Whether the whole is compiled. Without, loop and rules run in Python, token by token, so
                that they can be looked at; only what reads the model is compiled.
            params: Parameters in place of the model's own.
            logits_processor: Rules of the user's own, applied after those of the options.
            **kwargs: Options that override `generation_config`, and arguments of the model such as
                `attention_mask`.

        Returns:
            An output with the prompts and their texts as `sequences`, [B * num_return_sequences, max_length],
            padding behind each end.

        Raises:
            InputError: what cannot be honoured, and what to do instead.
            LengthError: prompt and text together are longer than the model's positions.

        Example:
            >>> from gpt2kit import FlaxGPT2LMHeadModel, GPT2Config
            >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
            >>> model = FlaxGPT2LMHeadModel(config)
            >>> model.generate(jnp.array([[2, 3, 5]]), max_new_tokens=4, pad_token_id=0).sequences.shape
            (1, 7)
        """
        config, model_kwargs = self._options(generation_config, kwargs)
        refuse_mode(config)
        prompt = make_prompt(
            self,
            input_ids,
            model_kwargs,
            bos_token_id=config.bos_token_id,
            pad_token_id=config.pad_token_id,
            eos_token_ids=end_tokens(config),
        )
        plan = plan_of(self, config, prompt, max_length_given=kwargs.get("max_length") is not None)
        refuse_unserved(plan, config, prompt)
        params = self.params if params is None else tree.checked(params, self._params_shape_tree)
        key = _key(prng_key)
        exact = is_traced(params, prompt, key)
        laid, places, cache = prompt.laid_out(plan, exact)
        programs = None if trace or exact else self.programs
        how = Search(
            places=places,
            reader=Reader(self.module, cache, plan.use_cache, programs),
            ends=ends_of(plan),
            processors=processors_of(plan, laid, logits_processor or []),
            sampled=plan.sampled,
            params=params,
            prng_key=key,
            warpers=warpers_of(plan, laid),
            trace=trace,
        )
        for text in plan.warnings:
            warnings.warn(text, UserWarning, stacklevel=2)
        for text in plan.remarks:
            _logger.warning(text)
        return RUNNER_OF[plan.mode](self, _spread(laid, input_ids), how, plan)

    # ------------------------------------------------------------------ from arguments to a search

    def _options(
        self, generation_config: GenerationConfig | None, kwargs: dict[str, Any]
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Return the options of this call, and the arguments of the model among the keywords."""
        config, model_kwargs = options_of(self, generation_config, kwargs, stacklevel=4)
        self._check_model_kwargs(model_kwargs)
        config.validate()
        return config, model_kwargs

    def _check_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Refuse keywords that neither the options nor the model read."""
        given = [name for name, value in model_kwargs.items() if value is not None]
        for name in given:
            if name in _ELSEWHERE:
                raise InputError(f"In the Flax room `{name}` cannot be followed: {_ELSEWHERE[name]}.")
        unknown = sorted(set(given) - set(_OF_THE_MODEL))
        if unknown:
            raise InputError(
                f"The following `model_kwargs` are not used by the model: {unknown} (typos in the options "
                "of a generation show up here too)."
            )


def _key(prng_key: Any) -> Any:
    """Return what is drawn from; refuse what is no key."""
    if prng_key is None:
        return jax.random.PRNGKey(0)
    dtype = getattr(prng_key, "dtype", None)
    is_new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (is_new and prng_key.shape == ()) and not (dtype == jnp.uint32 and prng_key.shape == (2,)):
        raise InputError(f"prng_key has to be a key, jax.random.PRNGKey(seed), but is {prng_key!r}.")
    return prng_key


def _spread(prompt: Prompt, input_ids: Any) -> Prompt:
    """Return a prompt whose rows lie on the devices that the caller's rows were spread over."""
    if is_traced(prompt) or not isinstance(input_ids, Array):
        return prompt
    rows = input_ids.sharding
    if not isinstance(rows, NamedSharding) or not len(rows.spec) or rows.spec[0] is None:
        return prompt
    B = input_ids.shape[0]

    def spread(value: Any) -> Any:
        if not hasattr(value, "ndim") or value.ndim == 0 or value.shape[0] != B:
            return value
        return jax.device_put(value, NamedSharding(rows.mesh, PartitionSpec(rows.spec[0])))  # [B, ...]

    return Prompt(**{name: v if name == "head_mask" else spread(v) for name, v in vars(prompt).items()})


def _token_by_token(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan) -> Any:
    """Run greedy search or sampling."""
    return search(model, prompt, how, plan.returns)


# What runs each way of decoding: (model, prompt, how, plan) -> an output.
RUNNER_OF: dict[GenerationMode, Callable[[Any, Prompt, Search, GenerationPlan], Any]] = {
    GenerationMode.GREEDY_SEARCH: _token_by_token,
    GenerationMode.SAMPLE: _token_by_token,
    GenerationMode.BEAM_SEARCH: beam_search,
    GenerationMode.BEAM_SAMPLE: beam_search,
}
