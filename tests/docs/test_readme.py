"""What the README and the other pages say is true: links, tree, commands and code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpt2kit.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language, "" for those without one."""
    fenced = text.split("```")[1::2]
    return [block.partition("\n")[2] for block in fenced if block.partition("\n")[0] == language]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert missing == []


def test_the_tree_of_the_readme_is_the_tree_of_the_package():
    (tree,) = (block for block in blocks(README, "") if block.startswith("src/gpt2kit/"))
    inner, outer = (
        re.findall(r"^  (\S+)", tree, flags=re.MULTILINE),
        re.findall(r"^(\w\S+)", tree, flags=re.M),
    )
    package = ROOT / "src" / "gpt2kit"
    modules = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    modules |= {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert set(inner) == modules | {"pocket/"}
    for folder in outer:
        assert (ROOT / folder).is_dir()
    tests = {
        f"{path.name}/" for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] not in "_."
    }
    (told,) = re.findall(r"^tests/ +(.*)$", tree, flags=re.MULTILINE)
    assert set(told.split()) == tests


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_a_page_shows_exists(page):
    text = page.read_text(encoding="utf-8")
    inline = re.findall(r"`gpt2kit ([a-z][a-z-]+)", text)
    shown = re.findall(
        r"^(?:    )?(?:.*\| )?gpt2kit ([a-z][a-z-]+)", "\n".join(blocks(text, "")), flags=re.MULTILINE
    )
    assert set(inline + shown) <= set(COMMANDS)


def test_the_readme_shows_every_command():
    assert set(re.findall(r"^gpt2kit ([a-z-]+)", README, flags=re.MULTILINE)) == set(COMMANDS)


def test_every_make_target_that_a_page_names_exists():
    targets = set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named <= targets, page


def test_the_changelog_has_this_version():
    from gpt2kit import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
