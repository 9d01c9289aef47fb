"""A model of PyTorch for `gpt2kit generate`: loaded onto a device, and carrying out jobs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gpt2kit.checkpoint.read import FLAX_NAME, TF_NAME
from gpt2kit.cli.job import Job, Result
from gpt2kit.cli.printer import Clock
from gpt2kit.cli.weights import open_any
from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer, GenerationConfig, GenerationPlan
from gpt2kit.torch import GPT2LMHeadModel, set_seed
from gpt2kit.torch.generation.draft import check_assistant

__all__ = ["TorchRunner", "choose_device", "load", "open_model"]

# A model this small is read from the processor's own cache, where further threads gain nothing; and where
# other programs want the same cores they wait for each other: 20 instead of 300 tokens/s of 3M parameters.
ONE_THREAD_BELOW = 10_000_000  # parameters


@dataclass(frozen=True)
class TorchRunner:
    """A model, and the one that drafts for it if there is one."""

    model: GPT2LMHeadModel
    assistant: GPT2LMHeadModel | None = None

    @property
    def config(self) -> GPT2Config:
        """The model's configuration."""
        config: GPT2Config = self.model.config
        return config

    @property
    def generation_config(self) -> GenerationConfig:
        """The model's own options."""
        return self.model.generation_config

    def streams(self, plan: GenerationPlan) -> bool:
        """Tokens come one after the other, but no token of a beam is sure before the end."""
        return plan.beams is None

    @property
    def assisted(self) -> bool:
        """Whether another model drafts tokens for this one."""
        return self.assistant is not None

    def go_on(
        self,
        job: Job,
        *,
        tokenizer: Any,
        streamer: BaseStreamer | None,
        with_scores: bool,
        tell: Callable[[str], None],
    ) -> Result:
        """Generate the new tokens of every text, with the scores of a beam search where they are wanted."""
        negative = None if job.negative_ids is None else torch.tensor([job.negative_ids])  # [1, n]
        if job.seed is not None:
            set_seed(job.seed)
        prompt = torch.tensor([job.ids], device=self.model.device)  # [B, T]
        tell("writing")
        clock = Clock(streamer)
        start = clock.start = time.perf_counter()
        output = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),  # [B, T]
            generation_config=job.config,
            streamer=clock if self.streams(job.plan) else None,
            tokenizer=tokenizer,  # for stop strings
            assistant_model=self.assistant,
            negative_prompt_ids=None if negative is None else negative.to(prompt.device),
            return_dict_in_generate=True,
            output_scores=with_scores,
        )
        seconds = time.perf_counter() - start
        texts = [row[len(job.ids) :] for row in output.sequences.tolist()]
        scores = output.sequences_scores.tolist() if with_scores else None
        drafts = (output.drafted, output.accepted) if job.plan.assistance is not None else (None, None)
        return Result(texts, seconds, clock.first or seconds, scores, *drafts)


def load(name: str, *, revision: str, device: str, dtype: str, assistant: str | None) -> TorchRunner:
    """Load a folder or a hub name onto a device, and the model that drafts for it, if one is named."""
    target = choose_device(device)
    kind = getattr(torch, dtype)
    model = open_model(name, revision, kind).to(target).eval()
    draft = None
    if assistant is not None:
        draft = open_model(assistant, "main", kind).to(target).eval()
        check_assistant(draft, model)
    if model.num_parameters() < ONE_THREAD_BELOW:
        torch.set_num_threads(1)
    return TorchRunner(model, draft)


def open_model(name: str, revision: str, dtype: torch.dtype) -> GPT2LMHeadModel:
    """Load a folder or a hub name, in whichever format its weights are."""
    load = functools.partial(GPT2LMHeadModel.from_pretrained, name, revision=revision, torch_dtype=dtype)
    model: GPT2LMHeadModel = open_any(load, name, revision, {FLAX_NAME: "from_flax", TF_NAME: "from_tf"})
    return model


def choose_device(name: str) -> torch.device:
    """Return the device of a name, or say which there are.

    Raises:
        InputError: PyTorch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name not in there and not (name == "cuda" and len(there) > 1 and there[1] == "cuda:0"):
        raise InputError(
            f"This machine has no device {name!r}; it has {', '.join(there)}. Or leave --device out."
        )
    return torch.device(name)
