"""What `gpt2kit generate` does once it runs: settle the numbers, write the texts, tell how it went.

It is the same for every framework; what is not is the runner's (cli/job.py).
"""

from __future__ import annotations

import json
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

from gpt2kit.cli.console import note, stderr, write
from gpt2kit.cli.framework import Framework, part
from gpt2kit.cli.job import Job, Result, Runner
from gpt2kit.cli.option import NOT_SAMPLED, SAMPLING, as_typed
from gpt2kit.cli.printer import Printer
from gpt2kit.errors import InputError
from gpt2kit.generation import GenerationConfig, GenerationPlan, make_plan
from gpt2kit.generation.stops import StopStrings
from gpt2kit.tokenization import AutoTokenizer

__all__ = ["Writer"]

DEFAULT_NEW_TOKENS = 128  # where neither the user nor the model's generation_config.json sets a length


@dataclass(frozen=True)
class Writer:
    """A model with its tokenizer, and what the command needs to tell of them."""

    name: str
    tokenizer: Any
    runner: Runner
    load_seconds: float
    quiet: bool

    @classmethod
    def load(
        cls,
        name: str,
        *,
        framework: Framework,
        revision: str | None,
        device: str,
        dtype: str,
        quiet: bool,
        assistant: str | None = None,
    ) -> Self:
        """Load a folder or a hub name onto a device, and the model that drafts for it, if one is named."""
        runners = part(framework, "runner")
        start = time.perf_counter()
        revision = revision or "main"
        runner = runners.load(name, revision=revision, device=device, dtype=dtype, assistant=assistant)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        return cls(name, tokenizer, runner, time.perf_counter() - start, quiet)

    def prepare(
        self, prompt: str, options: dict[str, Any], seed: int | None, negative_prompt: str | None = None
    ) -> Job:
        """Join the user's options to the model's own, and encode the prompt."""
        options = self.translate(options)
        defaults = self.runner.generation_config.to_dict()
        if "max_length" in options and "max_new_tokens" not in options:
            defaults["max_new_tokens"] = None  # the model's own length must not outvote the user's
        if options.get("do_sample") is False:
            defaults = {name: value for name, value in defaults.items() if name not in SAMPLING}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            config = GenerationConfig.from_dict({**defaults, **options})
        if not self.quiet:
            for warning in told:
                note(as_typed(str(warning.message)))
        ids = self.tokenizer(prompt)["input_ids"] or [self.first_token(config)]
        if config.max_new_tokens is None and config.max_length == GenerationConfig.max_length:
            room = self.runner.config.n_positions - len(ids)
            config.max_new_tokens = max(1, min(DEFAULT_NEW_TOKENS, room))
        negative = None if negative_prompt is None else self.negative(negative_prompt)
        plan = make_plan(
            config,
            prompt_length=len(ids),
            n_positions=self.runner.config.n_positions,
            vocab_size=self.runner.config.vocab_size,
            assistant=self.runner.assisted,
            prompts=[ids],
            negative_positions=None if negative is None else len(negative),
            n_layer=self.runner.config.n_layer,
            tied=self.runner.config.tie_word_embeddings,
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
                f"The prompt is empty, and {self.name} names no token to begin a text with. "
                "Give a prompt, or --bos-token-id."
            )
        if not self.quiet:
            note(f"the prompt is empty: beginning with token {config.bos_token_id}")
        return int(config.bos_token_id)

    def go_on(self, job: Job, printer: Printer | None = None, with_scores: bool = False) -> Result:
        """Generate the new tokens of every text, with the scores of a beam search where they are wanted."""
        with warnings.catch_warnings(record=True) as told, self.busy(printer) as tell:
            warnings.simplefilter("always")
            result = self.runner.go_on(
                job, tokenizer=self.tokenizer, streamer=printer, with_scores=with_scores, tell=tell
            )
        for text in {str(warning.message): None for warning in told}:
            # `prepare` said what is wrong with the options, and where they may have come from
            if not self.quiet and not any(known.startswith(text) for known in job.told):
                note(as_typed(text))
        return replace(result, texts=[without_padding(row, job.plan) for row in result.texts])

    @contextmanager
    def busy(self, printer: Printer | None) -> Iterator[Callable[[str], None]]:
        """Turn a spinner on stderr, where somebody can see it and no text is on its way."""
        if self.quiet or printer is not None or not stderr.is_terminal:
            yield lambda word: None
        else:
            with stderr.status("") as status:
                yield status.update

    def write_text(self, job: Job, *, echo: bool) -> None:
        """Write one text as it is made, or whole ones one after the other."""
        count = job.config.num_return_sequences
        if count == 1 and self.runner.streams(job.plan):
            result = self.stream(job, echo)
        else:
            result = self.go_on(job)
            for number, ids in enumerate(result.texts, start=1):
                text = (job.prompt if echo else "") + self.decode(ids)
                write(text + "\n" if count == 1 else f"=== {number} of {count} ===\n{text}\n")
        self.report(job, result)

    def stream(self, job: Job, echo: bool) -> Result:
        """Write a text as it is made, and end its line also where Ctrl-C ends the text."""
        printer = Printer(self.tokenizer, job.prompt if echo else "")
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
        result = self.go_on(job, with_scores=job.plan.beams is not None)
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
                "seconds": _rounded(result.seconds),
                "first_token_seconds": _rounded(result.first_token_seconds),
                "tokens_per_second": round(result.tokens_per_second, 1),
                "load_seconds": _rounded(self.load_seconds),
            }
            if result.compile_seconds is not None:
                told["compile_seconds"] = _rounded(result.compile_seconds)
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
        parts = [f"{count} tokens in {result.seconds:.2f} s, {result.tokens_per_second:.1f} tokens/s"]
        if result.first_token_seconds is not None:
            parts[0] += f", the first after {result.first_token_seconds:.2f} s"
        if result.compile_seconds is not None:
            parts[0] += f", after {result.compile_seconds:.2f} s of compilation"
        parts.append(f"ended by {', '.join(reasons)}")
        if result.drafted is not None:
            parts.append(f"{result.accepted} of {result.drafted} drafted tokens kept")
        if job.seed is not None:
            parts.append(f"seed {job.seed}")
        note("; ".join(parts))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


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
