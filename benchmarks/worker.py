"""One measured process: import one library, load one checkpoint, do one task, print the figures as JSON.

It runs under the interpreter of the project and under that of the peers, so it imports nothing but the
library that it was asked for. `contest.py` starts it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = {"gpt2kit": "gpt2kit.torch", "transformers": "transformers"}


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in MB (1e6 bytes)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # no Linux
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def load(task: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Import the library and load the checkpoint; the clock starts when the parent started this process."""
    begun = time.time()
    model_class = importlib.import_module(MODULES[task["library"]]).GPT2LMHeadModel
    imported = time.time()
    model = model_class.from_pretrained(task["checkpoint"])
    loaded = time.time()
    figures = {
        "start": begun - task["started"],
        "import": imported - begun,
        "from_pretrained": loaded - imported,
        "load": loaded - task["started"],
        "memory_load": peak_memory(),
    }
    return model.eval(), figures


def prompt_of(length: int, vocabulary: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(length)
    return torch.randint(vocabulary, (1, length), generator=generator)  # [1, T]


def greedy(model: Any, prompt: Any, new_tokens: int) -> list[int]:
    """Return the new tokens of a greedy generation."""
    output = model.generate(prompt, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
    new: list[int] = output[0, prompt.shape[1] :].tolist()
    return new


def measure_load(task: dict[str, Any]) -> dict[str, Any]:
    """Load, then make one token, which shows that the weights really are there."""
    model, figures = load(task)
    tokens = greedy(model, prompt_of(8, model.config.vocab_size), 1)
    return figures | {
        "first_token": time.time() - task["started"],
        "memory": peak_memory(),
        "tokens": tokens,
    }


def measure_generate(task: dict[str, Any]) -> dict[str, Any]:
    """Time the steps of a greedy decode, then the first token after a long prompt.

    A generation of one token is the prompt's part; what a longer one takes more is the decoding's.
    """
    model, figures = load(task)
    vocabulary = model.config.vocab_size
    short, long = (prompt_of(task[key], vocabulary) for key in ("prompt_length", "prefill_length"))
    count = task["new_tokens"]
    greedy(model, short, 4)  # warm up
    decode, whole = [], []
    for _ in range(task["inner_repeats"]):
        first, _ = seconds(lambda: greedy(model, short, 1))
        total, tokens = seconds(lambda: greedy(model, short, count))
        decode.append((count - 1) / (total - first))
        whole.append(count / total)
    memory_decode = peak_memory()
    prefill = [seconds(lambda: greedy(model, long, 1)) for _ in range(1 + task["inner_repeats"])][1:]
    return figures | {
        "decode": decode,
        "whole": whole,
        "prefill": [took for took, _ in prefill],
        "memory_decode": memory_decode,
        "memory": peak_memory(),
        "tokens": tokens + prefill[0][1],
    }


def beams(model: Any, prompts: Any, number: int, new_tokens: int) -> list[int]:
    """Return the new tokens of the best text of each prompt."""
    output = model.generate(
        prompts, max_new_tokens=new_tokens, num_beams=number, do_sample=False, pad_token_id=0
    )
    new: list[int] = output[:, prompts.shape[1] :].flatten().tolist()
    return new


def measure_beams(task: dict[str, Any]) -> dict[str, Any]:
    """Time a beam search over a batch: the whole, what the prompts take, and a token after them."""
    import torch

    model, figures = load(task)
    generator = torch.Generator().manual_seed(task["batch"])
    shape = (task["batch"], task["prompt_length"])
    prompts = torch.randint(model.config.vocab_size, shape, generator=generator)  # [B, T]
    number, count = task["beams"], task["new_tokens"]
    beams(model, prompts[:, :8], number, 2)  # warm up
    whole, first, decode = [], [], []
    for _ in range(task["inner_repeats"]):
        short, _ = seconds(lambda: beams(model, prompts, number, 1))
        total, tokens = seconds(lambda: beams(model, prompts, number, count))
        whole.append(task["batch"] * count / total)
        first.append(short)
        decode.append(task["batch"] * (count - 1) / (total - short))
    return figures | {
        "whole": whole,
        "first": first,
        "decode": decode,
        "memory": peak_memory(),
        "tokens": tokens,
    }


def measure_contrastive(task: dict[str, Any]) -> dict[str, Any]:
    """Time contrastive search: the whole, and a token after the first."""
    model, figures = load(task)
    prompt = prompt_of(task["prompt_length"], model.config.vocab_size)
    count = task["new_tokens"]
    way = {"penalty_alpha": task["penalty_alpha"], "top_k": task["top_k"], "pad_token_id": 0}

    def write(new_tokens: int) -> list[int]:
        output = model.generate(prompt, max_new_tokens=new_tokens, **way)
        new: list[int] = output[0, prompt.shape[1] :].tolist()
        return new

    write(2)  # warm up
    whole, decode = [], []
    for _ in range(task["inner_repeats"]):
        first, _ = seconds(lambda: write(1))
        total, tokens = seconds(lambda: write(count))
        whole.append(count / total)
        decode.append((count - 1) / (total - first))
    return figures | {"whole": whole, "decode": decode, "memory": peak_memory(), "tokens": tokens}


def measure_flax(task: dict[str, Any]) -> dict[str, Any]:
    """Time greedy decoding in JAX: `generate` as it is called, then within the caller's own `jax.jit`."""
    if task.get("threads"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task["threads"]])  # XLA takes what it sees
    module = "gpt2kit.flax" if task["library"] == "gpt2kit" else "transformers"
    model = importlib.import_module(module).FlaxGPT2LMHeadModel.from_pretrained(task["checkpoint"])
    import jax
    import numpy as np

    shape = (task["batch"], task["prompt_length"])
    prompts = np.random.default_rng(shape[1]).integers(model.config.vocab_size, size=shape)  # [B, T]
    count = task["new_tokens"]

    def write(ids: Any, params: Any) -> Any:
        return model.generate(
            ids, params=params, max_new_tokens=count, do_sample=False, pad_token_id=0
        ).sequences  # [B, T + new]

    figures: dict[str, Any] = {}
    tokens = []
    for name, function in (("plain", write), ("jitted", jax.jit(write))):
        figures[f"{name}_first"], _ = seconds(lambda f=function: np.asarray(f(prompts, model.params)))
        figures[name] = []
        for _ in range(task["inner_repeats"]):
            took, text = seconds(lambda f=function: np.asarray(f(prompts, model.params)))
            figures[name].append(task["batch"] * count / took)
        tokens.append(text[:, shape[1] :].flatten().tolist())
        figures[f"memory_{name}"] = peak_memory()
    if tokens[0] != tokens[1]:
        sys.exit("generate writes other tokens within jax.jit")
    return figures | {"tokens": tokens[0]}


def measure_tensorflow(task: dict[str, Any]) -> dict[str, Any]:
    """Time greedy decoding: compiled by XLA, after a prompt of another length, and step by step."""
    if task.get("threads"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task["threads"]])  # XLA takes what it sees
    ours = task["library"] == "gpt2kit"
    module = importlib.import_module("gpt2kit.tensorflow" if ours else "transformers")
    import numpy as np
    import tensorflow as tf

    model = module.TFGPT2LMHeadModel.from_pretrained(task["checkpoint"])
    shape = (task["batch"], task["prompt_length"])
    prompts = np.random.default_rng(shape[1]).integers(model.config.vocab_size, size=shape)  # [B, T]
    prompts = prompts.astype(np.int32)  # [B, T]
    count = task["new_tokens"]
    options = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    if ours:
        options["jit_compile"] = True
    compiled = model.generate if ours else tf.function(model.generate, jit_compile=True)

    def write(ids: Any) -> Any:
        return compiled(tf.constant(ids), **options).numpy()  # [B, T + new]

    figures: dict[str, Any] = {"compiled": []}
    figures["compiled_first"], _ = seconds(lambda: write(prompts))
    for _ in range(task["inner_repeats"]):
        took, text = seconds(lambda: write(prompts))
        figures["compiled"].append(task["batch"] * count / took)
    figures["memory"] = peak_memory()
    figures["other_length"], _ = seconds(lambda: write(prompts[:, 3:]))
    eager = {**options, "jit_compile": False} if ours else options
    model.generate(tf.constant(prompts), **(eager | {"max_new_tokens": 2}))  # warm up
    took, _ = seconds(lambda: model.generate(tf.constant(prompts), **eager).numpy())
    figures["eager"] = task["batch"] * count / took
    return figures | {"tokens": text[:, shape[1] :].flatten().tolist()}


