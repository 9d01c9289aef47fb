"""docs/cli.md is what the commands say of themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def load_tool():
    spec = importlib.util.spec_from_file_location("document_cli", ROOT / "tools" / "document_cli.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_the_page_is_up_to_date():
    tool = load_tool()
    assert tool.PAGE.read_text(encoding="utf-8") == tool.render(), "run: python tools/document_cli.py"


def test_every_option_has_a_help_text():
    """An option without one would be an empty second cell of the page."""
    tool = load_tool()
    rows = [
        line.split(" | ")
        for line in tool.render().split(tool.MARKER)[1].splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 50
    for row in rows:
        assert row[1].strip(" |"), row[0]
