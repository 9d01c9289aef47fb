"""Training in PyTorch: forward, backward, AdamW, and checkpoints that a run goes on from bit by bit.

Everything that is decided with numbers alone (which tokens, which learning rate, when to evaluate), and the
loop itself, comes from `gpt2kit.training`; here are only the tensors. Dimensions: B batch, T query positions,
D n_embd.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gpt2kit
from gpt2kit.atomic import atomic_file
from gpt2kit.errors import TrainingError
from gpt2kit.torch.heads import GPT2LMHeadModel
from gpt2kit.torch.loss import chunked_loss
from gpt2kit.training import TrainingConfig, TrainingLoop
from gpt2kit.training.loop import Portions

__all__ = ["Trainer", "clip_gradient", "make_optimizer"]


class Trainer(TrainingLoop):
    """Trains a model as a `Run` says.

    Args:
        run: what to do, from `gpt2kit.training.start` or `gpt2kit.training.resume`.
        observer: is told what happens.

    Raises:
        TrainingError: the run is for another room or for several devices, its device is not there, or the
            checkpoint to go on from does not fit it.

    Example:
        >>> from gpt2kit.training import TrainingConfig, start
        >>> run = start(["novel.txt"], "run", TrainingConfig(model="pocket", steps=100))  # doctest: +SKIP
        >>> Trainer(run).fit()  # doctest: +SKIP
        True
    """

    framework = "torch"
    state_file = "training_state.pt"
    model: GPT2LMHeadModel

    def _build(self, source: str | Path | None) -> None:
        config = self.run.config
        self.device = _device(config.device)
        # One stream of random numbers for weights, then dropout; where it stands is part of a checkpoint.
        torch.manual_seed(config.seed)
        self.model = self._make_model(source).to(self.device)
        self.optimizer = make_optimizer(self.model, config)
        self._random = _random_state(self.device)

    def _make_model(self, source: str | Path | None) -> GPT2LMHeadModel:
        if source is None:
            return GPT2LMHeadModel(self.run.model)
        # Weights are kept and updated in float32 whatever type they are stored in.
        return GPT2LMHeadModel.from_pretrained(
            source, torch_dtype=torch.float32, **self.run.config.dropouts()
        )

    def _step(self, portions: Portions, rate: float) -> tuple[float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for inputs, targets in portions:  # [B, T]
            # Each portion is divided by the tokens of the whole step: the sum is the mean over tokens.
            loss = self._sum_of_losses(inputs, targets) / self.run.tokens_per_step  # []
            loss.backward()
            total += loss.item()
        trained = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = clip_gradient(trained, self.run.config.clip)
        if math.isfinite(total) and math.isfinite(norm):
            self.optimizer.step()
        return total, norm

    def _sum(self, inputs: Any, targets: Any) -> float:
        self.model.eval()
        with torch.no_grad():
            return self._sum_of_losses(inputs, targets).item()

    def _sum_of_losses(self, inputs: Any, targets: Any) -> Tensor:
        """Add up -log p(target) over all tokens. Inputs and targets [B, T], arrays of NumPy."""
        config, body = self.run.config, self.model.transformer
        ids = torch.from_numpy(inputs).to(self.device)  # [B, T]
        wanted = torch.from_numpy(targets).to(self.device)  # [B, T]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            hidden_states = body(ids, use_cache=False, return_dict=True).last_hidden_state  # [B, T, D]
            size = config.loss_chunk_size or wanted.numel()
            return chunked_loss(hidden_states, self.model.lm_head, wanted, size, reduction="sum")  # []

    def _write_weights(self, folder: Path, dtype: str) -> None:
        model = self.model
        if dtype != "float32":
            model = copy.deepcopy(model).to(getattr(torch, dtype))
        model.save_pretrained(folder)

    def _write_state(self, path: Path, progress: dict[str, Any]) -> None:
        state = {
            **progress,
            "optimizer": self.optimizer.state_dict(),
            "random": _random_state(self.device),
        }
        with atomic_file(path) as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # of torch, which finds its file too short after a failed write
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    def _read_state(self, path: Path) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:  # something else, or cut off
            reason = str(error).splitlines()[0]
            raise TrainingError(f"{path} cannot be read: {reason}") from None
        return state

    def _take_up(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self._random = state["random"]

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        _set_random_state(self._random, self.device)
        try:
            yield
        finally:
            self._random = _random_state(self.device)  # where another `fit` goes on

    def _environment(self) -> dict[str, str]:
        on_cuda = self.device.type == "cuda"
        return {
            "gpt2kit": gpt2kit.__version__,
            "torch": str(torch.__version__),
            "device": torch.cuda.get_device_name(self.device) if on_cuda else self.device.type,
            "threads": str(torch.get_num_threads()),
        }


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


def clip_gradient(parameters: Sequence[nn.Parameter], largest: float) -> float:
    """Scale gradients down to a largest norm, 0 for none; return their norm before.

    Each row is added up by itself: on a CPU, PyTorch adds the squares of a whole tensor one after another in
    float32, which tells 0.27% too little of the embeddings of GPT-2.
    """
    rows = [torch.linalg.vector_norm(parameter.grad, dim=-1) for parameter in parameters]  # [*] each
    norm = nn.utils.get_total_norm(rows)  # []
    if largest:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm.item()


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
