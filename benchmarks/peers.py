"""The libraries that gpt2kit is measured against, each release in a virtual environment of its own.

    python benchmarks/peers.py        makes or repairs .venv-peers and says what is in it
    python benchmarks/peers.py 4.34   the same for .venv-4.34
    python benchmarks/peers.py 4.34-flax   the same for .venv-4.34-flax, with the JAX of that time
    python benchmarks/peers.py 4.34-tensorflow   likewise for TensorFlow

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
PINS = {"torch": "2.13.0", "transformers": "5.23.0"}
# What later releases no longer have is measured against the last that had it.
PINS_OF_4_34 = {"torch": "2.13.0", "transformers": "4.34.0", "numpy": "1.26.4"}
# The Flax classes of 4.34 need the JAX of 2023: later ones lack what they call.
PINS_OF_4_34_FLAX = {
    "transformers": "4.34.0",
    "jax": "0.4.13",
    "jaxlib": "0.4.13",
    "flax": "0.7.2",
    "optax": "0.1.7",
    "numpy": "1.26.4",
    "scipy": "1.11.4",
    "ml_dtypes": "0.3.2",
}
# Likewise TensorFlow, whose Keras was the second then.
PINS_OF_4_34_TENSORFLOW = {"transformers": "4.34.0", "tensorflow": "2.15.1", "numpy": "1.26.4"}
_ENVIRONMENTS = {
    "5.23": (ROOT / ".venv-peers", PINS),
    "4.34": (ROOT / ".venv-4.34", PINS_OF_4_34),
    "4.34-flax": (ROOT / ".venv-4.34-flax", PINS_OF_4_34_FLAX),
    "4.34-tensorflow": (ROOT / ".venv-4.34-tensorflow", PINS_OF_4_34_TENSORFLOW),
}

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


def peer_python(release: str = "5.23") -> Path:
    """Return the interpreter of a peer, after making its environment if it is not there or not as pinned.

    Args:
        release: Of transformers, "5.23" or "4.34"; "4.34-flax" and "4.34-tensorflow" without PyTorch.
    """
    folder, pins = _ENVIRONMENTS[release]
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        print(f"Making {folder.name} ...", file=sys.stderr)
        venv.create(folder, with_pip=True)
    if installed(python, pins) != pins:
        print(
            f"Installing {', '.join(pins)} into {folder.name} (once; a few minutes of downloads) ...",
            file=sys.stderr,
        )
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *(f"{name}=={version}" for name, version in pins.items())], check=True)
    return python


def installed(python: Path, pins: dict[str, str]) -> dict[str, str | None]:
    """Return the version of each pinned package that an interpreter sees; None where there is none."""
    command = [str(python), "-c", _VERSIONS, *pins]
    answer: dict[str, str | None] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    return answer


if __name__ == "__main__":
    _release = sys.argv[1] if len(sys.argv) > 1 else "5.23"
    print(peer_python(_release), installed(peer_python(_release), _ENVIRONMENTS[_release][1]))
