"""`gpt2kit train-tokenizer`: a vocabulary of one's own."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Annotated

import typer

from gpt2kit.cli.console import note, stderr, write
from gpt2kit.errors import InputError

__all__ = ["train_tokenizer"]


def train_tokenizer(
    files: Annotated[list[Path], typer.Argument(help="UTF-8 text files to learn from.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--out", "--output", "-o", help="The folder to write, made if need be.", show_default=False
        ),
    ],
    vocab_size: Annotated[
        int, typer.Option(help="Tokens to have: special tokens, 256 bytes, and merges.")
    ] = 50257,
    min_frequency: Annotated[
        int, typer.Option(min=0, help="How often a pair must occur to become a token.")
    ] = 2,
    special_token: Annotated[
        list[str] | None,
        typer.Option(
            help="A token that is never cut; may be given several times. The first begins and ends texts.",
            show_default="<|endoftext|>",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a tokenizer that is in the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
) -> None:
    """Train a byte-level BPE tokenizer on text files.

    The same files and options give the same tokenizer. It is saved in the files of GPT-2's, for both
    tokenizer classes, and its folder is written to stdout.

    [bold]Examples[/bold]

    gpt2kit train-tokenizer book.txt --vocab-size 4096 --output my-tokenizer

    gpt2kit tokenize --tokenizer my-tokenizer "Hello world"
    """
    from gpt2kit.tokenization import GPT2TokenizerFast
    from gpt2kit.tokenization.corpus import read_pieces
    from gpt2kit.tokenization.train import train_bpe

    if all(path.is_file() and path.stat().st_size == 0 for path in files):
        raise InputError("There is no text to learn from: every file is empty. Name a file that is not.")
    if output.is_file():  # said before the training, not after it
        raise InputError(f"{output} is a file, and a tokenizer is saved in a folder. Pass a folder.")
    if not overwrite:
        _refuse_to_replace(output)
    start = time.perf_counter()
    special = special_token or ["<|endoftext|>"]
    texts = itertools.chain.from_iterable(
        read_pieces(path, added=tuple(special), only_before_spaces=False) for path in files
    )
    backend = train_bpe(
        texts,
        vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        show_progress=stderr.is_terminal and not quiet,
    )
    first, *others = special
    tokenizer = GPT2TokenizerFast(
        tokenizer_object=backend,
        bos_token=first,
        eos_token=first,
        unk_token=first,
        additional_special_tokens=others or None,
    )
    tokenizer.save_pretrained(output)
    if not quiet:
        if len(tokenizer) < vocab_size:
            note(f"The text has no more pairs: {len(tokenizer)} tokens instead of {vocab_size}.")
        note(f"{len(tokenizer)} tokens in {time.perf_counter() - start:.1f} s")
    write(f"{output}\n")


def _refuse_to_replace(folder: Path) -> None:
    """Refuse to write over a tokenizer.

    Raises:
        InputError: The folder holds one.
    """
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        if (folder / name).exists():
            raise InputError(
                f"{folder} holds a tokenizer ({name}). Choose another --output, or pass --overwrite."
            )
