"""The Python of the pages runs, block after block, as a reader would type it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the pages compute with PyTorch")

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "ROMEO:\n",
    "docs/generation.md": "JULIET:\n",
    "docs/models.md": "",
}


def python_of(page: str) -> str:
    """Join the Python blocks of a page, keeping the numbers of its lines for tracebacks."""
    lines, kept, inside = (ROOT / page).read_text(encoding="utf-8").splitlines(), [], False
    for line in lines:
        if line.startswith("```"):
            inside = line == "```python"
            kept.append("")
        else:
            kept.append(line if inside else "")
    return "\n".join(kept)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_the_page_runs(page, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(compile(python_of(page), page, "exec"), {"__name__": "page"})
    out = capsys.readouterr().out
    assert out.startswith(PAGES[page])
    assert len(out) > len(PAGES[page])


def test_no_page_with_python_is_forgotten():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    with_code = {
        str(page.relative_to(ROOT)) for page in pages if "```python" in page.read_text(encoding="utf-8")
    }
    assert with_code == set(PAGES)


def test_the_readme_shows_five_lines():
    assert len(python_of("README.md").strip().splitlines()) == 5
