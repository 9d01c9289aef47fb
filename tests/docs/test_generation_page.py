"""docs/generation.md has every rule and stop, in the order of the plan."""

from __future__ import annotations

import re
from pathlib import Path

from gpt2kit.generation.rules import RULES
from gpt2kit.generation.stops import STOPS

PAGE = (Path(__file__).parents[2] / "docs" / "generation.md").read_text(encoding="utf-8")


def test_the_page_lists_the_rules_in_their_order():
    told = re.findall(r"^\| `(\w+)`", PAGE, flags=re.MULTILINE)
    options = [rule.option for rule in RULES]
    assert told[: len(options)] == options
    assert told[len(options) :] == [stop.option for stop in STOPS]
