"""Every class learns: a loop as users write it brings a tiny batch by heart, and the saved model knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import gpt2kit
from cases import tiny_config

IDS = torch.tensor([[2, 3, 5, 7, 11], [13, 17, 19, 23, 29]])  # [B, T]
MARKS = torch.tensor([[0, 1, 2, 1, 0], [2, 2, 0, 1, 1]])  # [B, T]
CHOICES = torch.stack([IDS, IDS.flip(0)], dim=1)  # [B, C, T]

# Class -> changes of the configuration, and the arguments that it is trained with.
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GPT2LMHeadModel": ({}, {"input_ids": IDS, "labels": IDS}),
    "GPT2DoubleHeadsModel": (
        {"summary_type": "last"},
        {"input_ids": CHOICES, "labels": CHOICES, "mc_labels": torch.tensor([1, 0])},
    ),
    "GPT2ForSequenceClassification": (
        {"num_labels": 3, "pad_token_id": 0},
        {"input_ids": IDS, "labels": torch.tensor([2, 0])},
    ),
    "GPT2ForTokenClassification": ({"num_labels": 3}, {"input_ids": IDS, "labels": MARKS}),
    "GPT2ForQuestionAnswering": (
        {},
        {
            "input_ids": IDS,
            "start_positions": torch.tensor([1, 0]),
            "end_positions": torch.tensor([3, 2]),
        },
    ),
}
KINDS = {
    "regression": {"num_labels": 1, "labels": torch.tensor([0.7, -1.3])},
    "single_label_classification": {"num_labels": 3, "labels": torch.tensor([2, 0])},
    "multi_label_classification": {"num_labels": 3, "labels": torch.tensor([[1.0, 0, 1], [0, 1, 0]])},
}


def learn(model: Any, arguments: dict[str, Any], steps: int = 60) -> list[float]:
    """Train on one batch and return the losses."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        output = model(**arguments)
        loss = output.loss + (output.mc_loss if "mc_loss" in output else 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_learnt_by_heart_and_the_saved_model_knows_it(name: str, tmp_path: Path) -> None:
    changes, arguments = TASKS[name]
    torch.manual_seed(2)
    model = getattr(gpt2kit, name)(tiny_config(**changes))
    losses = learn(model, arguments)
    assert losses[-1] < 0.1 * losses[0]
    model.save_pretrained(tmp_path)
    again = getattr(gpt2kit, name).from_pretrained(tmp_path)
    with torch.no_grad():
        known = again(**arguments)
    assert known.loss.item() < 0.1 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_problem_is_learnt(kind: str) -> None:
    changes = dict(KINDS[kind])
    labels = changes.pop("labels")
    torch.manual_seed(2)
    config = tiny_config(problem_type=kind, pad_token_id=0, **changes)
    model = gpt2kit.GPT2ForSequenceClassification(config)
    losses = learn(model, {"input_ids": IDS, "labels": labels})
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        logits = model.eval()(IDS).logits  # [B, N]
    if kind == "regression":
        torch.testing.assert_close(logits[:, 0], labels, rtol=0, atol=0.3)
    elif kind == "single_label_classification":
        assert logits.argmax(-1).tolist() == labels.tolist()
    else:
        assert (logits > 0).float().tolist() == labels.tolist()
