"""From a new process to a model that answers: gpt2kit against transformers 5.23, one safetensors checkpoint.

    python benchmarks/bench_load.py            about two minutes
    python benchmarks/bench_load.py --quick    three rounds

The file is in the disk's cache in every counted run. Exit code 1: the target was missed, or
the tokens differ.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from checkpoint import SIZES, random_checkpoint
from contest import OURS, THEIRS, Row, report, run_rounds, save
from peers import PINS, peer_python


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="124M", help="size of the random checkpoint")
    parser.add_argument("--repeats", type=int, default=7, help="processes for each library (default: 7)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its own choice)")
    parser.add_argument("--quick", action="store_true", help="3 processes")
    parser.add_argument("--output", type=Path, help="write every measurement to this JSON file")
    options = parser.parse_args()
    checkpoint = random_checkpoint(options.size)
    task = {"task": "load", "checkpoint": str(checkpoint), "threads": options.threads}
    rounds = 3 if options.quick else options.repeats
    results = run_rounds({OURS: Path(sys.executable), THEIRS: peer_python()}, rounds, task)
    save(options.output, results)
    rows = [
        Row("import", "import", "s"),
        Row("from_pretrained", "from_pretrained", "s"),
        Row("process start to model loaded", "load", "s", target=1.0),
        Row("process start to first token", "first_token", "s"),
        Row("peak memory, loaded", "memory_load", "MB"),
        Row("peak memory, first token", "memory", "MB"),
    ]
    title = f"Loading GPT-2 {options.size}: {OURS} against {THEIRS} {PINS[THEIRS]}; {rounds} processes each"
    return 0 if report(title, rows, results) else 1


if __name__ == "__main__":
    sys.exit(main())