def measure_tokenize(task: dict[str, Any]) -> dict[str, Any]:
    """Time both tokenizers on one long text, on its lines as a list, and on the way back."""
    library = importlib.import_module(task["library"])
    text = Path(task["text"]).read_text(encoding="utf-8")
    megabytes = len(text.encode()) / 1e6
    lines = text.splitlines()
    figures: dict[str, Any] = {}
    tokens = []
    for name in ("GPT2TokenizerFast", "GPT2Tokenizer"):
        tokenizer = getattr(library, name).from_pretrained(task["folder"], model_max_length=10**9)
        tokenizer.encode("Hello")  # warm up
        took, ids = seconds(lambda tokenizer=tokenizer: tokenizer(text)["input_ids"])
        figures[f"{name} encode"] = megabytes / took
        took, rows = seconds(lambda tokenizer=tokenizer: tokenizer(lines)["input_ids"])
        figures[f"{name} batch"] = megabytes / took
        took, back = seconds(
            lambda tokenizer=tokenizer, ids=ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        )
        figures[f"{name} decode"] = megabytes / took
        tokens += [zlib.crc32(json.dumps(ids).encode()), zlib.crc32(json.dumps(rows).encode()), back == text]
    return figures | {"memory": peak_memory(), "tokens": tokens}


def main() -> None:
    task = json.loads(sys.argv[1])
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if task.get("threads"):
        os.environ["OMP_NUM_THREADS"] = str(task["threads"])
    measures = {
        "load": measure_load,
        "generate": measure_generate,
        "beams": measure_beams,
        "contrastive": measure_contrastive,
        "flax": measure_flax,
        "tensorflow": measure_tensorflow,
        "tokenize": measure_tokenize,
    }
    measure = measures[task["task"]]
    print(json.dumps(measure(task)))


if __name__ == "__main__":
    main()
