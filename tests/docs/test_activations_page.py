"""docs/activations.md has every activation, in the order of computation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the names are those of the PyTorch models")

from gpt2kit import GPT2Config
from gpt2kit.torch.double import GPT2DoubleHeadsModel

PAGE = (Path(__file__).parents[2] / "docs" / "activations.md").read_text(encoding="utf-8")


def test_the_names_of_the_page_are_those_of_a_model() -> None:
    told = re.findall(r"^\| `([\w.]+)` \|", PAGE, flags=re.MULTILINE)
    config = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_head=2, n_layer=4, add_cross_attention=True)
    names = GPT2DoubleHeadsModel(config).activation_names()
    assert told == [name for name in names if not re.match(r"h\.[012]\.", name)]
