"""Record what transformers 4.34.0 computes on the tests' tiny models, into tests/golden.

Run it only to add or change goldens:

    python tools/record_golden.py                   make the reference's environment, record everything
    python tools/record_golden.py --python PATH     use an interpreter that has it already
    python tools/record_golden.py --flax-python PATH   likewise, of its Flax classes
    python tools/record_golden.py --tf-python PATH     likewise, of its TensorFlow classes

The reference lives in a virtual environment of its own, because it must never be importable where this
project's tests run. This file prepares weights and inputs from tests/cases.py, has them computed by
`golden_reference.py` over there, and runs the other recorders beside it; `golden_flax.py` and
`golden_tf_signatures.py` run where its Flax and its TensorFlow classes are. tests/golden/manifest.json tells
the versions that were recorded from, and the SHA-256 of each file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
sys.path.insert(0, str(ROOT / "tests"))

# hypothesis, because tests/cases.py has the strategies too; which build of torch comes is up to pip's
# settings.
REQUIREMENTS = ("transformers==4.34.0", "torch==2.13.0", "numpy<2", "hypothesis", "regex", "safetensors")
# The Flax classes, with the versions that they were written for.
FLAX_REQUIREMENTS = (
    "transformers==4.34.0",
    "jax==0.4.13",
    "jaxlib==0.4.13",
    "flax==0.7.2",
    "optax==0.1.7",
    "numpy<1.27",
    "scipy<1.12",
    "ml_dtypes<0.4",
)
# The TensorFlow classes, likewise; keras-nlp and tensorflow-text are for its tokenizer.
TF_REQUIREMENTS = (
    "transformers==4.34.0",
    "tensorflow==2.15.1",
    "tensorflow-text==2.15.0",
    "keras-nlp==0.6.4",
    "h5py",
    "numpy<1.27",
)
# Recorders that others keep beside this one; each is called with the reference's interpreter and the folder.
OTHERS = ("record_config.py", "record_tokenization.py", "record_generation.py", "record_decoding.py")


def main() -> None:
    """Record all, or what --only names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", type=Path, help="interpreter that has " + ", ".join(REQUIREMENTS))
    parser.add_argument("--flax-python", type=Path, help="one that has " + ", ".join(FLAX_REQUIREMENTS))
    parser.add_argument("--tf-python", type=Path, help="one that has " + ", ".join(TF_REQUIREMENTS))
    parser.add_argument(
        "--only",
        nargs="*",
        help="of forward initial layouts signatures config tokenization generation decoding flax_signatures "
        "flax_files tf_signatures tf_files; or manifest",
    )
    options = parser.parse_args()
    python = options.python or make_environment(ROOT / "build" / "reference-venv", REQUIREMENTS)
    GOLDEN.mkdir(parents=True, exist_ok=True)

    def wanted(name: str) -> bool:
        return not options.only or name in options.only

    if wanted("forward"):
        record_forward(python)
    for part in ("initial", "layouts", "signatures"):
        if wanted(part):
            run(python, "golden_reference.py", part, GOLDEN / f"{part}.json")
    for script in OTHERS:
        if wanted(script.removeprefix("record_").removesuffix(".py")) and (ROOT / "tools" / script).exists():
            run(python, script, GOLDEN)
    flax_parts = {
        "flax_signatures": ("golden_flax.py", GOLDEN / "flax_signatures.json"),
        "flax_files": ("record_flax_files.py", GOLDEN),
    }
    for part in filter(wanted, flax_parts):
        folder = ROOT / "build" / "reference-flax-venv"
        flax_python = options.flax_python or make_environment(folder, FLAX_REQUIREMENTS)
        run(flax_python, *flax_parts[part])
    tf_parts = {
        "tf_signatures": ("golden_tf_signatures.py", GOLDEN / "tf_signatures.json"),
        "tf_files": ("record_tf_files.py", GOLDEN),
    }
    for part in filter(wanted, tf_parts):
        folder = ROOT / "build" / "reference-tf-venv"
        tf_python = options.tf_python or make_environment(folder, TF_REQUIREMENTS)
        run(tf_python, *tf_parts[part])
    write_manifest(python)


def make_environment(folder: Path, requirements: tuple[str, ...]) -> Path:
    """Make a virtual environment of the reference if it is not there, and return its interpreter."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    return python


def run(python: Path, script: str, *arguments: object) -> None:
    """Run a script of this folder in the reference's environment."""
    print("recording", script, *arguments)
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums are then added in one order on every machine
    subprocess.run([python, ROOT / "tools" / script, *map(str, arguments)], check=True, env=one_thread)


def record_forward(python: Path) -> None:
    """Write weights, inputs and wishes for each case, and have the reference compute them."""
    import golden_cases
    import golden_heads

    with tempfile.TemporaryDirectory() as folder:
        names = []
        for name, request, arrays in (*golden_cases.requests(), *golden_heads.requests()):
            stem = name.replace("/", "--")
            Path(folder, f"{stem}.json").write_text(json.dumps({"name": name, **request}))
            np.savez(Path(folder, f"{stem}.npz"), **arrays)
            names.append(stem)
        run(python, "golden_reference.py", "forward", folder, GOLDEN / "forward.npz")


def write_manifest(python: Path) -> None:
    """Write which versions were recorded from, and what the files are."""
    asked = "import json, numpy, torch, transformers as t; "
    asked += "print(json.dumps([t.__version__, torch.__version__, numpy.__version__]))"
    answer = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout
    versions: Any = dict(zip(("transformers", "torch", "numpy"), json.loads(answer), strict=True))
    files = {
        path.relative_to(GOLDEN).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(GOLDEN.rglob("*"))
        if path.is_file()
        and path.name not in ("manifest.json", "pocket.json")  # tools/make_pocket.py has that
    }
    text = json.dumps({"recorded_from": versions, "sha256": files}, indent=2)
    (GOLDEN / "manifest.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
