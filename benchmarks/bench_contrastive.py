"""Contrastive search: gpt2kit against transformers 4.34, the last peer that has it in the library, on a CPU.

    python benchmarks/bench_contrastive.py            a prompt of 128 tokens, 4 candidates, 64 new tokens
    python benchmarks/bench_contrastive.py --quick    two rounds of fewer tokens

Every round loads a random 124M checkpoint in a new process, in turn for each library. Exit code 1: a target
was missed, or the tokens differ.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from checkpoint import SIZES, random_checkpoint
from contest import OURS, THEIRS, Row, parser_of, report, run_rounds, save
from peers import PINS_OF_4_34, peer_python


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, SIZES, new_tokens=64, quick_tokens=16)
    parser.add_argument("--top-k", type=int, default=4, help="candidates of a step (default: 4)")
    parser.add_argument("--penalty-alpha", type=float, default=0.6, help="penalty (default: 0.6)")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.quick:
        options.repeats, options.new_tokens, options.inner_repeats = 2, 16, 1
    task = {
        "task": "contrastive",
        "warm_up": "load",
        "checkpoint": str(random_checkpoint(options.size)),
        "prompt_length": options.prompt_length,
        "new_tokens": options.new_tokens,
        "top_k": options.top_k,
        "penalty_alpha": options.penalty_alpha,
        "inner_repeats": options.inner_repeats,
        "threads": options.threads,
    }
    results = run_rounds({OURS: Path(sys.executable), THEIRS: peer_python("4.34")}, options.repeats, task)
    save(options.output, results)
    rows = [
        Row(f"generate() of {options.new_tokens}", "whole", "tokens/s", higher_is_better=True, target=1.5),
        Row("after the first token", "decode", "tokens/s", higher_is_better=True),
        Row("peak memory", "memory", "MB"),
    ]
    title = (
        f"Contrastive search, GPT-2 {options.size}, float32, batch 1, prompt {options.prompt_length}, "
        f"{options.top_k} candidates, {options.new_tokens} new; {OURS}, {THEIRS} "
        f"{PINS_OF_4_34[THEIRS]}; PyTorch {PINS_OF_4_34['torch']}; {options.repeats} processes each"
    )
    return 0 if report(title, rows, results) else 1


if __name__ == "__main__":
    sys.exit(main())
