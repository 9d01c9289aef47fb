"""Train the pocket model and put it into the package, with its model card and the numbers its tests expect.

    python tools/make_pocket.py tinyshakespeare.txt --run runs/pocket

The text is tiny Shakespeare (Karpathy's char-rnn, 1,115,394 bytes, public domain). The first step is the
command `gpt2kit train` with the settings below and nothing else; `--export-only` takes an existing run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import gpt2kit
from gpt2kit import GPT2LMHeadModel, GPT2TokenizerFast
from gpt2kit.atomic import atomic_write_text
from gpt2kit.torch.training import Trainer
from gpt2kit.training import Metrics, resume

REPOSITORY = Path(__file__).parents[1]
POCKET = REPOSITORY / "src" / "gpt2kit" / "pocket"
GOLDEN = REPOSITORY / "tests" / "golden" / "pocket.json"

TEXT_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SETTINGS = (
    "--vocab-size 2048 --n-layer 6 --n-head 6 --n-embd 192 --n-positions 256 --dropout 0.2 "
    "--attention-dropout 0 --steps 1200 --batch-size 32 --learning-rate 2e-3 --final-learning-rate 0.05 "
    "--warmup-steps 50 --beta2 0.99 --precision bf16 --eval-every 100 --save-every 100 "
    "--save-dtype float16 --seed 1337"
)
GENERATION = {"pad_token_id": 0, "do_sample": True, "temperature": 0.8, "top_k": 50}
SAMPLE = "generate --seed 7 --max-new-tokens 160"
EXCERPT_CHARACTERS = 3000
"""Length of the held-out text that the tests carry."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--run", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--export-only", action="store_true")
    arguments = parser.parse_args()
    found = hashlib.sha256(arguments.text.read_bytes()).hexdigest()
    if found != TEXT_SHA256:
        sys.exit(
            f"{arguments.text} is not tiny Shakespeare as it is known: sha256 {found}, not {TEXT_SHA256}"
        )
    if not arguments.export_only:
        command = ["-m", "gpt2kit", "train", str(arguments.text), "--out", str(arguments.run)]
        subprocess.run([sys.executable, *command, *shlex.split(SETTINGS)], check=True)
    export(arguments.run)
    numbers = measure(arguments.run, arguments.text)
    atomic_write_text(GOLDEN, json.dumps(numbers["tests"], indent=1) + "\n")
    atomic_write_text(POCKET / "README.md", card(arguments.run, numbers))


def export(run: Path) -> None:
    """Copy what from_pretrained reads, and say how the model should write unless told otherwise."""
    POCKET.mkdir(exist_ok=True)
    for path in (run / "best").iterdir():
        shutil.copyfile(path, POCKET / path.name)
    settings = json.loads((run / "best" / "generation_config.json").read_text(encoding="utf-8"))
    del settings["_from_model_config"]  # these are settings of their own, not to be derived again
    atomic_write_text(
        POCKET / "generation_config.json", json.dumps({**settings, **GENERATION}, indent=2) + "\n"
    )


def measure(run: Path, text: Path) -> dict[str, Any]:
    """Evaluate the exported files in float32, on all of both splits, and record what the tests compare."""
    trainer = Trainer(resume(run))
    torch.set_grad_enabled(False)
    model = GPT2LMHeadModel.from_pretrained(POCKET).eval()
    tokenizer = GPT2TokenizerFast.from_pretrained(POCKET)
    held_out, learnt = (
        mean_loss(model, shards) for shards in (trainer.run.data.evaluation, trainer.run.data.train)
    )
    content = text.read_text(encoding="utf-8")
    start = int(len(content) * 0.9)
    excerpt = content[start : start + EXCERPT_CHARACTERS]
    ids = tokenizer(excerpt, return_tensors="pt")["input_ids"]  # [1, T]
    greedy = model.generate(
        tokenizer("ROMEO:\n", return_tensors="pt")["input_ids"],
        do_sample=False,
        temperature=1.0,
        max_new_tokens=40,
    )
    return {
        "held_out": held_out,
        "learnt": learnt,
        "shards": trainer.run.data,
        "parameters": model.num_parameters(),
        "sample": sample(),
        "tests": {
            "excerpt": excerpt,
            "excerpt_loss": mean_loss(model, ids[0].numpy()),
            "held_out_loss": held_out,
            "greedy_prompt": "ROMEO:\n",
            "greedy_ids": greedy[0].tolist(),
            "greedy_text": tokenizer.decode(greedy[0]),
        },
    }


