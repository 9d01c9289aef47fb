"""`gpt2kit tokenize`: what a text is to a model."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from gpt2kit.cli.console import note, read_utf8, stdout, write
from gpt2kit.errors import InputError

__all__ = ["tokenize"]

# Neighbouring tokens get different backgrounds; dark letters can be read on all of them.
_STYLES = [f"black on {color}" for color in ("#a5d8ff", "#b2f2bb", "#ffec99", "#ffc9c9", "#d0bfff")]
_VISIBLE = str.maketrans({" ": "·", "\t": "⇥", "\r": "␍"})


def tokenize(
    text: Annotated[
        str | None,
        typer.Argument(
            help="The text, or the ids to decode; - or a pipe reads it from stdin.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the text from this file.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", "-t", help="A folder or a name; gpt2 needs no network.")
    ] = "gpt2",
    decode: Annotated[bool, typer.Option("--decode", "-d", help="Turn ids into text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    slow: Annotated[bool, typer.Option("--slow", help="Use the tokenizer in plain Python.")] = False,
) -> None:
    """Turn text into tokens, or ids into text.

    Shows the tokens in colours, their ids, and how many there are. Nothing of the text is dropped, not even
    the newline at the end of a file.

    [bold]Examples[/bold]

    gpt2kit tokenize "Hello world"

    gpt2kit tokenize --file book.txt --json

    gpt2kit tokenize --decode "15496 995"
    """
    source, data = _read(text, file)
    from gpt2kit.tokenization import AutoTokenizer

    opened = AutoTokenizer.from_pretrained(tokenizer, use_fast=not slow)
    if decode:
        _decode(opened, data, source, as_json)
        return
    facts = _describe(opened, tokenizer, data)
    if not facts["ids"]:
        note("The text is empty: it has no tokens.")
    if as_json:
        write(json.dumps(facts, ensure_ascii=False) + "\n")
    else:
        _draw(facts)


def _read(text: str | None, file: Path | None) -> tuple[str, str]:
    """Take the text from the argument, the file or stdin, and say where it is from.

    Raises:
        InputError: The text is not UTF-8.
    """
    if file is not None and text is not None:
        raise typer.BadParameter("give the text or a file, not both", param_hint="--file")
    if file is not None:
        source, data = str(file), file.read_bytes()
    elif text is not None and text != "-":
        source, data = "the text", os.fsencode(text)
    elif text is None and sys.stdin.isatty():
        raise typer.BadParameter("give a text, a file with --file, or a pipe", param_hint="TEXT")
    else:
        source, data = "stdin", sys.stdin.buffer.read()
    return source, read_utf8(data, source)


def _describe(tokenizer: Any, name: str, text: str) -> dict[str, Any]:
    """Collect what there is to say of a text as plain data, the form that --json writes."""
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    return {
        "tokenizer": name,
        "ids": ids,
        "tokens": tokenizer.convert_ids_to_tokens(ids),
        "pieces": [_piece(tokenizer, index) for index in ids],
        "n_tokens": len(ids),
        "n_characters": len(text),
        "n_bytes": len(text.encode("utf-8")),
    }


def _piece(tokenizer: Any, index: int) -> str:
    r"""Return the text of one token; bytes of half a character are written \xNN."""
    data: bytes = tokenizer.token_bytes(index)
    return data.decode("utf-8", errors="backslashreplace")


def _draw(facts: dict[str, Any]) -> None:
    """Print the tokens in colours, the ids and the counts."""
    if facts["ids"]:
        line = Text()
        for place, piece in enumerate(facts["pieces"]):
            shown = piece.translate(_VISIBLE)
            line.append(shown.replace("\n", "⏎"), _STYLES[place % len(_STYLES)])
            line.append("\n" * shown.count("\n"))
        stdout.print(line, soft_wrap=True)
        stdout.print(" ".join(map(str, facts["ids"])), soft_wrap=True)
    count, size = facts["n_tokens"], facts["n_bytes"]
    each = f", {size / count:.2f} bytes to a token" if count else ""
    counts = ((count, "token"), (facts["n_characters"], "character"), (size, "byte"))
    said = ", ".join(f"{number} {noun if number == 1 else noun + 's'}" for number, noun in counts)
    stdout.print(f"{said}{each}", soft_wrap=True)


def _decode(tokenizer: Any, data: str, source: str, as_json: bool) -> None:
    """Write the text of ids.

    Raises:
        InputError: Something that is no id.
    """
    words = [word for word in re.split(r"[\s,\[\]]+", data) if word]
    wrong = next((word for word in words if not re.fullmatch(r"[0-9]+", word)), None)
    if wrong is not None:
        raise InputError(
            f"{wrong!r} in {source} is no id. Ids are whole numbers with spaces or commas between."
        )
    ids = [int(word) for word in words]
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if not ids:
        note("There are no ids, so there is no text.")
    if as_json:
        write(json.dumps({"ids": ids, "text": text}, ensure_ascii=False) + "\n")
    else:
        write(text if text.endswith("\n") else text + "\n")
