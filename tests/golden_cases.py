"""The calls that goldens are recorded of: for each, a configuration, weights and arguments.

tools/record_golden.py hands them to the reference, and tests/agreement compares what came of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cases import ACTIVATION_CASES, CASES, make_inputs, random_checkpoint, tiny_config
from gpt2kit.config import GPT2Config

__all__ = [
    "CALLS",
    "PROJECTIONS",
    "STEPS",
    "arguments",
    "call_inputs",
    "call_names",
    "config_of",
    "fingerprint",
    "projections",
    "recorded_dtype",
    "requests",
    "weights_of",
]

Arrays = dict[str, NDArray[Any]]

# For each call: how its arguments are made. "steps" goes through the sequence in pieces, with the cache.
STEPS = (3, 1, 1)
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "left": {"padding": "left"},
    "right": {"padding": "right"},
    "blind": {"padding": "left"},
    "steps": {"padding": "left"},
    "token_types": {"token_types": True},
    "head_mask": {"head_mask": True},
    "head_mask_row": {"head_mask_row": True},
    "embeds": {"embeds": True},
    "one_token": {"length": 1},
    "all_positions": {"length": 13},
}
# Switches change the equations, so every case goes through these; the rest is done for two cases only.
_EVERY_CASE = ("plain", "left", "steps", "head_mask")
# "blind" has labels where a query sees padding only; elsewhere such labels are left out, as in training.
_ALL_CALLS = ("default", "cross_attention_all_switches")
# A gradient is kept as its products with so many random vectors: an error in any entry shows in each of them.
PROJECTIONS = 3
WITH_GRADIENTS = ("plain", "left", "blind", "head_mask", "head_mask_row")
# What a golden keeps of most calls; the plain call of each case keeps everything.
_BRIEF = ("logits", "loss")


def call_names() -> Iterator[tuple[str, str]]:
    """Yield (case, call) for all that is recorded; an activation is a case of one call."""
    for case in CASES:
        for call in CALLS if case in _ALL_CALLS else _EVERY_CASE:
            yield case, call
    for activation in ACTIVATION_CASES:
        yield f"activation_{activation}", "plain"


def config_of(case: str, **changes: Any) -> GPT2Config:
    """Return the configuration of a case or of an activation."""
    if case.startswith("activation_"):
        return tiny_config(activation_function=case.removeprefix("activation_"), n_layer=1, **changes)
    return tiny_config(case, **changes)


def arguments(config: GPT2Config, call: str) -> Arrays:
    """Return the arguments of a call, labels included; the first label of each row is to be left out."""
    arrays = call_inputs(config, **CALLS[call])
    labels = np.random.default_rng(7).integers(0, config.vocab_size, arrays["input_ids"].shape)
    labels[:, :2] = -100  # the first is never predicted, the second is left out by its number
    if "attention_mask" in arrays and call != "blind":
        seen = arrays["attention_mask"] == 1
        labels[:, 1:][~(seen[:, 1:] & seen[:, :-1])] = -100
    if labels.shape[1] > 2:
        arrays["labels"] = labels
    if "inputs_embeds" in arrays:
        del arrays["input_ids"]
    return arrays


def call_inputs(
    config: GPT2Config,
    *,
    embeds: bool = False,
    head_mask: bool = False,
    head_mask_row: bool = False,
    **wishes: Any,
) -> Arrays:
    """Return the arguments of a call; `embeds` stand beside the tokens, a head mask is one row or all."""
    arrays = make_inputs(config, head_mask=head_mask or head_mask_row, **wishes).as_dict()
    if head_mask_row:
        arrays["head_mask"] = arrays["head_mask"][0]  # [H]
    if embeds:
        shape = (*arrays["input_ids"].shape, config.n_embd)
        arrays["inputs_embeds"] = np.random.default_rng(5).normal(size=shape).astype(np.float32)  # [B, T, D]
    return arrays


def weights_of(config: GPT2Config) -> Arrays:
    """Return the weights that a configuration gets in every golden."""
    return dict(random_checkpoint(config, seed=3))


def projections(gradients: Arrays) -> NDArray[np.float64]:
    """Return the products of each gradient with `PROJECTIONS` vectors drawn for its name, by sorted name."""
    result = []
    for name in sorted(gradients):
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
        vectors = np.random.default_rng(seed).normal(size=(PROJECTIONS, gradients[name].size))  # [3, size]
        result.append(vectors @ gradients[name].astype(np.float64).ravel())  # [3]
    return np.stack(result)


def fingerprint(arrays: Arrays) -> str:
    """Return a hash of weights or arguments, which tells whether a golden was recorded from these."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:16]


def recorded_dtype(config: GPT2Config) -> str:
    """Return the dtype of a golden; the reference cannot compute reorder_and_upcast_attn in float64."""
    return "float32" if config.reorder_and_upcast_attn else "float64"


def requests() -> Iterator[tuple[str, dict[str, Any], Arrays]]:
    """Yield what the reference needs for each golden: its name, its wishes, and all arrays."""
    for case, call in call_names():
        config = config_of(case)
        weights, given = weights_of(config), arguments(config, call)
        keep = _BRIEF if call != "plain" or case.startswith("activation_") else None
        if (case, call) == ("default", "steps"):
            keep = ("logits", "past_key_values")
        request = {
            "class": "GPT2LMHeadModel",
            "config": config.to_dict(),
            "dtype": recorded_dtype(config),
            "steps": STEPS if call == "steps" else None,
            "keep": keep,
            "gradients": call in WITH_GRADIENTS and "labels" in given,
            "fingerprint": fingerprint(weights | given),
        }
        arrays = {f"weight/{name}": value for name, value in weights.items()}
        yield f"{case}/{call}", request, arrays | {f"input/{name}": value for name, value in given.items()}
