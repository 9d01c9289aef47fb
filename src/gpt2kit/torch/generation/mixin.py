"""Generation in PyTorch: `generate` of a language model.

`gpt2kit.generation.plan` decides, `prompt` brings the input into one form, `parts` makes a search of the
plan, and each way of decoding runs its loop; this file ties them together.
Dimensions: B prompts, T tokens of a prompt, n of a negative one.
"""

from __future__ import annotations

import inspect
import logging
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer, GenerationConfig, GenerationMode, GenerationPlan
from gpt2kit.generation.options import options_of
from gpt2kit.generation.order import end_tokens
from gpt2kit.torch.generation.assisted import assisted_generation
from gpt2kit.torch.generation.beams import beam_search
from gpt2kit.torch.generation.by_hand import SearchByHand
from gpt2kit.torch.generation.contrastive import contrastive_search
from gpt2kit.torch.generation.draft import check_assistant, drafter_of
from gpt2kit.torch.generation.logits import LogitsProcessorList
from gpt2kit.torch.generation.parts import criteria_of, plan_of, processors_of, record_of, refuse, warpers_of
from gpt2kit.torch.generation.processor import Setting
from gpt2kit.torch.generation.prompt import Prompt, make_prompt
from gpt2kit.torch.generation.search import Search, search, streaming
from gpt2kit.torch.generation.stopping import StoppingCriteriaList
from gpt2kit.torch.generation.transition import transition_scores

__all__ = [
    "RUNNER_OF",
    "GenerationMixin",
    "set_seed",
]

_logger = logging.getLogger(__name__)

# Arguments of `forward` that make no sense in a generation or that the loop sets itself.
_NOT_FOR_GENERATION = {
    "self",
    "labels",
    "mc_labels",
    "mc_token_ids",
    "return_dict",
    "logits_to_keep",
    "loss_chunk_size",
    "args",
    "kwargs",
}


