"""What PyTorch computes for `gpt2kit doctor` (cli/selfcheck.py)."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from gpt2kit.cli.selfcheck import CONFIG, SPLIT, Case
from gpt2kit.torch import GPT2LMHeadModel

__all__ = ["KERNELS", "devices", "logits"]

KERNELS = ("eager", "sdpa")


def devices() -> list[dict[str, str]]:
    """List the devices that PyTorch can compute on."""
    threads = torch.get_num_threads()
    described = f"{torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"
    found = [{"name": "cpu", "description": described}]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        description = f"{card.name}, {card.total_memory / 1e9:.0f} GB"
        found.append({"name": f"cuda:{index}", "description": description})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "description": "Apple GPU"})
    return found


def logits(device: str, kernel: str, case: Case) -> tuple[NDArray[Any], NDArray[Any]]:
    """Compute the logits [B, T, V] by one call, and by two with a cache."""
    model = GPT2LMHeadModel(CONFIG)
    model.set_attn_implementation(kernel)
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in case.weights.items()})
    model.to(device).eval()
    tokens = torch.from_numpy(case.ids).to(device)  # [B, T]
    kept = torch.from_numpy(case.mask).to(device)  # [B, T]
    with torch.inference_mode():
        whole = model(tokens, attention_mask=kept).logits  # [B, T, V]
        first = model(tokens[:, :SPLIT], attention_mask=kept[:, :SPLIT], use_cache=True)
        rest = model(tokens[:, SPLIT:], past_key_values=first.past_key_values, attention_mask=kept)
        pieces = torch.cat([first.logits, rest.logits], dim=1)  # [B, T, V]
    return whole.cpu().numpy(), pieces.cpu().numpy()
