"""`gpt2kit evaluate`: how well a model predicts a text, ends passages, or chooses answers."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2kit.cli.console import read_utf8, show, write
from gpt2kit.cli.generate import POCKET, Dtype, loading

__all__ = ["evaluate"]


class Task(StrEnum):
    """What a file holds, and so what is measured on it."""

    text = "text"
    lambada = "lambada"
    choice = "choice"


class LambadaProtocol(StrEnum):
    """Whose way of scoring LAMBADA; `gpt2kit.evaluation.Protocol`, without importing it for --help."""

    openai = "openai"
    lm_eval = "lm-eval"


def evaluate(
    task: Annotated[
        Task,
        typer.Argument(
            help="text: perplexity of a text; lambada: the last words of passages; choice: multiple choice.",
            show_default=False,
        ),
    ],
    file: Annotated[
        Path, typer.Argument(help="A text file, or JSON lines; - reads stdin.", show_default=False)
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="A folder or a hub name.")] = POCKET,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit on the hub.", show_default=False)
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, mps; auto: a CUDA device where there is one, or the CPU.")
    ] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="How the weights are held.")] = Dtype.float32,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Rows that go through the model at once.", show_default="by length"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Only the first N tokens of a text, or lines.", show_default="all"
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Tokens that the model sees at once.",
            show_default="the model's n_positions",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Tokens that each window after the first scores.",
            show_default="half the window",
        ),
    ] = None,
    bos: Annotated[
        bool,
        typer.Option(
            "--bos", help="text: put the model's bos token before it, to score its first token too."
        ),
    ] = False,
    wikitext: Annotated[
        bool,
        typer.Option("--wikitext", help="text: undo WikiText's tokens; words and bytes count as they stood."),
    ] = False,
    protocol: Annotated[
        LambadaProtocol | None,
        typer.Option(help="lambada: whose way of scoring.", show_default="both, one after the other"),
    ] = None,
    stop_words: Annotated[
        Path | None,
        typer.Option(
            help="lambada: words that are no answers, one to a line (with --protocol openai).",
            show_default=False,
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(help="choice: what stands between context and choice.", show_default="a space"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
) -> None:
    """Measure a model on a file: perplexity, LAMBADA, or multiple choice.

    LAMBADA's lines have a field "text"; those of multiple choice have "context", "choices" and "label", the
    number of the right one from 0.

    [bold]Examples[/bold]

    gpt2kit evaluate text novel.txt --stride 128

    gpt2kit evaluate lambada lambada_test.jsonl --model gpt2 --protocol lm-eval

    gpt2kit evaluate choice questions.jsonl --limit 100 --json
    """
    _refuse_options_of_other_tasks(
        task,
        {
            "--bos": (Task.text, bos),
            "--wikitext": (Task.text, wikitext),
            "--protocol": (Task.lambada, protocol is not None),
            "--stop-words": (Task.lambada, stop_words is not None),
            "--delimiter": (Task.choice, delimiter is not None),
        },
    )
    if stop_words is not None and protocol is not LambadaProtocol.openai:
        raise typer.BadParameter("it belongs to --protocol openai", param_hint="--stop-words")
    if wikitext and limit is not None:
        raise typer.BadParameter(
            "words are counted over the whole text; not with --limit", param_hint="--wikitext"
        )
    content = _read(file)
    words = None if stop_words is None else _read(stop_words).split()
    with loading(model, quiet):
        import gpt2kit.torch  # noqa: F401  # first, because it knows what to say where there is no PyTorch
        from gpt2kit.cli.evaluator import Evaluator

        evaluator = Evaluator.load(model, revision=revision, device=device, dtype=dtype.value, quiet=quiet)
    evaluator.set_window(window, stride, batch_size)
    source = "stdin" if str(file) == "-" else str(file)
    if task is Task.text:
        told = evaluator.text(content, source, limit=limit, bos=bos, wikitext=wikitext)
    elif task is Task.lambada:
        ways = [each.value for each in LambadaProtocol] if protocol is None else [protocol.value]
        told = evaluator.lambada(content, source, limit=limit, protocols=ways, stop_words=words)
    else:
        told = evaluator.choice(
            content, source, limit=limit, delimiter=" " if delimiter is None else delimiter
        )
    told = {"task": task.value, "file": source, "model": model, **told}
    if as_json:
        write(json.dumps(told, ensure_ascii=False) + "\n")
    else:
        draw(told)


def _refuse_options_of_other_tasks(task: Task, given: dict[str, tuple[Task, bool]]) -> None:
    """Refuse what would change nothing; `given` is name -> the task it belongs to, whether it was given."""
    for name, (belongs_to, is_given) in given.items():
        if is_given and task is not belongs_to:
            raise typer.BadParameter(f"it belongs to the task {belongs_to.value}", param_hint=name)


def _read(file: Path) -> str:
    """Read a file or stdin as text, without a byte order mark.

    Raises:
        InputError: It is not UTF-8.
    """
    is_stdin = str(file) == "-"
    data = sys.stdin.buffer.read() if is_stdin else file.read_bytes()
    return read_utf8(data, "stdin" if is_stdin else str(file)).removeprefix("\ufeff")


def draw(told: dict[str, Any]) -> None:
    """Show the numbers to people: one table, or one for each protocol."""
    shared = {name: value for name, value in told.items() if name not in ("task", "file", "model", "results")}
    for result in told.get("results", [{}]):
        rows = [(name.replace("_", " "), _number(value)) for name, value in {**result, **shared}.items()]
        show(f"{told['model']} on {told['file']} ({told['task']})", rows)


def _number(value: Any) -> str:
    """Write a value as people read it; None is what has no number."""
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 1e12 else f"{value:.4e}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)
