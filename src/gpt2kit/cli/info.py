"""`gpt2kit info`: what a model is, before anything of it is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2kit.cli.console import show, write
from gpt2kit.cli.framework import ROOMS

__all__ = ["info"]

BYTES = {"float32": 4, "bfloat16 or float16": 2, "int8": 1}
CACHE_TOKENS = 1000  # the cache is told per so many tokens
SHOWN = {
    "n_layer": "layers",
    "n_head": "heads",
    "n_embd": "width of the hidden states",
    "n_inner": "width inside the MLP",
    "n_positions": "positions",
    "vocab_size": "vocabulary",
    "activation_function": "activation",
    "bos_token_id": "token that begins a text",
    "eos_token_id": "token that ends a text",
}
SWITCHES = (
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "add_cross_attention",
)  # shown if on


def info(
    model: Annotated[str, typer.Argument(help="A folder or a hub name.")] = "pocket",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit on the hub.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Show a model's configuration, parameters, files and need of memory.

    Only config.json is downloaded, and no framework is needed. The files are those on this disk. It
    also tells which frameworks are installed.

    [bold]Examples[/bold]

    gpt2kit info

    gpt2kit info openai-community/gpt2 --json
    """
    facts = gather(model, revision)
    if as_json:
        write(json.dumps(facts, indent=2) + "\n")
    else:
        draw(facts)


def gather(name: str, revision: str | None) -> dict[str, Any]:
    """Collect what is known of a model as plain data, the form that --json writes."""
    from gpt2kit.checkpoint import head_of, parameter_counts
    from gpt2kit.config import GPT2Config
    from gpt2kit.hub import HubOptions, locate

    folder = locate(name, "config.json", HubOptions(revision=revision)).parent
    config = GPT2Config.from_pretrained(folder)
    parts = parameter_counts(config, head=head_of(config))
    total = sum(parts.values())
    cache = 2 * config.n_layer * config.n_embd * CACHE_TOKENS  # keys and values
    return {
        "name": name,
        "folder": str(folder),
        "config": config.to_dict(),
        "parameters": {**parts, "total": total},
        "weights": stored(folder),
        "files": [
            {"name": path.name, "bytes": path.stat().st_size}
            for path in sorted(folder.iterdir())
            if path.is_file() and not path.name.startswith((".", "_"))
        ],
        "memory": [
            {"dtype": dtype, "weights": total * width, "cache_per_1000_tokens": cache * max(width, 2)}
            for dtype, width in BYTES.items()
        ],
        "frameworks": [
            {"framework": framework.value, "name": room.name, "installed": room.installed()}
            for framework, room in ROOMS.items()
        ],
    }


def stored(folder: Path) -> dict[str, Any] | None:
    """Say what the files of weights hold, by their headers; None where there are none that can be looked at.

    A `pytorch_model.bin` is listed among the files but not opened: that would read all of it, with PyTorch.
    """
    from gpt2kit.checkpoint import open_checkpoint
    from gpt2kit.errors import FileNotInRepositoryError

    try:
        checkpoint = open_checkpoint(folder, formats=("safetensors", "flax", "tensorflow"))
    except FileNotInRepositoryError:
        return None
    with checkpoint:
        numbers: dict[str, int] = {}
        for tensor in checkpoint.values():
            numbers[tensor.dtype] = numbers.get(tensor.dtype, 0) + math.prod(tensor.shape)
        return {
            "files": [path.name for path in checkpoint.files],
            "tensors": len(checkpoint),
            "numbers_by_dtype": numbers,
        }


def draw(facts: dict[str, Any]) -> None:
    """Show the facts to people."""
    config, total, weights = facts["config"], facts["parameters"]["total"], facts["weights"]
    config = {**config, "n_inner": config["n_inner"] or 4 * config["n_embd"]}
    show(
        f"{facts['name']}, in {facts['folder']}",
        [("class", ", ".join(config["architectures"] or ["not told"]))]
        + [(label, str(config[name])) for name, label in SHOWN.items()]
        + [(name, "on") for name in SWITCHES if config[name]],
    )
    show(
        "parameters",
        [(part, f"{count:>13,}  {count / total:6.1%}") for part, count in facts["parameters"].items()],
    )
    show(
        "files on this disk",
        [(file["name"], f"{size(file['bytes']):>11}") for file in facts["files"]]
        + [("weights", describe(weights))],
    )
    show(
        f"memory: the weights, and the cache for each {CACHE_TOKENS:,} tokens",
        [
            (row["dtype"], f"{size(row['weights']):>11} + {size(row['cache_per_1000_tokens'])}")
            for row in facts["memory"]
        ],
    )
    show(
        "frameworks",
        [
            (
                row["framework"],
                f"{row['name']}, {'installed' if row['installed'] else 'not installed: '}"
                + ("" if row["installed"] else f"pip install 'gpt2kit[{row['framework']}]'"),
            )
            for row in facts["frameworks"]
        ],
    )


def describe(weights: dict[str, Any] | None) -> str:
    """Say in a line what the files of weights hold."""
    if weights is None:
        return "no safetensors, msgpack or HDF5; other files are not opened"
    kinds = ", ".join(f"{count:,} x {dtype}" for dtype, count in weights["numbers_by_dtype"].items())
    return f"{weights['tensors']} tensors: {kinds}"


def size(count: int) -> str:
    """Write bytes as people read them, in powers of ten as file managers do."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:,.1f} {unit}"
    return f"{count} bytes"
