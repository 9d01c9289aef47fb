"""Training in PyTorch: forward, backward, AdamW, and checkpoints that a run goes on from bit by bit.

Everything that is decided with numbers alone (which tokens, which learning rate, when to evaluate) comes from
`gpt2kit.training`; here are only the tensors. Dimensions: B batch, T query positions, D n_embd.
"""

from __future__ import annotations

import copy
import math
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gpt2kit
from gpt2kit.atomic import atomic_file
from gpt2kit.errors import TrainingError
from gpt2kit.tokenization import AutoTokenizer
from gpt2kit.torch.heads import GPT2LMHeadModel
from gpt2kit.torch.loss import chunked_loss
from gpt2kit.training import Evaluation, Metrics, Observer, Run, TrainingConfig, learning_rate
from gpt2kit.training.evaluate import evaluate

__all__ = ["Trainer", "make_optimizer"]

_STATE = "training_state.pt"
_STATE_FORMAT = 1


class Stopped(Exception):  # noqa: N818 (a request of the user, not an error)
    """Raised inside an evaluation when the user asks to stop; the evaluation is done again on resuming."""


class Trainer:
    """Trains a model as a `Run` says.

    Args:
        run: what to do, from `gpt2kit.training.start` or `gpt2kit.training.resume`.
        observer: is told what happens.

    Raises:
        TrainingError: the device is not there, the run is for several, or the checkpoint to go on from does
            not fit it.

    Example:
        >>> from gpt2kit.training import TrainingConfig, start
        >>> run = start(["novel.txt"], "run", TrainingConfig(model="pocket", steps=100))  # doctest: +SKIP
        >>> Trainer(run).fit()  # doctest: +SKIP
        True
    """

    def __init__(self, run: Run, observer: Observer | None = None) -> None:
        if run.order.world > 1:
            raise TrainingError(
                f"The run is for {run.order.world} devices, and this loop trains on one: "
                "start it without rank and world."
            )
        self.run, self.observer = run, observer or Observer()
        self.device = _device(run.config.device)
        self.step, self.best_loss, self.seconds = 0, math.inf, 0.0
        self.evaluated_at = -1
        self._unsaved = True
        self.tokenizer = AutoTokenizer.from_pretrained(run.data.tokenizer_folder)
        # Runs of other sizes may share these shards, and the tokenizer is saved beside this model.
        self.tokenizer.model_max_length = run.model.n_positions
        # One stream of random numbers for weights, then dropout; where it stands is part of a checkpoint.
        torch.manual_seed(run.config.seed)
        self.model: GPT2LMHeadModel = self._make_model().to(self.device)
        self.optimizer = make_optimizer(self.model, run.config)
        self._random = _random_state(self.device)
        if run.resumed_from is not None:
            self._restore(run.resumed_from)

    def _make_model(self) -> GPT2LMHeadModel:
        run = self.run
        source = run.resumed_from or run.config.model
        if source is None:
            return GPT2LMHeadModel(run.model)
        # Weights are kept and updated in float32 whatever type they are stored in.
        return GPT2LMHeadModel.from_pretrained(source, torch_dtype=torch.float32, **run.config.dropouts())

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
            _set_random_state(self._random, self.device)
            try:
                self._go_on(should_stop)
            except Stopped:
                pass
            finally:
                self.metrics.close()
                self._random = _random_state(self.device)  # where another `fit` goes on
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
        """Do one step: the mean loss over all its tokens, its gradient, one update of the weights."""
        run, config = self.run, self.run.config
        began = time.perf_counter()
        rate = learning_rate(config, self.step, run.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for micro in range(config.accumulation):
            inputs, targets = run.data.train.blocks(
                run.order.starts(self.step, micro), run.block_size
            )  # [B, T]
            # Each portion is divided by the tokens of the whole step: the sum is the mean over tokens.
            loss = self._sum_of_losses(self._tensor(inputs), self._tensor(targets)) / run.tokens_per_step
            loss.backward()
            total += loss.item()
        norm = self._clip()
        self._refuse_nan(total, norm, rate)
        self.optimizer.step()
        self.step += 1
        self._unsaved = True
        seconds = time.perf_counter() - began
        self.seconds += seconds
        record = {
            "step": self.step,
            "loss": total,
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens": self.step * run.tokens_per_step,
            "epoch": round(run.order.epoch_of(self.step), 4),
            "tokens_per_second": round(run.tokens_per_step / seconds, 1),
            "seconds": round(self.seconds, 3),
        }
        self.metrics.append(record)
        self.observer.stepped(record)

    def _sum_of_losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Add up -log p(target) over all tokens. Inputs and targets [B, T]."""
        config, body = self.run.config, self.model.transformer
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            hidden_states = body(inputs, use_cache=False, return_dict=True).last_hidden_state  # [B, T, D]
            size = config.loss_chunk_size or targets.numel()
            return chunked_loss(hidden_states, self.model.lm_head, targets, size, reduction="sum")  # []

    def _tensor(self, tokens: Any) -> Tensor:
        return torch.from_numpy(tokens).to(self.device)  # [B, T]

    def _clip(self) -> float:
        """Scale the gradient down to the largest norm allowed; return its norm before."""
        largest = self.run.config.clip or math.inf
        trained = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        return float(nn.utils.clip_grad_norm_(trained, largest))

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
        text, config = self.run.data.evaluation, self.run.config
        if text is None:
            raise TrainingError("This run holds no text out for evaluation (eval_fraction is 0).")
        windows, done = math.ceil((len(text) - 1) / self.run.block_size), 0

        def sum_of_losses(inputs: Any, targets: Any) -> float:
            nonlocal done
            if should_stop():
                raise Stopped
            with torch.no_grad():
                found = self._sum_of_losses(self._tensor(inputs), self._tensor(targets)).item()
            done += len(inputs)
            self.observer.evaluating(done, windows)
            return found

        self.model.eval()
        return evaluate(text, self.run.block_size, config.batch_size, sum_of_losses)

    def _write_best(self, folder: Path) -> None:
        model = self.model
        dtype = getattr(torch, self.run.config.save_dtype)
        if dtype != torch.float32:
            model = copy.deepcopy(model).to(dtype)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _save_last(self) -> None:
        folder = self.run.folder.save_checkpoint("last", self._write_last)
        self._unsaved = False
        self.observer.saved(folder, self.step)

    def _write_last(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        state = {
            "format": _STATE_FORMAT,
            "step": self.step,
            "evaluated_at": self.evaluated_at,
            "best_loss": self.best_loss,
            "seconds": self.seconds,
            "data": self.run.data_identity,
            "optimizer": self.optimizer.state_dict(),
            "random": _random_state(self.device),
            "environment": _environment(self.device),
        }
        with atomic_file(folder / _STATE) as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # of torch, which finds its file too short after a failed write
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    def _restore(self, folder: Path) -> None:
        """Take up optimizer, position and random numbers where a checkpoint left them."""
        try:
            state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise TrainingError(
                f"{folder} has no {_STATE}: its weights can be trained further by --model {folder}, "
                "but the run cannot be resumed."
            ) from None
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:  # something else, or cut off
            reason = str(error).splitlines()[0]
            raise TrainingError(f"{folder / _STATE} cannot be read: {reason}") from None
        if state.get("format") != _STATE_FORMAT:
            raise TrainingError(f"{folder / _STATE} was written by another version; go on with that one.")
        if state["data"] != self.run.data_identity:
            raise TrainingError(
                f"The token shards in {self.run.data.folder} are not those that {folder.parent} "
                "was trained on: put the old ones back, or start a new run."
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self._unsaved = state["step"], False
        self.evaluated_at, self.best_loss = state["evaluated_at"], state["best_loss"]
        self.seconds = state["seconds"]
        now = _environment(self.device)
        differs = [
            f"{name} {was}, now {now[name]}" for name, was in state["environment"].items() if was != now[name]
        ]
        if differs:
            self.observer.noted(
                f"The run was on {'; '.join(differs)}: its losses may differ in the last digits from here on."
            )
        self._random = state["random"]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Make AdamW with weight decay on matrices (embeddings included), none on biases and layer norms.

    Source:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.peak_learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=all(parameter.device.type in ("cpu", "cuda") for parameter in trained),
    )


def _device(name: str) -> torch.device:
    """Find the device of a run.

    Raises:
        TrainingError: no such device, or not on this machine.
    """
    if name == "auto":  # not mps: its results have been wrong without an error (docs/training.md)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build of torch without CUDA
        reason = str(error).splitlines()[0]
        raise TrainingError(f"The device {name!r} cannot be used here: {reason}") from None
    return device


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _environment(device: torch.device) -> dict[str, str]:
    """Name what decides the last digits of a loss, besides the settings."""
    return {
        "gpt2kit": gpt2kit.__version__,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": str(torch.get_num_threads()),
    }
