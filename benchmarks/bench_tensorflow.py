"""Measure greedy decoding by XLA in TensorFlow against the classes of transformers 4.34.

    python benchmarks/bench_tensorflow.py                 64 tokens after a prompt of 128
    python benchmarks/bench_tensorflow.py --batch 4       the same for several prompts
    python benchmarks/bench_tensorflow.py --quick         to see that it runs

Both compile: here `generate(..., jit_compile=True)`, there `generate` within a `tf.function` of the caller's,
which is how 4.34 is compiled. The first call of each is timed by itself, and so is the first with a prompt of
125 tokens, for which 4.34 compiles again; then `generate` as it stands, without XLA. 4.34 runs on TensorFlow
2.15 and Keras 2, in an environment that this script makes. The weights are random, so both libraries do the
same work, and the table says whether they wrote the same tokens. Run it with a Python that has TensorFlow.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from checkpoint import SIZES, random_checkpoint
from contest import OURS, THEIRS, Row, parser_of, report, run_rounds, save
from peers import PINS_OF_4_34_TENSORFLOW, peer_python


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, SIZES, new_tokens=64, quick_tokens=16)
    parser.add_argument("--batch", type=int, default=1, help="prompts (default: 1)")
    parser.set_defaults(repeats=3, inner_repeats=3, threads=2)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.quick:
        options.repeats, options.new_tokens, options.inner_repeats = 2, 16, 1
    task = {
        "task": "tensorflow",
        "checkpoint": str(random_checkpoint(options.size)),
        "batch": options.batch,
        "prompt_length": options.prompt_length,
        "new_tokens": options.new_tokens,
        "inner_repeats": options.inner_repeats,
        "threads": options.threads,
    }
    pythons = {OURS: Path(sys.executable), THEIRS: peer_python("4.34-tensorflow")}
    results = run_rounds(pythons, options.repeats, task)
    save(options.output, results)
    rows = [
        Row("compiled generate()", "compiled", "tokens/s", higher_is_better=True, target=1.5),
        Row("first generate()", "compiled_first", "s"),
        Row("after a prompt of another length", "other_length", "s"),
        Row("generate() without XLA", "eager", "tokens/s", higher_is_better=True),
        Row("peak memory, compiled", "memory", "MB"),
    ]
    pins = PINS_OF_4_34_TENSORFLOW
    title = (
        f"GPT-2 {options.size}, float32, batch {options.batch}, prompt {options.prompt_length}, "
        f"{options.new_tokens} new, {options.threads} threads; {OURS}, {THEIRS} {pins[THEIRS]} on "
        f"TensorFlow {pins['tensorflow']}; {options.repeats} processes each"
    )
    return 0 if report(title, rows, results) else 1


if __name__ == "__main__":
    sys.exit(main())
