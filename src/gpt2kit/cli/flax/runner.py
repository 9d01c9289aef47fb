"""A model of Flax for `gpt2kit generate`: loaded onto a device, and carrying out jobs.

A text is one compiled program, so all of its tokens come at once, after the compilation.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt2kit.checkpoint.read import BIN_NAME, TF_NAME
from gpt2kit.cli.flax.device import choose_device
from gpt2kit.cli.flax.programs import Stopwatch, dropping_broken, open_cache
from gpt2kit.cli.interrupt import interruptible
from gpt2kit.cli.job import Job, Result
from gpt2kit.cli.refusal import refusals_of_the_command
from gpt2kit.cli.weights import open_any
from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.flax import FlaxGPT2LMHeadModel
from gpt2kit.flax.generation.parts import ELSEWHERE
from gpt2kit.generation import BaseStreamer, GenerationConfig, GenerationPlan

__all__ = ["FlaxRunner", "load"]


@dataclass(frozen=True)
class FlaxRunner:
    """A model with its parameters on a device."""

    model: FlaxGPT2LMHeadModel

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
        """All tokens come at once."""
        return False

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
        watch = Stopwatch(tell)
        prompt = np.array([job.ids], np.int32)  # [B, T]
        start = time.perf_counter()

        def generate() -> tuple[list[list[int]], list[float] | None]:
            output = self.model.generate(
                prompt,
                attention_mask=np.ones_like(prompt),  # [B, T]
                generation_config=job.config,
                prng_key=jax.random.PRNGKey(job.seed or 0),
            )
            scores = np.asarray(output.scores).tolist() if with_scores else None
            return np.asarray(output.sequences).tolist(), scores

        with watch.running(), dropping_broken(), refusals_of_the_command("Flax", ELSEWHERE):
            rows, scores = interruptible(generate)
        texts = [row[len(job.ids) :] for row in rows]
        seconds = time.perf_counter() - start - watch.seconds
        return Result(texts, seconds, None, scores, compile_seconds=watch.seconds)


def load(name: str, *, revision: str, device: str, dtype: str, assistant: str | None) -> FlaxRunner:
    """Load a folder or a hub name onto a device.

    Raises:
        InputError: No such device, or a model that would draft tokens.
    """
    if assistant is not None:
        raise InputError(
            "--assistant-model cannot be used with --framework flax: one compiled program runs one model. "
            "Leave it out, or pass --framework torch."
        )
    target = choose_device(device)
    open_cache()
    kind = jnp.dtype(dtype)
    with dropping_broken():
        with jax.default_device(target), no_word_of_dtypes():
            opened = functools.partial(
                FlaxGPT2LMHeadModel.from_pretrained, name, revision=revision, dtype=kind
            )
            model = open_any(opened, name, revision, {BIN_NAME: "from_pt", TF_NAME: "from_tf"})
        params = model.params
        if any(leaf.dtype != kind for leaf in jax.tree.leaves(params)):
            cast = {"float32": model.to_fp32, "bfloat16": model.to_bf16, "float16": model.to_fp16}[dtype]
            params = jax.jit(cast)(params)  # one program, where each shape would be one
        model.params = jax.device_put(params, target)
    return FlaxRunner(model)


@contextmanager
def no_word_of_dtypes() -> Iterator[None]:
    """Keep quiet about the types that weights are stored in: --dtype says how they are held."""
    logger = logging.getLogger("gpt2kit.flax.weights")

    def wanted(record: logging.LogRecord) -> bool:
        return record.funcName != "_log_dtypes"

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)
