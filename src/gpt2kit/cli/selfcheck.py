"""The numeric self-check of `gpt2kit doctor`: a tiny random model on each device, against NumPy.

Devices have been known to compute GPT-2 wrongly without an error (nanoGPT issue 458 and TransformerLens issue
1178 tell of MPS). Importing this module imports PyTorch; cli/doctor.py does so only when the command runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpt2kit.checkpoint import tensor_specs
from gpt2kit.config import GPT2Config
from gpt2kit.reference import gpt2
from gpt2kit.torch import GPT2LMHeadModel

__all__ = ["ALLOWED", "checks", "devices", "threads"]

# The largest error of a logit in float32 over 200 seeds on a CPU was 4.4e-6, of logits up to 5. Other
# devices add up in other orders; with the mask left out the error is 3.2.
ALLOWED = 1e-4
CONFIG = GPT2Config(vocab_size=101, n_positions=13, n_embd=33, n_layer=3, n_head=3)
LENGTHS = (7, 5)  # tokens of the two rows; the shorter one is padded on the left
SPLIT = 4  # where the text is cut for the call with a cache


def threads() -> int:
    """Return how many threads PyTorch computes with."""
    return int(torch.get_num_threads())


def devices() -> list[dict[str, str]]:
    """List the devices that PyTorch can compute on."""
    found = [{"name": "cpu", "description": torch.backends.cpu.get_cpu_capability()}]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        description = f"{card.name}, {card.total_memory / 1e9:.0f} GB"
        found.append({"name": f"cuda:{index}", "description": description})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "description": "Apple GPU"})
    return found


def checks(names: list[str], seed: int = 0) -> Iterator[dict[str, Any]]:
    """Compare each device and attention kernel with the reference."""
    weights, ids, mask = draw(np.random.default_rng(seed))
    wanted = gpt2(CONFIG, weights, ids, attention_mask=mask).logits  # [B, T, V]
    for name in names:
        for kernel in ("eager", "sdpa"):
            failure, error = "", float("inf")
            try:
                error = largest_error(name, kernel, weights, ids, mask, wanted)
            except RuntimeError as reason:  # what PyTorch raises where a device cannot be used
                failure = str(reason).splitlines()[0]
            if error == float("inf"):
                failure = failure or "not a number"
            yield {
                "device": name,
                "attention": kernel,
                "error": error if error < float("inf") else None,
                "allowed": ALLOWED,
                "failure": failure,
                "ok": error <= ALLOWED,
            }


def draw(rng: np.random.Generator) -> tuple[dict[str, NDArray[Any]], NDArray[Any], NDArray[Any]]:
    """Draw weights far from their initial values, token ids and a mask with padding on the left."""
    weights: dict[str, NDArray[Any]] = {}
    for spec in tensor_specs(CONFIG, head="lm"):
        centre = 1.0 if spec.role == "norm_weight" else 0.0
        values = rng.normal(centre, 0.2, spec.shape).astype(np.float32)
        weights[spec.name] = weights[spec.tied_to] if spec.tied_to else values
    ids = rng.integers(0, CONFIG.vocab_size, (len(LENGTHS), max(LENGTHS)))  # [B, T]
    places = np.arange(max(LENGTHS))
    mask = (places >= max(LENGTHS) - np.array(LENGTHS)[:, None]).astype(np.int64)  # [B, T]
    return weights, ids, mask


def largest_error(
    device: str,
    kernel: str,
    weights: dict[str, NDArray[Any]],
    ids: NDArray[Any],
    mask: NDArray[Any],
    wanted: NDArray[Any],
) -> float:
    """Return the largest error of the logits, from one call and from two with a cache; NaN is infinite."""
    model = GPT2LMHeadModel(CONFIG)
    model.set_attn_implementation(kernel)
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in weights.items()})
    model.to(device).eval()
    tokens, kept = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)  # [B, T], [B, T]
    with torch.inference_mode():
        whole = model(tokens, attention_mask=kept).logits  # [B, T, V]
        first = model(tokens[:, :SPLIT], attention_mask=kept[:, :SPLIT], use_cache=True)
        rest = model(tokens[:, SPLIT:], past_key_values=first.past_key_values, attention_mask=kept)
        pieces = torch.cat([first.logits, rest.logits], dim=1)  # [B, T, V]
    errors = [np.abs(logits.cpu().double().numpy() - wanted)[mask == 1].max() for logits in (whole, pieces)]
    worst = float(np.max(errors))
    return worst if np.isfinite(worst) else float("inf")
