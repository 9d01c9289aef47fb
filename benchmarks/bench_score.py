"""Score a long text by the sliding window, against the bare forward passes over the same windows, on a CPU.

    python benchmarks/bench_score.py --text wiki.test.raw    all of a text: half an hour for WikiText-2
    python benchmarks/bench_score.py --tokens 8192           its first tokens; without --text, random ones

Both take turns on the same stretch of text in one process, so that what slows one slows the other. Another
process measures the memory. Exit code 1: a target was missed, or the numbers differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from checkpoint import SIZES, random_checkpoint
from worker import peak_memory

LARGEST_RATIO = 1.2  # of the time of the forward passes
MOST_MEMORY = 1500  # MB, beside the weights
CLOSE = 1e-3  # nats of a token's log p, float32 by two ways


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="124M", help="size of the random checkpoint")
    parser.add_argument(
        "--text",
        type=Path,
        default=default_text(),
        help="what is scored (default: WikiText-2 of the material)",
    )
    parser.add_argument("--tokens", type=int, help="only the first so many tokens (default: all)")
    parser.add_argument("--stride", type=int, default=512, help="tokens of each window (default: 512)")
    parser.add_argument("--stretch", type=int, default=8192, help="tokens between two turns (default: 8192)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its own choice)")
    parser.add_argument("--output", type=Path, help="write every measurement to this JSON file")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def default_text() -> Path | None:
    material = os.environ.get("GPT2KIT_MATERIAL")
    return Path(material, "text", "wikitext2.wiki.test.raw") if material else None


def load(options: argparse.Namespace) -> tuple[Any, list[int]]:
    """Return the model and the ids to score."""
    import torch

    from gpt2kit import GPT2LMHeadModel, GPT2TokenizerFast

    if options.threads:
        torch.set_num_threads(options.threads)
    model = GPT2LMHeadModel.from_pretrained(random_checkpoint(options.size))
    vocabulary = model.config.vocab_size
    if options.text is None:
        generator = torch.Generator().manual_seed(2019)
        ids = torch.randint(vocabulary, (options.tokens or 16384,), generator=generator).tolist()
    else:
        tokenizer = GPT2TokenizerFast.from_pretrained("gpt2")
        ids = tokenizer(options.text.read_text(encoding="utf-8"), verbose=False)["input_ids"]
        ids = [index % vocabulary for index in ids[: options.tokens]]
    return model, ids


def forward_passes(model: Any, ids: list[int], stride: int) -> list[float]:
    """Compute the logits of every window, as a plain program would, one window after the other.

    Returns:
        log p of the last token of each window, computed outside of the time by the caller's own choice: the
        proof that both did the same work.
    """
    import torch

    from gpt2kit.evaluation import plan_windows

    found = []
    with torch.no_grad():
        for each in plan_windows(len(ids), window=model.config.n_positions, stride=stride):
            inputs = torch.tensor([ids[each.start : each.stop - 1]])  # [1, T]
            logits = model(inputs, use_cache=False).logits  # [1, T, V]
            found.append(logits[0, -1].log_softmax(-1)[ids[each.stop - 1]].item())
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time both ways on one stretch of the text after the other."""
    from gpt2kit.evaluation import plan_windows

    model, ids = load(options)
    model.score(ids[:1100], stride=options.stride)  # warm up
    ours, theirs, worst = [], [], 0.0
    stretches = [ids[start : start + options.stretch] for start in range(0, len(ids) - 1, options.stretch)]
    for turn, stretch in enumerate(stretches):
        took: dict[str, float] = {}
        for name in ("score", "forward") if turn % 2 else ("forward", "score"):  # neither is always the first
            begun = time.perf_counter()
            if name == "score":
                score = model.score(stretch, stride=options.stride)
            else:
                last = forward_passes(model, stretch, options.stride)
            took[name] = time.perf_counter() - begun
        ours.append(took["score"])
        theirs.append(took["forward"])
        plan = plan_windows(len(stretch), window=model.config.n_positions, stride=options.stride)
        same = [score.log_probs[each.stop - 2] for each in plan]
        worst = max(worst, *(abs(a - b) for a, b in zip(same, last, strict=True)))
        print(f"  {turn + 1} of {len(stretches)}: {took['score'] / took['forward']:.3f}", file=sys.stderr)
    return {
        "tokens": len(ids),
        "score": ours,
        "forward": theirs,
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "largest_difference": worst,
    }


def measure_memory(options: argparse.Namespace) -> dict[str, float]:
    """Score in a process that has done nothing else; its peak counts libraries, weights and all."""
    model, ids = load(options)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6
    before = peak_memory()
    model.score(ids[: options.stretch], stride=options.stride)
    return {"weights": weights, "peak_loaded": before, "peak": peak_memory()}


def main() -> int:
    options = arguments()
    if options.memory_only:
        print(json.dumps(measure_memory(options)))
        return 0
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-only"]
    memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    figures = measure(options)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({**figures, "memory": memory}, indent=1) + "\n")
    beside = memory["peak"] - memory["weights"]
    print(f"GPT-2 {options.size}, float32, {figures['tokens']:,} tokens, stride {options.stride}")
    print(f"score        {figures['tokens'] / sum(figures['score']):8.1f} tokens/s")
    print(f"forward      {figures['tokens'] / sum(figures['forward']):8.1f} tokens/s")
    print(f"ratio        {figures['ratio']:8.3f}   median of the stretches; at most {LARGEST_RATIO}")
    print(f"peak memory  {memory['peak']:8.0f} MB, {beside:.0f} beside the weights; at most {MOST_MEMORY}")
    print(f"difference   {figures['largest_difference']:8.1e} nats; at most {CLOSE}")
    met = figures["ratio"] <= LARGEST_RATIO and beside <= MOST_MEMORY
    return 0 if met and figures["largest_difference"] <= CLOSE else 1


if __name__ == "__main__":
    sys.exit(main())