def sample() -> str:
    """Let the command write what the card shows."""
    command = [sys.executable, "-m", "gpt2kit", *shlex.split(SAMPLE)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def mean_loss(model: GPT2LMHeadModel, tokens: Any) -> float:
    """Average the loss over tokens in windows of n_positions, each token but the first predicted once."""
    length = len(tokens)
    read = tokens.read if hasattr(tokens, "read") else lambda start, count: tokens[start : start + count]
    total = 0.0
    width = model.config.n_positions
    for start in range(0, length - 1, width):
        ids = torch.from_numpy(read(start, min(width + 1, length - start)))[None]  # [1, T + 1]
        logits = model(ids[:, :-1]).logits  # [1, T, V]
        total += torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
    return total / (length - 1)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def card(run: Path, numbers: dict[str, Any]) -> str:
    """Write the model card."""
    records = Metrics.read(run / "metrics.jsonl")
    steps = [record for record in records if "loss" in record]
    evaluations = [record for record in records if "eval_loss" in record]
    best = min(evaluations, key=lambda record: record["eval_loss"])
    last = steps[-50:]
    state = torch.load(run / "last" / "training_state.pt", weights_only=True)
    threads = state["environment"]["threads"]
    shards = numbers["shards"]
    bytes_per_token = shards.evaluation.bytes / len(shards.evaluation)
    bits = numbers["held_out"] / 0.6931471805599453 / bytes_per_token
    command = f"gpt2kit train tinyshakespeare.txt --out runs/pocket {SETTINGS}".replace(" --", " \\\n  --")
    settings = ", ".join(f"{name} {value}" for name, value in GENERATION.items())
    rows = "\n".join(
        f"| {record['step']} | {record['eval_loss']:.4f} | {record['eval_perplexity']:.2f} |"
        for record in evaluations
    )
    return CARD.format(
        command=command,
        settings=settings,
        sample_command=SAMPLE,
        rows=rows,
        parameters=f"{numbers['parameters']:,}",
        steps=len(steps),
        best=best["step"],
        train_tokens=f"{len(shards.train):,}",
        eval_tokens=f"{len(shards.evaluation):,}",
        seen=f"{steps[-1]['tokens']:,}",
        epochs=f"{steps[-1]['epoch']:.1f}",
        train_loss=f"{sum(record['loss'] for record in last) / len(last):.4f}",
        learnt=f"{numbers['learnt']:.4f}",
        held_out=f"{numbers['held_out']:.4f}",
        excerpt_characters=f"{EXCERPT_CHARACTERS:,}",
        excerpt=f"{numbers['tests']['excerpt_loss']:.4f}",
        perplexity=f"{2.718281828459045 ** numbers['held_out']:.2f}",
        bits=f"{bits:.3f}",
        minutes=f"{steps[-1]['seconds'] / 60:.0f}",
        hardware=f"{threads} thread(s) of an {processor()}",
        versions=f"gpt2kit {gpt2kit.__version__}, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}",
        sha256=TEXT_SHA256,
        sample=numbers["sample"].replace("\n", "\n    "),
        size=f"{(POCKET / 'model.safetensors').stat().st_size / 1e6:.1f}",
    )


CARD = """# pocket: a GPT-2 that fits into the package

`from_pretrained("pocket")` works without a network. It writes Shakespeare-like English and nothing
else: names in capitals, short speeches, blank verse that rarely means anything.

| | |
|---|---|
| parameters | {parameters} (6 layers, 6 heads, width 192, 256 positions) |
| vocabulary | 2,048 byte-level BPE tokens, made from the text learnt, `<|endoftext|>` included |
| file | {size} MB, float16; loads as float32, or as float16 with `torch_dtype="auto"` |
| data | tiny Shakespeare (sha256 {sha256}), public domain |
| licence | Apache-2.0, as gpt2kit |

## How it was made

```
{command}
```

Exported and measured by `tools/make_pocket.py`.
{steps} steps of 8,192 tokens ({seen} in all, {epochs} times through the
text), seed 1337, {minutes} minutes on {hardware}, shared with other work.
{versions}.
The first nine tenths of the text ({train_tokens} tokens) were learnt, the last tenth ({eval_tokens}) was
held out; the vocabulary was made from the first nine tenths too. These are the weights of step {best}, the
best of:

| step | evaluation loss | perplexity |
|---|---|---|
{rows}

(in bfloat16, while training.) The last 50 training losses average {train_loss}, with dropout.
The files as they are, in float32, without dropout:

| text | loss (nats per token) | perplexity | bits per byte |
|---|---|---|---|
| held out | {held_out} | {perplexity} | {bits} |
| the first {excerpt_characters} characters of it, which the tests carry | {excerpt} | | |
| learnt from | {learnt} | | |

Perplexities are per token of this vocabulary: they compare with no other tokenizer's. Bits per byte do.

## What it is for

Trying gpt2kit without a download, tests, lessons: a real trained GPT-2 that runs in a blink on any CPU.

## What it is not for

- Anything said to a person in earnest. It knows no facts, follows no instructions, and its sentences make no
  sense.
- Other languages, modern English, code: it can spell any text, and is bad at all but Shakespeare's.
- Measuring methods: it has seen one megabyte of text many times over, and remembers some of its phrases.
- The plays' words about women, foreigners, Jews and others are those of 1600, and it repeats them.

## A sample

`gpt2kit {sample_command}`, with the settings of its generation_config.json ({settings}):

    {sample}
"""


if __name__ == "__main__":
    main()
