"""The libraries that gpt2kit is measured against, in a virtual environment of their own.

    python benchmarks/peers.py        makes or repairs .venv-peers and says what is in it

The project's own environment never holds them. The versions are pinned: a benchmark against "the newest"
cannot be repeated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-peers"
PINS = {"torch": "2.13.0", "transformers": "5.23.0"}

_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


def peer_python() -> Path:
    """Return the peers' interpreter, after making their environment if it is not there or not as pinned."""
    python = FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        print(f"Making {FOLDER.name} ...", file=sys.stderr)
        venv.create(FOLDER, with_pip=True)
    if installed(python) != PINS:
        print(
            f"Installing {', '.join(PINS)} into {FOLDER.name} (once; a few minutes of downloads) ...",
            file=sys.stderr,
        )
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *(f"{name}=={version}" for name, version in PINS.items())], check=True)
    return python


def installed(python: Path) -> dict[str, str | None]:
    """Return the version of each pinned package that an interpreter sees; None where there is none."""
    command = [str(python), "-c", _VERSIONS, *PINS]
    answer: dict[str, str | None] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    return answer


if __name__ == "__main__":
    print(peer_python(), installed(peer_python()))
