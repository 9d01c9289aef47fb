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
    """An option without one would be an empty cell of the page."""
    page = load_tool().render().split(load_tool().MARKER)[1]
    assert "| None |" not in page
    assert "|  |" not in page.replace("|  |\n", "")  # only the default may be empty
