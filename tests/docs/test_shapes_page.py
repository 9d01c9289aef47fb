"""docs/shapes.md lists every tensor of the table in checkpoint/layout.py with its shape."""

from __future__ import annotations

import re
from pathlib import Path

from gpt2kit import GPT2Config
from gpt2kit.checkpoint import HEADS, tensor_specs

PAGE = (Path(__file__).parents[2] / "docs" / "shapes.md").read_text(encoding="utf-8")


def test_the_weights_of_the_page_are_the_table_of_tensors():
    config = GPT2Config(n_layer=1, n_embd=33, n_head=3, add_cross_attention=True)
    wanted = [(spec.name, spec.letters.split()) for spec in tensor_specs(config, head="lm")]
    told = re.findall(r"^\| `((?:transformer|lm_head)\.[\w.]+)` \| \[([^\]]+)\]", PAGE, flags=re.MULTILINE)
    assert [(name, letters.split(", ")) for name, letters in told] == wanted


def test_the_weights_of_every_other_head_are_told_with_their_class():
    wanted = [
        (spec.name, spec.letters.split(), cls)
        for cls, head in HEADS.items()
        for spec in tensor_specs(GPT2Config(n_layer=1), head=head)
        if cls not in ("GPT2Model", "GPT2LMHeadModel")
        and not spec.name.startswith(("transformer.", "lm_head."))
    ]
    told = re.findall(r"^\| `([\w.]+)` \| \[([^\]]+)\] \| `(GPT2\w+)` \|", PAGE, flags=re.MULTILINE)
    told = [(name, letters.split(", "), cls) for name, letters, cls in told if "." in name]
    assert told == wanted


def test_cross_attention_is_told_where_it_is_needed():
    plain = {spec.name for spec in tensor_specs(GPT2Config(n_layer=1), head="lm")}
    for name, when in re.findall(
        r"^\| `((?:transformer|lm_head)\.[\w.]+)` \| [^|]+ \| ([^|]+) \|", PAGE, flags=re.M
    ):
        assert ("add_cross_attention" in when) == (name not in plain)
