"""Greedy decoding and the first token after a long prompt: gpt2kit against transformers 5.23, on a CPU.

    python benchmarks/bench_generate.py            the release's figures, about ten minutes on two cores
    python benchmarks/bench_generate.py --quick    two rounds of fewer tokens

Every round loads a random 124M checkpoint in a new process, in turn for each library. Exit code 1: a target
was missed, or the tokens differ.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from checkpoint import SIZES, random_checkpoint
from contest import OURS, THEIRS, Row, parser_of, report, run_rounds, save
from peers import PINS, peer_python


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, SIZES, new_tokens=128, quick_tokens=32)
    parser.add_argument("--prefill-length", type=int, default=1023, help="tokens of the long prompt")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.quick:
        options.repeats, options.new_tokens, options.inner_repeats = 2, 32, 1
    task = {
        "task": "generate",
        "warm_up": "load",
        "checkpoint": str(random_checkpoint(options.size)),
        "prompt_length": options.prompt_length,
        "new_tokens": options.new_tokens,
        "prefill_length": options.prefill_length,
        "inner_repeats": options.inner_repeats,
        "threads": options.threads,
    }
    results = run_rounds({OURS: Path(sys.executable), THEIRS: peer_python()}, options.repeats, task)
    save(options.output, results)
    rows = [
        Row("decode", "decode", "tokens/s", higher_is_better=True, target=1.3),
        Row(f"generate() of {options.new_tokens}", "whole", "tokens/s", higher_is_better=True),
        Row(f"first token after {options.prefill_length:,}", "prefill", "s", target=1.5),
        Row("process start to model loaded", "load", "s", target=1.0),
        Row("peak memory, loaded", "memory_load", "MB"),
        Row("peak memory, decode", "memory_decode", "MB"),
        Row("peak memory, long prompt", "memory", "MB"),
    ]
    title = (
        f"GPT-2 {options.size}, float32, batch 1, prompt {options.prompt_length}, {options.new_tokens} new; "
        f"{OURS}, {THEIRS} {PINS[THEIRS]}; PyTorch {PINS['torch']}; {options.repeats} processes each"
    )
    return 0 if report(title, rows, results) else 1


if __name__ == "__main__":
    sys.exit(main())
