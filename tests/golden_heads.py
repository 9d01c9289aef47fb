"""The calls that goldens of the body and of the other heads are recorded of; golden_cases has the first head.

Every case of tests/cases.py goes through one call of each class with everything in it that the fused kernel
takes too (padding, token types, labels); the default case goes through all calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cases import CASES, B, T, random_checkpoint
from golden_cases import Arrays, call_inputs, config_of, fingerprint, recorded_dtype
from gpt2kit.checkpoint import HEADS
from gpt2kit.config import GPT2Config

__all__ = ["CALLS", "call_names", "config_of_call", "inputs_of_call", "requests", "weights_of_call"]

C, N = 2, 7  # choices and labels
PAD = 100
ACTIVATIONS = ("gelu_new", "gelu", "relu", "silu")  # those of GPT-2's page; the language model has them all

# How a call of any class is made. "wishes" go to golden_cases.call_inputs, "config" changes the case's.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "left": {"wishes": {"padding": "left", "token_types": True}},
    "right": {"wishes": {"padding": "right"}},
    "head_mask": {"wishes": {"head_mask": True}},
    "head_mask_row": {"wishes": {"head_mask_row": True}},
    "embeds": {"wishes": {"embeds": True}},
}
_REGRESSION = {"problem_type": "regression"}
_ONE_CHOICE_LIST = {"flat": True}  # input ids of [C, T]
# What each class has besides. The first call is the one that every case goes through.
CALLS: dict[str, dict[str, dict[str, Any]]] = {
    "GPT2Model": {"left": _ARGUMENTS["left"], **_ARGUMENTS, "one_token": {"wishes": {"length": 1}}},
    "GPT2DoubleHeadsModel": {
        "right": {"wishes": {"padding": "right", "token_types": True}},
        **{name: how for name, how in _ARGUMENTS.items() if name not in ("right", "embeds")},
        "embeds": {"wishes": {"embeds": True}, **_ONE_CHOICE_LIST},
        "no_mc_token_ids": {"without": ("mc_token_ids",)},
        "no_mc_labels": {"without": ("mc_labels",)},
        "no_labels": {"without": ("labels",)},
        "flat": _ONE_CHOICE_LIST,
        "last": {"config": {"summary_type": "last"}, **_ONE_CHOICE_LIST, "without": ("mc_token_ids",)},
        "first": {"config": {"summary_type": "first"}, **_ONE_CHOICE_LIST, "without": ("mc_token_ids",)},
        "mean": {"config": {"summary_type": "mean"}, **_ONE_CHOICE_LIST, "without": ("mc_token_ids",)},
        "vector": {"config": {"summary_proj_to_labels": False, "summary_activation": "tanh"}},
        "no_projection": {"config": {"summary_use_proj": False}},
        "activation": {"config": {"summary_activation": "gelu_new"}},
    },
    "GPT2ForSequenceClassification": {
        "right": {"wishes": {"padding": "right", "token_types": True}},
        **{name: how for name, how in _ARGUMENTS.items() if name != "right"},
        "padding_by_id": {"wishes": {"padding": "right"}, "without": ("attention_mask",)},
        "one_row": {"wishes": {"batch": 1}, "config": {"pad_token_id": None}},
        "regression": {"config": {"num_labels": 1}},
        "regressions": {"config": _REGRESSION},
        "several_labels": {"config": {"problem_type": "multi_label_classification"}},
        "several_labels_by_dtype": {"floats": True},
    },
    "GPT2ForTokenClassification": {"left": _ARGUMENTS["left"], **_ARGUMENTS},
    "GPT2ForQuestionAnswering": {
        "right": {"wishes": {"padding": "right", "token_types": True}},
        **{name: how for name, how in _ARGUMENTS.items() if name != "right"},
        "columns": {"columns": True},
    },
}
_BRIEF = ("loss", "mc_loss", "mc_logits", "start_logits", "end_logits", "last_hidden_state")


def call_names() -> Iterator[tuple[str, str, str]]:
    """Yield (class, case, call) for all that is recorded."""
    for cls, calls in CALLS.items():
        for case in (*CASES, *(f"activation_{name}" for name in ACTIVATIONS)):
            for call in calls if case == "default" else list(calls)[:1]:
                yield cls, case, call


def config_of_call(cls: str, case: str, call: str) -> GPT2Config:
    """Return the configuration of a call."""
    changes = {"num_labels": N, "pad_token_id": PAD} if cls != "GPT2DoubleHeadsModel" else {"num_labels": 1}
    return config_of(case, **(changes | CALLS[cls][call].get("config", {})))


def weights_of_call(cls: str, config: GPT2Config) -> Arrays:
    """Return the weights that a class of this configuration gets in every golden."""
    return dict(random_checkpoint(config, seed=3, head=HEADS[cls]))


def inputs_of_call(cls: str, config: GPT2Config, call: str) -> Arrays:
    """Return the arguments of a call, labels included."""
    how = CALLS[cls][call]
    choices = cls == "GPT2DoubleHeadsModel" and not how.get("flat")
    wishes = ({"batch": B * C} if choices else {}) | how.get("wishes", {})
    arrays = call_inputs(config, **wishes)
    if cls != "GPT2Model":
        arrays = {name: value for name, value in arrays.items() if not name.startswith("encoder")}
    ids = arrays["input_ids"]
    ids[ids == PAD] = 1
    if "attention_mask" in arrays:
        ids[arrays["attention_mask"] == 0] = PAD
    arrays |= _LABELS[cls](config, arrays, how)
    if choices:
        arrays = {
            name: value.reshape(B, C, T) if value.shape == (B * C, T) else value
            for name, value in arrays.items()
        }
    for name in (*how.get("without", ()), *(("input_ids",) if "inputs_embeds" in arrays else ())):
        del arrays[name]
    return arrays


def _no_labels(config: GPT2Config, arrays: Arrays, how: dict[str, Any]) -> Arrays:
    return {}


def _choice_labels(config: GPT2Config, arrays: Arrays, how: dict[str, Any]) -> Arrays:
    """Return the labels of both heads; a full row is read at the position before the last."""
    rows = len(arrays["input_ids"])
    labels = np.random.default_rng(7).integers(0, config.vocab_size, (rows, T))
    mask = arrays.get("attention_mask", np.ones((rows, T), np.int64))
    labels[:, :2] = -100
    labels[:, 1:][~((mask[:, 1:] == 1) & (mask[:, :-1] == 1))] = -100
    last = T - 1 - mask[:, ::-1].argmax(1)
    places = np.where(mask.all(1), T - 2, last)  # not the default place
    if how.get("flat"):
        return {"labels": labels, "mc_token_ids": places, "mc_labels": np.array([1])}
    right = np.array([1, 0])
    if not (config.summary_use_proj and config.summary_proj_to_labels):
        right = np.array([[3, 32], [0, 17]])  # a summary that is a vector makes its entries the choices
    return {"labels": labels, "mc_token_ids": places.reshape(B, C), "mc_labels": right}


def _text_labels(config: GPT2Config, arrays: Arrays, how: dict[str, Any]) -> Arrays:
    rows, generator = len(arrays["input_ids"]), np.random.default_rng(7)
    if config.num_labels == 1:
        return {"labels": generator.normal(size=rows).astype(np.float32)}
    if config.problem_type == "regression":
        return {"labels": generator.normal(size=(rows, N)).astype(np.float32)}
    if how.get("floats") or config.problem_type == "multi_label_classification":
        return {"labels": generator.integers(0, 2, (rows, N)).astype(np.float32)}
    return {"labels": generator.integers(0, N, rows)}


def _token_labels(config: GPT2Config, arrays: Arrays, how: dict[str, Any]) -> Arrays:
    labels = np.random.default_rng(7).integers(0, N, arrays["input_ids"].shape)
    labels[0, 3] = -100
    if "attention_mask" in arrays:
        labels[arrays["attention_mask"] == 0] = -100
    return {"labels": labels}


def _spans(config: GPT2Config, arrays: Arrays, how: dict[str, Any]) -> Arrays:
    """Return spans of which the second ends beyond the sequence, and counts for nothing there."""
    start, end = np.array([2, 3]), np.array([4, T + 6])
    if how.get("columns"):
        start, end = start[:, None], end[:, None]
    return {"start_positions": start, "end_positions": end}


_LABELS = {
    "GPT2Model": _no_labels,
    "GPT2DoubleHeadsModel": _choice_labels,
    "GPT2ForSequenceClassification": _text_labels,
    "GPT2ForTokenClassification": _token_labels,
    "GPT2ForQuestionAnswering": _spans,
}


def requests() -> Iterator[tuple[str, dict[str, Any], Arrays]]:
    """Yield what the reference needs for each golden: its name, its wishes, and all arrays."""
    for cls, case, call in call_names():
        config = config_of_call(cls, case, call)
        weights, given = weights_of_call(cls, config), inputs_of_call(cls, config, call)
        brief = _BRIEF if cls == "GPT2DoubleHeadsModel" else (*_BRIEF, "logits")
        request = {
            "class": cls,
            "config": config.to_dict(),
            "dtype": recorded_dtype(config),
            "steps": None,
            "keep": None if (case, call) == ("default", "plain") else brief,
            "gradients": cls != "GPT2Model",
            "fingerprint": fingerprint(weights | given),
        }
        arrays = {f"weight/{name}": value for name, value in weights.items()}
        yield f"{cls}/{case}/{call}", request, arrays | {f"input/{name}": v for name, v in given.items()}
