"""`gpt2kit info`: what a model is, before anything of it is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from gpt2kit.cli.console import stdout, write

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["info"]

BYTES = {"float32": 4, "bfloat16 or float16": 2, "int8": 1}
CACHE_TOKENS = 1000  # the cache is told per so many tokens
SHOWN = {
    "n_layer": "layers",
    "n_head": "heads",
    "n_embd": "width of the hidden states",
    "n_inner": "width inside the MLP (None: 4 times the width)",
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

    Only config.json is downloaded, and no framework is needed. The files are those on this disk.

    [bold]Examples[/bold]

    gpt2kit info

    gpt2kit info openai-community/gpt2 --json
    """
    facts = gather(model, revision)
    if as_json:
        write(json.dumps(facts, indent=2) + "\n")
    else:
        for table in tables(facts):
            stdout.print(table)


def gather(name: str, revision: str | None) -> dict[str, Any]:
    """Collect what is known of a model as plain data, the form that --json writes."""
    from gpt2kit.checkpoint.layout import parameter_counts
    from gpt2kit.config import GPT2Config
    from gpt2kit.hub import HubOptions, locate

    folder = locate(name, "config.json", HubOptions(revision=revision)).parent
    config = GPT2Config.from_pretrained(folder)
    parts = parameter_counts(config)
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
    }


def stored(folder: Path) -> dict[str, Any] | None:
    """Say how many tensors of which types the weights on this disk hold; None where there are none."""
    from gpt2kit.checkpoint.read import open_checkpoint
    from gpt2kit.errors import FileNotInRepositoryError

    try:
        checkpoint = open_checkpoint(folder)
    except FileNotInRepositoryError:
        return None
    with checkpoint:
        dtypes: dict[str, int] = {}
        for tensor in checkpoint.values():
            dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + math.prod(tensor.shape)
        return {
            "files": [path.name for path in checkpoint.files],
            "tensors": len(checkpoint),
            "numbers_by_dtype": dtypes,
        }


def tables(facts: dict[str, Any]) -> Iterator[Table]:
    """Draw the facts for people."""
    config = facts["config"]
    yield two_columns(
        f"{facts['name']}  [dim]{escape(facts['folder'])}[/dim]",
        [(label, str(config[name])) for name, label in SHOWN.items()]
        + [(name, str(config[name])) for name in SWITCHES if config[name]],
    )
    total = facts["parameters"]["total"]
    yield two_columns(
        "parameters",
        [(part, f"{count:,}  {count / total:6.1%}") for part, count in facts["parameters"].items()],
    )
    weights = facts["weights"]
    held = "no weights on this disk" if weights is None else describe(weights)
    yield two_columns("files", [*((f["name"], size(f["bytes"])) for f in facts["files"]), ("weights", held)])
    yield two_columns(
        f"memory: weights + cache for each {CACHE_TOKENS:,} tokens",
        [
            (row["dtype"], f"{size(row['weights'])} + {size(row['cache_per_1000_tokens'])}")
            for row in facts["memory"]
        ],
    )


def describe(weights: dict[str, Any]) -> str:
    """Say in a line what the files of weights hold."""
    kinds = ", ".join(f"{count:,} x {dtype}" for dtype, count in weights["numbers_by_dtype"].items())
    return f"{weights['tensors']} tensors: {kinds}"


def two_columns(title: str, rows: list[tuple[str, str]]) -> Table:
    """Lay out names and values."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_header=False)
    table.add_column(style="cyan")
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def size(count: int) -> str:
    """Write bytes as people read them, in powers of ten as file managers do."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:,.1f} {unit}"
    return f"{count} bytes"
