"""What is shipped: all that the package needs at run time, little enough, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_stays_under_ten_megabytes(wheel):
    assert wheel.stat().st_size < 10 * MEGABYTE


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gpt2kit"}
    for needed in (
        "gpt2kit/py.typed",
        "gpt2kit/__init__.pyi",
        "gpt2kit/pocket/model.safetensors",
        "gpt2kit/pocket/tokenizer.json",
        "gpt2kit/pocket/README.md",
        "gpt2kit/tokenization/data/merges.txt",
        "gpt2kit/tokenization/data/LICENSE.openai-gpt2.txt",
    ):
        assert needed in names
    assert {name.rsplit("/", 1)[1] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    package = {
        f"gpt2kit/{path.relative_to(ROOT / 'src' / 'gpt2kit').as_posix()}"
        for path in (ROOT / "src" / "gpt2kit").rglob("*.py")
    }
    assert package <= set(names)


def test_no_file_of_the_repository_is_over_eight_megabytes():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    assert [path.name for path in paths if path.is_file() and path.stat().st_size > 8 * MEGABYTE] == []
