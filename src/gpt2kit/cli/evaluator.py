"""What `gpt2kit evaluate` does once it runs: load a model, score what a file holds, collect the numbers.

Importing this module imports PyTorch; cli/evaluate.py does so only when the command runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gpt2kit.cli.console import stderr
from gpt2kit.cli.torch.runner import choose_device, open_model
from gpt2kit.errors import InputError
from gpt2kit.evaluation import (
    Likelihood,
    Pair,
    Protocol,
    TextScore,
    count_words,
    passages,
    questions,
    rate_choices,
    rate_passages,
    read_records,
    stop_word_ids,
    undo_wikitext_tokens,
)
from gpt2kit.evaluation.choice import FIELDS as CHOICE_FIELDS
from gpt2kit.evaluation.lambada import FIELDS as LAMBADA_FIELDS
from gpt2kit.evaluation.pair import encode
from gpt2kit.evaluation.window import check_window
from gpt2kit.tokenization import AutoTokenizer
from gpt2kit.torch import GPT2LMHeadModel, scoring

__all__ = ["Evaluator"]


@dataclass
class Evaluator:
    """A model with its tokenizer, and how it shall score."""

    tokenizer: Any
    model: GPT2LMHeadModel
    quiet: bool
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, name: str, *, revision: str | None, device: str, dtype: str, quiet: bool) -> Self:
        """Load a folder or a hub name onto a device."""
        target = choose_device(device)
        revision = revision or "main"
        model = open_model(name, revision, getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        return cls(tokenizer, model.to(target).eval(), quiet)

    def set_window(self, window: int | None, stride: int | None, batch_size: int | None) -> None:
        """Settle how the model scores, and refuse what it cannot do before a file is looked at."""
        window, stride = check_window(window, stride, self.model.config.n_positions)
        self.settings = {"window": window, "stride": stride, "batch_size": batch_size}

    def text(
        self, content: str, source: str, *, limit: int | None, bos: bool, wikitext: bool
    ) -> dict[str, Any]:
        """Score a text as one, by the sliding window."""
        if not content:
            raise InputError(f"{source} is empty: there is nothing to predict.")
        before = [self._prefix(required=True)] if bos else []
        began = time.perf_counter()
        written = undo_wikitext_tokens(content) if wikitext else content
        ids = encode(self.tokenizer, written)[:limit]
        if len(before) + len(ids) < 2:
            raise InputError(
                f"Only one token of {source} is taken, so there is nothing to predict: give more text, or "
                "--bos to predict the first token too."
            )
        (found,) = self._scores([Pair(np.array([*before, *ids], np.int64), 1)])
        if limit is not None:
            content = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        told = Likelihood(found.log_prob, found.tokens, count_words(content), len(content.encode("utf-8")))
        sizes = {name: self.settings[name] for name in ("window", "stride")}
        return {**told.to_dict(), **sizes, **self._took(began)}

    def lambada(
        self,
        content: str,
        source: str,
        *,
        limit: int | None,
        protocols: Sequence[str],
        stop_words: list[str] | None,
    ) -> dict[str, Any]:
        """Predict how passages end, under one protocol after the other."""
        began = time.perf_counter()
        prepared = []
        for name in protocols:  # all of the file is read before anything is computed
            records = islice(read_records(content, source, LAMBADA_FIELDS), limit)
            prepared.append(list(passages(records, self.tokenizer, Protocol(name), self._prefix())))
        barred = [] if stop_words is None else stop_word_ids(self.tokenizer, stop_words)
        if stop_words is not None and not barred:
            raise InputError(
                "None of the stop words is a token of this model, so the filter would do nothing."
            )
        results = []
        for name, pairs in zip(protocols, prepared, strict=True):
            result = rate_passages(
                self._scores(pairs, greedy=True, barred_ids=barred), Protocol(name)
            ).to_dict()
            results.append(result if stop_words is None else {**result, "barred_tokens": len(barred)})
        return {"results": results, **self._took(began)}

    def choice(self, content: str, source: str, *, limit: int | None, delimiter: str) -> dict[str, Any]:
        """Choose the most probable continuation of each context."""
        began = time.perf_counter()
        records = islice(read_records(content, source, CHOICE_FIELDS), limit)
        asked = list(questions(records, self.tokenizer, delimiter=delimiter, prefix_token_id=self._prefix()))
        scores = self._scores([pair for question in asked for pair in question.pairs])
        return {**rate_choices(asked, scores).to_dict(), **self._took(began)}

    def _scores(self, pairs: list[Pair], **options: Any) -> list[TextScore]:
        with self._bar() as progress:
            return scoring.score_pairs(self.model, pairs, progress=progress, **options, **self.settings)

    def _prefix(self, *, required: bool = False) -> int | None:
        """Return the token that stands before a text: bos, else the end of the text before."""
        config = self.model.config
        found: int | list[int] | None = config.bos_token_id
        if found is None:
            found = config.eos_token_id
        if found is None and required:
            raise InputError("The model has no bos_token_id to put before the text; leave --bos out.")
        return found[0] if isinstance(found, list) else found

    @contextmanager
    def _bar(self) -> Iterator[scoring.Progress]:
        """Show how far it is, on a terminal."""
        bar = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tokens"),
            TimeRemainingColumn(),
            console=stderr,
            disable=self.quiet or not stderr.is_terminal,
            transient=True,
        )
        with bar:
            task = bar.add_task("", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @staticmethod
    def _took(began: float) -> dict[str, Any]:
        return {"seconds": round(time.perf_counter() - began, 3)}
