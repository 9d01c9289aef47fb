"""The Python of the pages runs, block after block, as a reader would type it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "ROMEO:\n",
    "docs/activations.md": "torch.Size([1, 6, 9, 9])\n",
    "docs/evaluation.md": "14 tokens scored",
    "docs/export.md": "ROMEO:\nBut soft, what",
    "docs/flax.md": "{'bias': (576,), 'kernel': (576, 192)}\n",
    "docs/generation.md": "'ROMEO:",
    "docs/models.md": "",
    "docs/tensorflow.md": "3,111,936 parameters, 76 variables\n",
}


COMPUTES_WITH = {"docs/flax.md": "jax", "docs/tensorflow.md": "tensorflow"}  # the others with PyTorch


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


@pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")  # torch.export's own
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # Keras' own
@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_the_page_runs(page, monkeypatch, capsys):
    pytest.importorskip(COMPUTES_WITH.get(page, "torch"), reason="the page computes with it")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(compile(python_of(page), page, "exec"), {"__name__": "page"})
    out = capsys.readouterr().out
    assert out.startswith(PAGES[page])
    assert len(out) > len(PAGES[page])


def test_the_python_of_the_training_page_runs_when_it_is_shorter(monkeypatch, tmp_path):
    """One step instead of a hundred, on a text of ours."""
    pytest.importorskip("torch", reason="the page computes with PyTorch")
    code = python_of("docs/training.md")
    assert "steps=100" in code
    (tmp_path / "plays.txt").write_text("ROMEO:\nBut soft, what light through yonder window breaks?\n" * 300)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("steps=100", "steps=1"), "docs/training.md", "exec"), {"__name__": "page"})
    assert (tmp_path / "runs" / "plays" / "last" / "model.safetensors").is_file()


def test_no_page_with_python_is_forgotten():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    with_code = {
        str(page.relative_to(ROOT)) for page in pages if "```python" in page.read_text(encoding="utf-8")
    }
    assert with_code == {*PAGES, "docs/training.md"}


def test_the_readme_shows_five_lines():
    assert len([line for line in python_of("README.md").splitlines() if line]) == 5
