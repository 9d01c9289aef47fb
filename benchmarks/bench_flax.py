"""Measure greedy decoding in JAX against the Flax classes of transformers 4.34, the last that had them.

    python benchmarks/bench_flax.py                 64 tokens after a prompt of 128
    python benchmarks/bench_flax.py --batch 4       the same for several prompts
    python benchmarks/bench_flax.py --quick         to see that it runs

Those classes trace and compile in every call of `generate`, unless the caller wraps it in `jax.jit`; both
ways are measured, and the faster one is what counts. The weights are random, so both libraries do the same
work, and the table says whether they wrote the same tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from checkpoint import SIZES, random_checkpoint
from contest import OURS, THEIRS, Row, parser_of, report, run_rounds, save, values
from peers import PINS_OF_4_34_FLAX, peer_python


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, SIZES, new_tokens=64, quick_tokens=16)
    parser.add_argument("--batch", type=int, default=1, help="prompts (default: 1)")
    parser.set_defaults(repeats=3, inner_repeats=3, threads=2)
    return parser.parse_args()


def flax_checkpoint(size: str) -> Path:
    """Return the folder of the random checkpoint in the format of 4.34's Flax classes."""
    folder = random_checkpoint(size).with_name(f"gpt2-{size}-random-flax")
    if not (folder / "flax_model.msgpack").exists():
        from gpt2kit import FlaxGPT2LMHeadModel

        model = FlaxGPT2LMHeadModel.from_pretrained(random_checkpoint(size))
        model.save_pretrained(folder, safe_serialization=False)
    return folder


def main() -> int:
    options = arguments()
    if options.quick:
        options.repeats, options.new_tokens, options.inner_repeats = 2, 16, 1
    task = {
        "task": "flax",
        "checkpoint": str(flax_checkpoint(options.size)),
        "batch": options.batch,
        "prompt_length": options.prompt_length,
        "new_tokens": options.new_tokens,
        "inner_repeats": options.inner_repeats,
        "threads": options.threads,
    }
    results = run_rounds(
        {OURS: Path(sys.executable), THEIRS: peer_python("4.34-flax")}, options.repeats, task
    )
    for figures in results.values():
        faster = max(("plain", "jitted"), key=lambda way: statistics.median(values(figures, way)))
        for figure in figures:
            figure["faster"] = figure[faster]
    save(options.output, results)
    rows = [
        Row("generate()", "plain", "tokens/s", higher_is_better=True),
        Row("generate() within jax.jit", "jitted", "tokens/s", higher_is_better=True),
        Row("the faster of both", "faster", "tokens/s", higher_is_better=True, target=1.3),
        Row("first generate()", "plain_first", "s"),
        Row("peak memory", "memory_plain", "MB"),
        Row("peak memory, with jax.jit", "memory_jitted", "MB"),
    ]
    pins = PINS_OF_4_34_FLAX
    title = (
        f"GPT-2 {options.size}, float32, batch {options.batch}, prompt {options.prompt_length}, "
        f"{options.new_tokens} new, {options.threads} threads; {OURS}, {THEIRS} {pins[THEIRS]} with jax "
        f"{pins['jax']}; {options.repeats} processes each"
    )
    return 0 if report(title, rows, results) else 1


if __name__ == "__main__":
    sys.exit(main())
