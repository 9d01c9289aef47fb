"""What `gpt2kit generate` does once it runs: load a model, settle the numbers, write the texts.

Importing this module imports PyTorch; cli/generate.py does so only when the command runs.
"""

from __future__ import annotations

import json
import secrets
import time
import warnings
from dataclasses import dataclass, field
from typing import Any, Self

import torch

from gpt2kit.cli.console import note, write
from gpt2kit.cli.option import NOT_SAMPLED, SAMPLING
from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer, GenerationConfig, GenerationPlan, TextStreamer, make_plan
from gpt2kit.generation.stops import StopStrings
from gpt2kit.tokenization import AutoTokenizer
from gpt2kit.torch import GPT2LMHeadModel, set_seed
from gpt2kit.torch.generation.draft import check_assistant

__all__ = ["Job", "Writer"]

DEFAULT_NEW_TOKENS = 128  # where neither the user nor the model's generation_config.json sets a length
# A model this small is read from the processor's own cache, where further threads gain nothing; and where
# other programs want the same cores they wait for each other: 20 instead of 300 tokens/s of 3M parameters.
ONE_THREAD_BELOW = 10_000_000  # parameters


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
    seconds: float
    first_token_seconds: float
    scores: list[float] | None = None  # of each text, from a beam search
    drafted: int | None = None  # tokens that an assistant or the text itself proposed
    accepted: int | None = None  # and how many of them are in the text

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all texts for each second, the prompt's share of the time included."""
        return sum(map(len, self.texts)) / self.seconds


@dataclass
class Clock(BaseStreamer):
    """A streamer that only looks at its watch when the first new token comes."""

    start: float = field(default_factory=time.perf_counter)
    first: float | None = None
    calls: int = 0

    def put(self, value: Any) -> None:
        """Count a call: the first one brings the prompt, the second the first new token."""
        self.calls += 1
        if self.calls == 2:
            self.first = time.perf_counter() - self.start

    def end(self) -> None:
        """Do nothing: the end is known when `generate` returns."""


class Printer(TextStreamer):
    """Write the new text to stdout as it is made; look at the watch when the first token comes."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(
            tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        self.clock = Clock()
        self.at_line_start = False

    def put(self, value: Any) -> None:
        """Take the prompt, then one token after the other."""
        self.clock.put(value)
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Write what can no longer change."""
        if text:
            self.at_line_start = text.endswith("\n")
            write(text)


