"""A model of TensorFlow for `gpt2kit generate`: loaded onto a device, and carrying out jobs.

A command writes one text and ends, so nothing pays for XLA's compilation, which takes as long as the text. A
text that comes token by token is read by a graph of one step; one that comes at once is a graph as a whole.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.checkpoint.read import BIN_NAME, FLAX_NAME
from gpt2kit.cli.interrupt import interruptible
from gpt2kit.cli.job import Job, Result
from gpt2kit.cli.printer import Clock
from gpt2kit.cli.refusal import refusals_of_the_command
from gpt2kit.cli.tensorflow.device import choose_device, place
from gpt2kit.cli.weights import open_any
from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer, GenerationConfig, GenerationMode, GenerationPlan
from gpt2kit.tensorflow import TFGPT2LMHeadModel
from gpt2kit.tensorflow.generation.parts import ELSEWHERE

__all__ = ["TensorFlowRunner", "load"]

_STREAMED = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)


@dataclass(frozen=True)
class TensorFlowRunner:
    """A model with its weights on a device."""

    model: TFGPT2LMHeadModel
    device: str

    @property
    def config(self) -> GPT2Config:
        """The model's configuration."""
        config: GPT2Config = self.model.config
        return config

    @property
    def generation_config(self) -> GenerationConfig:
        """The model's own options."""
        config: GenerationConfig = self.model.generation_config
        return config

    def streams(self, plan: GenerationPlan) -> bool:
        """Tokens come one after the other where each is sure when it is chosen."""
        return plan.mode in _STREAMED

    @property
    def assisted(self) -> bool:
        """No other model drafts tokens (`load`)."""
        return False

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
        if job.negative_ids is not None:
            raise InputError("--negative-prompt is for guidance, and --framework torch has that.")
        tell("writing")
        clock = Clock(streamer)
        streamed = self.streams(job.plan)
        start = clock.start = time.perf_counter()
        write = functools.partial(self.generate, job, clock if streamed else None)
        with refusals_of_the_command("TensorFlow", ELSEWHERE):
            output = write() if streamed else interruptible(write)
        seconds = time.perf_counter() - start
        texts = [row[len(job.ids) :] for row in output.sequences.numpy().tolist()]
        scores = output.sequences_scores.numpy().tolist() if with_scores else None
        return Result(texts, seconds, clock.first if streamed else None, scores)

    def generate(self, job: Job, clock: Clock | None) -> Any:
        """Return the output of the model's `generate`."""
        prompt = np.array([job.ids], np.int32)  # [B, T]
        high, low = divmod(job.seed or 0, 2**16)
        how: dict[str, Any] = {"jit_compile": True} if clock is None else {"streamer": clock}
        with tf.device(place(self.device)):
            return self.model.generate(
                prompt,
                attention_mask=np.ones_like(prompt),  # [B, T]
                generation_config=job.config,
                seed=[low, high],
                return_dict_in_generate=True,
                **how,
            )


def load(name: str, *, revision: str, device: str, dtype: str, assistant: str | None) -> TensorFlowRunner:
    """Load a folder or a hub name onto a device.

    Raises:
        InputError: No such device, or a model that would draft tokens.
    """
    if assistant is not None:
        raise InputError(
            "--assistant-model cannot be used with --framework tensorflow, where one model runs. Leave it "
            "out, or pass --framework torch."
        )
    target = choose_device(device)
    opened = functools.partial(TFGPT2LMHeadModel.from_pretrained, name, revision=revision, dtype=dtype)
    with tf.device(place(target)):
        model = open_any(opened, name, revision, {BIN_NAME: "from_pt", FLAX_NAME: "from_flax"})
    model.programs.jit_compile = False
    return TensorFlowRunner(model, target)
