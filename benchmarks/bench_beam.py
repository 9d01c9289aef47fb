"""Measure beam search against transformers: several beams of each of several prompts, float32.

    python benchmarks/bench_beam.py                 4 prompts of 128 tokens, 4 beams, 64 new tokens
    python benchmarks/bench_beam.py --quick         to see that it runs

The weights are random and end no text, so both libraries do the same work, and the table says whether they
wrote the same tokens.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from checkpoint import SIZES, random_checkpoint
from contest import OURS, THEIRS, Row, parser_of, report, run_rounds, save
from peers import PINS, peer_python


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, SIZES, new_tokens=64, quick_tokens=16)
    parser.add_argument("--batch", type=int, default=4, help="prompts (default: 4)")
    parser.add_argument("--beams", type=int, default=4, help="beams of each (default: 4)")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.quick:
        options.repeats, options.new_tokens, options.inner_repeats = 2, 16, 1
    task = {
        "task": "beams",
        "warm_up": "load",
        "checkpoint": str(random_checkpoint(options.size)),
        "batch": options.batch,
        "beams": options.beams,
        "prompt_length": options.prompt_length,
        "new_tokens": options.new_tokens,
        "inner_repeats": options.inner_repeats,
        "threads": options.threads,
    }
    results = run_rounds({OURS: Path(sys.executable), THEIRS: peer_python()}, options.repeats, task)
    save(options.output, results)
    rows = [
        Row(f"generate() of {options.new_tokens}", "whole", "tokens/s", higher_is_better=True, target=1.5),
        Row("after the first token", "decode", "tokens/s", higher_is_better=True),
        Row("first token", "first", "s"),
        Row("peak memory", "memory", "MB"),
    ]
    title = (
        f"GPT-2 {options.size}, float32, {options.beams} beams, batch {options.batch}, prompt "
        f"{options.prompt_length}, {options.new_tokens} new; {OURS}, {THEIRS} {PINS[THEIRS]}; PyTorch "
        f"{PINS['torch']}; {options.repeats} processes each"
    )
    return 0 if report(title, rows, results) else 1


if __name__ == "__main__":
    sys.exit(main())