@dataclass(frozen=True)
class Writer:
    """A model with its tokenizer, and what the command needs to tell of them."""

    name: str
    tokenizer: Any
    model: GPT2LMHeadModel
    load_seconds: float
    quiet: bool
    assistant: GPT2LMHeadModel | None = None

    @classmethod
    def load(
        cls,
        name: str,
        *,
        revision: str | None,
        device: str,
        dtype: str,
        quiet: bool,
        assistant: str | None = None,
    ) -> Self:
        """Load a folder or a hub name onto a device, and the model that drafts for it, if one is named."""
        start = time.perf_counter()
        target = choose_device(device)
        revision = revision or "main"
        model = GPT2LMHeadModel.from_pretrained(name, revision=revision, torch_dtype=getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model.to(target).eval()
        draft = None
        if assistant is not None:
            draft = GPT2LMHeadModel.from_pretrained(assistant, torch_dtype=getattr(torch, dtype))
            draft.to(target).eval()
            check_assistant(draft, model)
        if model.num_parameters() < ONE_THREAD_BELOW:
            torch.set_num_threads(1)
        return cls(name, tokenizer, model, time.perf_counter() - start, quiet, draft)

    def prepare(
        self, prompt: str, options: dict[str, Any], seed: int | None, negative_prompt: str | None = None
    ) -> Job:
        """Join the user's options to the model's own, and encode the prompt."""
        options = self.translate(options)
        defaults = self.model.generation_config.to_dict()
        if "max_length" in options and "max_new_tokens" not in options:
            defaults["max_new_tokens"] = None  # the model's own length must not outvote the user's
        if options.get("do_sample") is False:
            defaults = {name: value for name, value in defaults.items() if name not in SAMPLING}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            config = GenerationConfig.from_dict({**defaults, **options})
        if not self.quiet:
            for warning in told:
                note(str(warning.message))
        ids = self.tokenizer(prompt)["input_ids"] or [self.first_token(config)]
        if config.max_new_tokens is None and config.max_length == GenerationConfig.max_length:
            room = self.model.config.n_positions - len(ids)
            config.max_new_tokens = max(1, min(DEFAULT_NEW_TOKENS, room))
        negative = None if negative_prompt is None else self.negative(negative_prompt)
        plan = make_plan(
            config,
            prompt_length=len(ids),
            n_positions=self.model.config.n_positions,
            vocab_size=self.model.config.vocab_size,
            assistant=self.assistant is not None,
            prompts=[ids],
            negative_positions=None if negative is None else len(negative),
            n_layer=self.model.config.n_layer,
            tied=self.model.config.tie_word_embeddings,
        )
        if config.pad_token_id is None:
            config.pad_token_id = plan.pad_token_id  # else `generate` would tell the user that it did so
        if config.do_sample and seed is None:
            seed = secrets.randbelow(2**32)
        if seed is not None and not config.do_sample and not self.quiet:
            note("the seed changes nothing: without --do-sample nothing is drawn")
        texts = tuple(str(warning.message) for warning in told)
        return Job(prompt, ids, config, plan, seed if config.do_sample else None, negative, texts)

    def translate(self, options: dict[str, Any]) -> dict[str, Any]:
        """Carry out the command's conveniences (docs/cli.md)."""
        options = dict(options)
        barred = [self.spellings("--bad-word", word) for word in options.pop("bad_word", [])]
        if barred:
            _append(options, "bad_words_ids", [ids for either in barred for ids in either])
        if any(name in options for name in NOT_SAMPLED):
            options.setdefault("do_sample", False)
        forced = [self.spellings("--force-word", word) for word in options.pop("force_word", [])]
        if forced:
            _append(options, "force_words_ids", forced)
        if any(name in options for name in SAMPLING):
            options.setdefault("do_sample", True)
        return options

    def spellings(self, option: str, word: str) -> list[list[int]]:
        """Return the tokens of a word at the start of a text and after a space."""
        if not word:
            raise InputError(f"{option} is empty. Name a text, or leave it out.")
        return [self.tokenizer(text)["input_ids"] for text in (word, f" {word}")]

    def negative(self, text: str) -> list[int]:
        """Return the tokens of the negative prompt."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if not ids:
            raise InputError(
                "--negative-prompt is empty. Leave it out: guidance then leads away from no prompt at all."
            )
        return ids

    def first_token(self, config: GenerationConfig) -> int:
        """Return the token that an empty prompt begins with."""
        if config.bos_token_id is None:
            raise InputError(
                f"The prompt is empty, and {self.name} has no bos_token_id to begin with. "
                "Give a prompt, or --bos-token-id."
            )
        if not self.quiet:
            note(f"the prompt is empty: beginning with token {config.bos_token_id}")
        return int(config.bos_token_id)

    def go_on(self, job: Job, streamer: Clock | Printer, with_scores: bool = False) -> Result:
        """Generate the new tokens of every text, with the scores of a beam search where they are wanted."""
        clock = streamer if isinstance(streamer, Clock) else streamer.clock
        negative = None if job.negative_ids is None else torch.tensor([job.negative_ids])  # [1, n]
        if job.seed is not None:
            set_seed(job.seed)
        prompt = torch.tensor([job.ids], device=self.model.device)  # [B, T]
        start = clock.start = time.perf_counter()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            output = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),  # [B, T]
                generation_config=job.config,
                streamer=streamer if job.plan.beams is None else None,  # no token of a beam is sure
                tokenizer=self.tokenizer,  # for stop strings
                assistant_model=self.assistant,
                negative_prompt_ids=None if negative is None else negative.to(prompt.device),
                return_dict_in_generate=True,
                output_scores=with_scores,
            )
        seconds = time.perf_counter() - start
        for text in {str(warning.message): None for warning in told}:
            # `prepare` said what is wrong with the options, and where they may have come from
            if not self.quiet and not any(known.startswith(text) for known in job.told):
                note(text)
        texts = [without_padding(row[len(job.ids) :], job.plan) for row in output.sequences.tolist()]
        scores = output.sequences_scores.tolist() if with_scores else None
        drafts = (output.drafted, output.accepted) if job.plan.assistance is not None else (None, None)
        return Result(texts, seconds, clock.first or seconds, scores, *drafts)

    def write_text(self, job: Job, *, echo: bool) -> None:
        """Write one text as it is made, or several one after the other."""
        count = job.config.num_return_sequences
        if count == 1 and job.plan.beams is None:
            result = self.stream(job, echo)
        elif count == 1:
            result = self.go_on(job, Clock())
            write((job.prompt if echo else "") + self.decode(result.texts[0]) + "\n")
        else:
            result = self.go_on(job, Clock())
            for number, ids in enumerate(result.texts, start=1):
                text = (job.prompt if echo else "") + self.decode(ids)
                write(f"=== {number} of {count} ===\n{text}\n")
        self.report(job, result)

    def stream(self, job: Job, echo: bool) -> Result:
        """Write a text as it is made, and end its line also where Ctrl-C ends the text."""
        if echo:
            write(job.prompt)
        printer = Printer(self.tokenizer)
        try:
            return self.go_on(job, printer)
        except KeyboardInterrupt:
            printer.end()
            raise
        finally:
            if not printer.at_line_start:
                write("\n")

    def write_json(self, job: Job) -> None:
        """Write one JSON object for each text."""
        result = self.go_on(job, Clock(), with_scores=job.plan.beams is not None)
        for number, ids in enumerate(result.texts):
            text = self.decode(ids)
            told = {
                "model": self.name,
                "prompt": job.prompt,
                "prompt_ids": job.ids,
                "text": text,
                "ids": ids,
                "finish_reason": finish_reason(ids, text, job.plan),
                "seed": job.seed,
                "seconds": round(result.seconds, 4),
                "first_token_seconds": round(result.first_token_seconds, 4),
                "tokens_per_second": round(result.tokens_per_second, 1),
                "load_seconds": round(self.load_seconds, 4),
            }
            if result.scores is not None:
                told["score"] = result.scores[number]
            if result.drafted is not None:
                told |= {"drafted": result.drafted, "accepted": result.accepted}
            write(json.dumps(told, ensure_ascii=False) + "\n")
        self.report(job, result)

    def decode(self, ids: list[int]) -> str:
        """Turn new tokens into text as they are, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def report(self, job: Job, result: Result) -> None:
        """Tell on stderr how fast it went, why it ended, and how to have the same again."""
        if self.quiet:
            return
        count = sum(map(len, result.texts))
        reasons = {finish_reason(ids, self.decode(ids), job.plan): None for ids in result.texts}
        note(
            f"{count} tokens in {result.seconds:.2f} s, {result.tokens_per_second:.1f} tokens/s, "
            f"the first after {result.first_token_seconds:.2f} s; ended by {', '.join(reasons)}"
            + (
                ""
                if result.drafted is None
                else f"; {result.accepted} of {result.drafted} drafted tokens kept"
            )
            + ("" if job.seed is None else f"; seed {job.seed}")
        )


def _append(options: dict[str, Any], name: str, words: list[Any]) -> None:
    """Put words behind those that an option names by their tokens."""
    named = options.get(name, [])
    if not isinstance(named, list):
        raise InputError(f"`{name}` has to be a list of lists of token ids, but is {named!r}.")
    options[name] = [*named, *words]


def without_padding(ids: list[int], plan: GenerationPlan) -> list[int]:
    """Cut a row after its first end token, and drop what fills it up to the longest row."""
    while plan.returns > 1 and ids and ids[-1] == plan.pad_token_id and ids[-1] not in plan.eos_token_ids:
        ids = ids[:-1]
    ends = [position for position, token in enumerate(ids) if token in plan.eos_token_ids]
    return ids[: ends[0] + 1] if ends else ids


def finish_reason(ids: list[int], text: str, plan: GenerationPlan) -> str:
    """Say what ended a text: a stop string, an end token, the length or the time."""
    for stop in plan.stops:
        if isinstance(stop, StopStrings) and any(string in text for string in stop.stop_strings):
            return "stop_string"
    if ids and ids[-1] in plan.eos_token_ids:
        return "eos"
    return "length" if len(ids) == plan.max_new_tokens else "time"


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
