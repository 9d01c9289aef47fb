"""The loop that every room trains by: steps, evaluations and checkpoints in their turn.

What is decided with numbers alone stands here: which tokens, which learning rate, when to evaluate, what is
recorded, when a loss is refused, whether a checkpoint may be gone on from. A room subclasses `TrainingLoop`
and fills in what needs tensors:

    _build          the model and its optimizer
    _step           one step from its portions: loss, gradient, update
    _sum            the sum of losses of some windows, for an evaluation
    _write_weights  a folder for from_pretrained
    _write_state, _read_state, _take_up     what a run needs besides its weights to go on bit by bit
    _drawing        the state of random numbers that are global in a framework
    _environment    what decides the last digits

Dimensions: B batch, T positions of a block.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpt2kit.errors import TrainingError
from gpt2kit.tokenization import AutoTokenizer
from gpt2kit.training.evaluate import Evaluation, evaluate
from gpt2kit.training.record import Metrics, Observer
from gpt2kit.training.run import Run
from gpt2kit.training.schedule import learning_rate

__all__ = ["Portions", "TrainingLoop"]

_STATE_FORMAT = 1

Portions = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]  # inputs and targets, each [B, T]


class Stopped(Exception):  # noqa: N818 (a request of the user, not an error)
    """Raised inside an evaluation when the user asks to stop; the evaluation is done again on resuming."""


class TrainingLoop(ABC):
    """Trains a model as a `Run` says; what needs tensors is a room's.

    Args:
        run: what to do, from `gpt2kit.training.start` or `gpt2kit.training.resume`.
        observer: is told what happens.

    Attributes:
        step: how many steps are done.
        best_loss: the lowest evaluation loss so far.

    Raises:
        TrainingError: the run is for another room or for several devices, its device is not there, or the
            checkpoint to go on from does not fit it.
    """

    framework: ClassVar[str]
    """The room, as `TrainingConfig.framework` names it."""

    state_file: ClassVar[str]
    """What a checkpoint has besides the model: all that resuming needs."""

    opening: ClassVar[str] = ""
    """What the first step does before it computes, for a display."""

    def __init__(self, run: Run, observer: Observer | None = None) -> None:
        if run.config.framework != self.framework:
            raise TrainingError(
                f"The run is for framework={run.config.framework!r} and this loop is {self.framework}'s: "
                f"take gpt2kit.{run.config.framework}.training.Trainer, or start a run with "
                f"framework={self.framework!r}."
            )
        if run.order.world > 1:
            raise TrainingError(
                f"The run is for {run.order.world} devices, and this loop trains on one: "
                "start it without rank and world."
            )
        self.run, self.observer = run, observer or Observer()
        self.step, self.best_loss, self.seconds = 0, math.inf, 0.0
        self.evaluated_at = -1
        self._unsaved = True
        self._build(run.resumed_from or run.config.model)
        self.tokenizer = AutoTokenizer.from_pretrained(run.data.tokenizer_folder)
        # Runs of other sizes may share these shards, and the tokenizer is saved beside this model.
        self.tokenizer.model_max_length = run.model.n_positions
        if run.resumed_from is not None:
            self._restore(run.resumed_from)

    # What a room fills in.

    @abstractmethod
    def _build(self, source: str | Path | None) -> None:
        """Make the model, from a folder or name or drawn from the seed, and its optimizer."""

    @abstractmethod
    def _step(self, portions: Portions, rate: float) -> tuple[float, float]:
        """Do one step: the mean loss over the tokens of all portions, its gradient, one update.

        Returns:
            The loss, and the norm of the gradient before it is clipped. Where one of them is no number,
            nothing has been updated.
        """

    @abstractmethod
    def _sum(self, inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> float:
        """Add up -log p(target) over windows [B, T], without dropout; targets that are `IGNORED` are not."""

    @abstractmethod
    def _write_weights(self, folder: Path, dtype: str) -> None:
        """Save the model so that `from_pretrained` of every room reads it."""

    @abstractmethod
    def _write_state(self, path: Path, progress: dict[str, Any]) -> None:
        """Save the optimizer, the random numbers and these numbers and words, whole or not at all."""

    @abstractmethod
    def _read_state(self, path: Path) -> dict[str, Any]:
        """Read what `_write_state` wrote: `progress`, and what else `_take_up` needs.

        Raises:
            TrainingError: the file is something else, or was cut off.
        """

    @abstractmethod
    def _take_up(self, state: dict[str, Any]) -> None:
        """Put the optimizer and the random numbers where they were."""

    @abstractmethod
    def _environment(self) -> dict[str, str]:
        """Name what decides the last digits of a loss, besides the settings."""

    def _drawing(self) -> AbstractContextManager[None]:
        """Hold the random numbers of the run while it goes on, where they are a global state."""
        return nullcontext()

    # What is shared.

    def fit(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the last step, or until asked to stop; either way the newest state is saved.

        Args:
            should_stop: asked between two steps and between two windows of an evaluation.

        Returns:
            Whether the run is complete.

        Raises:
            TrainingError: the loss is not a number any more.
        """
        with self.run.folder.lock():
            if self.run.resumed_from is None:
                self.run.config.save(self.run.folder.config)
            self.metrics = Metrics(self.run.folder.metrics, until=self.step)
            with closing(self.metrics), self._drawing():
                with suppress(Stopped):
                    self._go_on(should_stop)
                if self._unsaved:
                    self._save_last()
        return self.step == self.run.steps and not self._evaluation_is_due()

    def _go_on(self, should_stop: Callable[[], bool]) -> None:
        """Alternate steps, evaluations and checkpoints."""
        while not should_stop():
            if self._evaluation_is_due():
                self._evaluate(should_stop)
            if self.step == self.run.steps:
                break
            if self._unsaved and self.step > 0 and self.step % self.run.config.save_every == 0:
                self._save_last()
            self._learn()

    def _learn(self) -> None:
        """Do one step and record it."""
        run = self.run
        began = time.perf_counter()
        rate = learning_rate(run.config, self.step, run.steps)
        loss, norm = self._step(self._portions(), rate)
        self._refuse_nan(loss, norm, rate)
        self.step += 1
        self._unsaved = True
        seconds = time.perf_counter() - began
        self.seconds += seconds
        record = {
            "step": self.step,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens": self.step * run.tokens_per_step,
            "epoch": round(run.order.epoch_of(self.step), 4),
            "tokens_per_second": round(run.tokens_per_step / seconds, 1),
            "seconds": round(self.seconds, 3),
        }
        self.metrics.append(record)
        self.observer.stepped(record)

    def _portions(self) -> Portions:
        """Read the blocks of this step, one forward pass after another."""
        run = self.run
        for micro in range(run.config.accumulation):
            yield run.data.train.blocks(run.order.starts(self.step, micro), run.block_size)  # [B, T]

    def _refuse_nan(self, loss: float, norm: float, rate: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        saved = self.run.folder.checkpoint("last")
        where = f"The last checkpoint, in {saved}, is from before" if saved else "Nothing was saved yet"
        raise TrainingError(
            f"Step {self.step + 1} has the loss {loss:g} and a gradient of norm {norm:g}: "
            f"the run has diverged. {where}. Start again with a smaller --learning-rate (now {rate:.3g}), "
            "a longer --warmup-steps, or --precision fp32."
        )

    def _evaluation_is_due(self) -> bool:
        run = self.run
        if run.data.evaluation is None or self.evaluated_at == self.step:
            return False
        return self.step % run.config.eval_every == 0 or self.step == run.steps

    def _evaluate(self, should_stop: Callable[[], bool]) -> None:
        """Evaluate on the whole held-out text, and keep the weights if they are the best so far."""
        found = self.evaluation(should_stop)
        best = found.loss < self.best_loss
        self.evaluated_at, self._unsaved = self.step, True
        self.best_loss = min(found.loss, self.best_loss)
        if best:
            self.run.folder.save_checkpoint("best", self._write_best)
        record = {
            "step": self.step,
            "eval_loss": found.loss,
            "eval_perplexity": found.perplexity,
            "eval_bits_per_byte": found.bits_per_byte,
            "eval_tokens": found.tokens,
        }
        self.metrics.append(record)
        self.observer.evaluated(record, best)

    def evaluation(self, should_stop: Callable[[], bool] = lambda: False) -> Evaluation:
        """Return the loss over the held-out text, every token predicted once.

        Raises:
            TrainingError: the run holds nothing out.
        """
        text, run = self.run.data.evaluation, self.run
        if text is None:
            raise TrainingError("This run holds no text out for evaluation (eval_fraction is 0).")
        windows, done = math.ceil((len(text) - 1) / run.block_size), 0

        def sum_of_losses(inputs: NDArray[np.int64], targets: NDArray[np.int64]) -> float:
            nonlocal done
            if should_stop():
                raise Stopped
            found = self._sum(inputs, targets)
            done += len(inputs)
            self.observer.evaluating(done, windows)
            return found

        return evaluate(text, run.block_size, run.config.batch_size, sum_of_losses)

    # Checkpoints.

    def _write_best(self, folder: Path) -> None:
        self._write_weights(folder, self.run.config.save_dtype)
        self.tokenizer.save_pretrained(folder)

    def _save_last(self) -> None:
        folder = self.run.folder.save_checkpoint("last", self._write_last)
        self._unsaved = False
        self.observer.saved(folder, self.step)

    def _write_last(self, folder: Path) -> None:
        self._write_weights(folder, "float32")
        self.tokenizer.save_pretrained(folder)
        progress = {
            "format": _STATE_FORMAT,
            "step": self.step,
            "evaluated_at": self.evaluated_at,
            "best_loss": self.best_loss,
            "seconds": self.seconds,
            "data": self.run.data_identity,
            "environment": self._environment(),
        }
        self._write_state(folder / self.state_file, progress)

    def _restore(self, folder: Path) -> None:
        """Take up optimizer, position and random numbers where a checkpoint left them."""
        path = folder / self.state_file
        if not path.is_file():
            raise TrainingError(
                f"{folder} has no {self.state_file}: its weights can be trained further by --model {folder}, "
                "but the run cannot be resumed."
            )
        state = self._read_state(path)
        if state.get("format") != _STATE_FORMAT:
            raise TrainingError(f"{path} was written by another version; go on with that one.")
        if state["data"] != self.run.data_identity:
            raise TrainingError(
                f"The token shards in {self.run.data.folder} are not those that {folder.parent} "
                "was trained on: put the old ones back, or start a new run."
            )
        self._take_up(state)
        self.step, self._unsaved = state["step"], False
        self.evaluated_at, self.best_loss = state["evaluated_at"], state["best_loss"]
        self.seconds = state["seconds"]
        now = self._environment()
        differs = [
            f"{name} {was}, now {now.get(name, 'unknown')}"
            for name, was in state["environment"].items()
            if was != now.get(name)
        ]
        if differs:
            self.observer.noted(
                f"The run was on {'; '.join(differs)}: its losses may differ in the last digits from here on."
            )
