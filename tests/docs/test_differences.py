"""docs/differences.md: each row tells a difference, its reason, and a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
ROWS = [
    line
    for line in PAGE.splitlines()
    if line.startswith("|") and not re.match(r"\| (difference|---)|\|---", line)
]


def test_the_page_has_rows():
    assert len(ROWS) > 10


@pytest.mark.parametrize("row", ROWS)
def test_the_row_has_a_difference_a_reason_and_a_test_that_exists(row):
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    assert len(cells) == 3
    assert all(cells)
    tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", cells[2])
    assert tests, "the third cell names no test as `tests/path/test_file.py::test_name`"
    for file, name in tests:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert name, f"{file}: name the test itself"
        assert re.search(rf"^\s*def {name}\(", source, flags=re.MULTILINE), f"{file} has no {name}"
