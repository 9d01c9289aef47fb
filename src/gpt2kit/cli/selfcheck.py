"""The numeric self-check of `gpt2kit doctor`: a tiny random model on each device, against NumPy.

Devices have been known to compute GPT-2 wrongly without an error (nanoGPT issue 458 and TransformerLens issue
1178 tell of MPS). What computes is `cli/<framework>/selfcheck.py`:

| there | is |
|---|---|
| `KERNELS` | the ways in which attention is computed |
| `devices()` | the devices, each with its name and a description |
| `logits(device, kernel, case)` | the logits [B, T, V] of one call, and of two calls with a cache |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit.checkpoint import tensor_specs
from gpt2kit.config import GPT2Config
from gpt2kit.reference import gpt2

__all__ = ["ALLOWED", "CONFIG", "SPLIT", "Case", "checks", "failed"]

# The largest error of a logit in float32 on a CPU was 4.4e-6 in PyTorch over 200 seeds and 2.4e-6 in JAX over
# 100, of logits up to 5. Other devices add up in other orders; with the mask left out the error is 3.2.
ALLOWED = 1e-4
CONFIG = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
LENGTHS = (7, 5)  # tokens of the two rows; the shorter one is padded on the left
SPLIT = 4  # where the text is cut for the call with a cache


@dataclass(frozen=True)
class Case:
    """What is computed: weights far from their initial values, token ids, a mask with padding on the left."""

    weights: dict[str, NDArray[Any]]
    ids: NDArray[Any]  # [B, T]
    mask: NDArray[Any]  # [B, T]

    @classmethod
    def draw(cls, seed: int) -> Case:
        """Draw everything from one seed."""
        rng = np.random.default_rng(seed)
        weights: dict[str, NDArray[Any]] = {}
        for spec in tensor_specs(CONFIG, head="lm"):
            centre = 1.0 if spec.role == "norm_weight" else 0.0
            values = rng.normal(centre, 0.2, spec.shape).astype(np.float32)
            weights[spec.name] = weights[spec.tied_to] if spec.tied_to else values
        ids = rng.integers(0, CONFIG.vocab_size, (len(LENGTHS), max(LENGTHS)))  # [B, T]
        places = np.arange(max(LENGTHS))
        mask = (places >= max(LENGTHS) - np.array(LENGTHS)[:, None]).astype(np.int64)  # [B, T]
        return cls(weights, ids, mask)


def checks(computer: Any, names: list[str], seed: int = 0) -> Iterator[dict[str, Any]]:
    """Compare each device and attention kernel of a framework with the reference.

    Args:
        computer: The module `cli/<framework>/selfcheck.py`.
        names: The devices.
        seed: Of the weights and tokens.
    """
    case = Case.draw(seed)
    wanted = gpt2(CONFIG, case.weights, case.ids, attention_mask=case.mask).logits  # [B, T, V]
    for name in names:
        for kernel in computer.KERNELS:
            told = {"device": name, "attention": kernel}
            try:
                error = largest_error(computer, name, kernel, case, wanted)
            except RuntimeError as reason:  # what PyTorch and JAX raise where a device cannot be used
                yield {**failed(str(reason)), **told}
                continue
            if error == float("inf"):
                yield {**failed("not a number"), **told}
            else:
                found = {"error": error, "allowed": ALLOWED, "failure": "", "ok": error <= ALLOWED}
                yield {**told, **found}


def failed(reason: str) -> dict[str, Any]:
    """Say of a check that there are no numbers; of a long reason, the first line."""
    failure = reason.strip().partition("\n")[0]
    return {"device": "", "attention": "", "error": None, "allowed": ALLOWED, "failure": failure, "ok": False}


def largest_error(computer: Any, device: str, kernel: str, case: Case, wanted: NDArray[Any]) -> float:
    """Return the largest error of the logits, from one call and from two with a cache; NaN is infinite."""
    found = computer.logits(device, kernel, case)
    errors = [np.abs(logits.astype(np.float64) - wanted)[case.mask == 1].max() for logits in found]
    worst = float(np.max(errors))
    return worst if np.isfinite(worst) else float("inf")
