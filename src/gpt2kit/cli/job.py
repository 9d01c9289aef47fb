"""What passes between the writer of `gpt2kit generate` and the framework that computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gpt2kit.config import GPT2Config
from gpt2kit.generation import BaseStreamer, GenerationConfig, GenerationPlan

__all__ = ["Job", "Result", "Runner"]


@dataclass(frozen=True)
class Job:
    """A prompt and everything that decides what follows it."""

    prompt: str
    ids: list[int]
    config: GenerationConfig
    plan: GenerationPlan
    seed: int | None  # None: nothing is drawn
    negative_ids: list[int] | None = None  # what guidance leads away from
    told: tuple[str, ...] = ()  # warnings of the options


@dataclass(frozen=True)
class Result:
    """What came of a job: the new tokens of each text, how long it took, and what its way tells."""

    texts: list[list[int]]
    seconds: float  # without the compilation
    first_token_seconds: float | None  # None where all tokens come at once
    scores: list[float] | None = None  # of each text, from a beam search
    drafted: int | None = None  # tokens that an assistant or the text itself proposed
    accepted: int | None = None  # and how many of them are in the text
    compile_seconds: float | None = None  # None where nothing has to be compiled

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all texts for each second, the prompt's share of the time included."""
        return sum(map(len, self.texts)) / self.seconds


class Runner(Protocol):
    """A model of one framework, loaded, on its device.

    A module `cli/<framework>/runner.py` has a function `load(name, *, revision, device, dtype, assistant)`
    that makes one.
    """

    @property
    def config(self) -> GPT2Config:
        """The model's configuration."""

    @property
    def generation_config(self) -> GenerationConfig:
        """The model's own options."""

    def streams(self, plan: GenerationPlan) -> bool:
        """Tell whether the tokens of a plan come one after the other, or all at once."""

    @property
    def assisted(self) -> bool:
        """Whether another model drafts tokens for this one."""

    def go_on(
        self,
        job: Job,
        *,
        tokenizer: Any,
        streamer: BaseStreamer | None,
        with_scores: bool,
        tell: Callable[[str], None],
    ) -> Result:
        """Generate the new tokens of every text; `tell` shows a word of what is being done."""
