"""docs/ARCHITECTURE.md names parts, files and functions that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "gpt2kit"
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_every_file_that_the_page_names_exists():
    named = set(re.findall(r"`?((?:\w+/)*\w+\.(?:py|toml))`?", PAGE))
    assert len(named) > 15
    places = [PACKAGE.parent, PACKAGE, ROOT]
    missing = [name for name in named if not any((place / name).is_file() for place in places)]
    assert [name for name in missing if not list(PACKAGE.rglob(name))] == []


def test_every_part_of_the_package_has_its_row():
    section = PAGE.split("## Who does what")[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE))
    parts = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    assert parts <= told
    assert told - parts <= modules


def test_the_layers_of_the_page_are_those_that_are_enforced():
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    drawn = PAGE.split("```")[1]
    for layer in layers:
        for module in layer.split("|"):
            assert re.search(rf"\b{module.strip().removeprefix('gpt2kit.')}\b", drawn), module