def set_seed(seed: int) -> None:
    """Seed the random numbers of Python, NumPy and PyTorch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # of all devices


class GenerationMixin(SearchByHand):
    """Give a language model `generate`."""

    config: Any
    generation_config: GenerationConfig
    device: torch.device
    forward: Callable[..., Any]
    prepare_inputs_for_generation: Callable[..., dict[str, Any]]

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
        synced_gpus: bool | None = None,
        assistant_model: Any = None,
        streamer: BaseStreamer | None = None,
        negative_prompt_ids: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write on from a prompt.

        Args:
            inputs: The prompt's tokens, [B, T], padded on the left if at all; `input_ids` is another name.
                Without any, the text begins with `bos_token_id`.
            generation_config: The options; by default the model's own.
            logits_processor: Rules of the user's own, applied after those of the options.
            stopping_criteria: Reasons of the user's own to end the text.
            prefix_allowed_tokens_fn: (row, tokens so far) -> the ids that may follow.
            synced_gpus: Not there: a generation runs in one process.
            assistant_model: A smaller model of the same vocabulary, which drafts tokens for this one.
            streamer: Gets the prompt, then every token as it is made.
            negative_prompt_ids: What `guidance_scale` leads away from, [B, n]; by default the last token of
                the prompt.
            negative_prompt_attention_mask: 0 where that is padding, [B, n].
            **kwargs: Options that override `generation_config`; `tokenizer`, which `stop_strings` needs; and
                arguments of the model such as `attention_mask`, `inputs_embeds` or `past_key_values`.

        Returns:
            The prompts with their texts, [B * num_return_sequences, up to max_length]; or, with
            `return_dict_in_generate=True`, an output that holds them as `sequences`.

        Raises:
            InputError: what cannot be honoured, and what to do instead.
            LengthError: prompt and text together are longer than the model's positions.

        Example:
            >>> from gpt2kit import GPT2Config, GPT2LMHeadModel
            >>> config = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
            >>> model = GPT2LMHeadModel(config).eval()
            >>> model.generate(torch.tensor([[2, 3, 5]]), max_new_tokens=4, pad_token_id=0).shape
            torch.Size([1, 7])
        """
        with streaming(streamer):
            refuse(synced_gpus, "synced_gpus", "a generation runs in one process. Leave it out")
            tokenizer = kwargs.pop("tokenizer", None)
            config, model_kwargs = self._options(generation_config, kwargs)
            prompt = self._prompt(inputs, model_kwargs, config)
            negative = self._negative(negative_prompt_ids, negative_prompt_attention_mask, prompt)
            if assistant_model is not None:
                check_assistant(assistant_model, self)
            plan = plan_of(
                self,
                config,
                prompt,
                max_length_given=kwargs.get("max_length") is not None,
                prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
                assistant=assistant_model is not None,
                streaming=streamer is not None,
                prompts=prompt.ids.tolist() if config.constraints or config.force_words_ids else (),
                negative_positions=None if negative is None else negative.positions,
                n_layer=self.config.n_layer,
                tied=self.config.tie_word_embeddings,
            )
            setting = Setting(prompt.ids, self, negative, plan.use_cache)
            how = Search(
                max_length=plan.max_length,
                processors=processors_of(plan, setting, logits_processor or []),
                sampled=plan.sampled,
                criteria=criteria_of(plan, tokenizer, stopping_criteria or []),
                pad_token_id=plan.pad_token_id,
                use_cache=plan.use_cache,
                record=record_of(config),
                streamer=streamer,
                own_code=bool(logits_processor or stopping_criteria or prefix_allowed_tokens_fn),
                warpers=warpers_of(plan, setting),
                assistant=assistant_model,
                dola=plan.dola,
            )
            for text in plan.warnings:
                warnings.warn(text, UserWarning, stacklevel=3)  # of the caller, past torch's decorator
            for text in plan.remarks:
                _logger.warning(text)
            if streamer is not None:
                streamer.put(prompt.ids.cpu())
            return RUNNER_OF[plan.mode](self, prompt, how, plan)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: tuple[Tensor, ...],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
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
        known = set(inspect.signature(self.prepare_inputs_for_generation).parameters)
        if known & {"kwargs", "model_kwargs"}:
            known |= set(inspect.signature(self.forward).parameters)
        unknown = sorted(
            name
            for name, value in model_kwargs.items()
            if value is not None and name not in known - _NOT_FOR_GENERATION
        )
        if unknown:
            raise InputError(
                f"The following `model_kwargs` are not used by the model: {unknown} (typos in the options "
                "of a generation show up here too)."
            )

    def _prompt(
        self, inputs: Tensor | None, model_kwargs: dict[str, Any], config: GenerationConfig
    ) -> Prompt:
        return make_prompt(
            self,
            inputs,
            model_kwargs,
            bos_token_id=config.bos_token_id,
            pad_token_id=config.pad_token_id,
            eos_token_ids=end_tokens(config),
        )

    def _negative(self, ids: Tensor | None, mask: Tensor | None, prompt: Prompt) -> Prompt | None:
        """Return the negative prompt of guidance, checked as the prompt itself is."""
        if ids is None:
            refuse(mask, "negative_prompt_attention_mask", "negative_prompt_ids did not come")
            return None
        try:
            negative = make_prompt(self, ids, {"attention_mask": mask})
        except InputError as error:
            raise InputError(f"negative_prompt_ids: {error}") from None
        if len(negative.ids) != len(prompt.ids):
            raise InputError(
                f"negative_prompt_ids have {len(negative.ids)} row(s) and the prompt {len(prompt.ids)}; give "
                "one for each prompt."
            )
        return negative


def _token_by_token(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan) -> Any:
    """Run greedy search or sampling."""
    return search(model, prompt.repeat(plan.returns), how)


def _contrastive(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan) -> Any:
    """Run contrastive search."""
    assert plan.contrast is not None
    return contrastive_search(model, prompt, how, plan.contrast)


def _assisted(model: Any, prompt: Prompt, how: Search, plan: GenerationPlan) -> Any:
    """Run assisted decoding, with drafts of a model or of the text itself."""
    assert plan.assistance is not None
    return assisted_generation(model, prompt, how, drafter_of(plan.assistance, prompt, how, plan))


# What runs each way of decoding: (model, prompt, how, plan) -> tokens or an output.
RUNNER_OF: dict[GenerationMode, Callable[[Any, Prompt, Search, GenerationPlan], Any]] = {
    GenerationMode.GREEDY_SEARCH: _token_by_token,
    GenerationMode.SAMPLE: _token_by_token,
    GenerationMode.BEAM_SEARCH: beam_search,
    GenerationMode.BEAM_SAMPLE: beam_search,
    GenerationMode.GROUP_BEAM_SEARCH: beam_search,
    GenerationMode.CONSTRAINED_BEAM_SEARCH: beam_search,
    GenerationMode.CONTRASTIVE_SEARCH: _contrastive,
    GenerationMode.ASSISTED_GENERATION: _assisted,
}
