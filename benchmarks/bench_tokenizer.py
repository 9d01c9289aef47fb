"""Text to ids and back: gpt2kit's two tokenizers against those of transformers 5.23, in MB of UTF-8 a second.

    python benchmarks/bench_tokenizer.py              on this repository's own pages and sources
    python benchmarks/bench_tokenizer.py --text FILE       a text of your own

transformers 5.23 has one tokenizer under both names; gpt2kit's GPT2Tokenizer is the readable one in Python.
Exit code 1: the ids differ.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from checkpoint import FOLDER, ROOT
from contest import OURS, THEIRS, Row, report, run_rounds, save
from peers import PINS, peer_python


def repository_text() -> str:
    """Return the project's own pages and sources, about a megabyte of English and Python."""
    files = sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py")]
    )
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def tokenizer_folder() -> Path:
    """Return a folder with the files of OpenAI's tokenizer, which transformers reads too."""
    from gpt2kit import GPT2TokenizerFast

    folder = FOLDER / "tokenizer"
    GPT2TokenizerFast.from_pretrained("gpt2").save_pretrained(folder)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text", type=Path, help="a UTF-8 file (default: this repository's pages and sources)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="processes for each library (default: 5)")
    parser.add_argument("--quick", action="store_true", help="2 processes")
    parser.add_argument("--output", type=Path, help="write every measurement to this JSON file")
    options = parser.parse_args()
    folder = tokenizer_folder()
    text = folder / "text.txt"
    text.write_text(
        options.text.read_text(encoding="utf-8") if options.text else repository_text(), encoding="utf-8"
    )
    task = {"task": "tokenize", "folder": str(folder), "text": str(text)}
    rounds = 2 if options.quick else options.repeats
    results = run_rounds({OURS: Path(sys.executable), THEIRS: peer_python()}, rounds, task)
    save(options.output, results)
    rows = [
        Row("GPT2TokenizerFast, one text", "GPT2TokenizerFast encode", "MB/s", higher_is_better=True),
        Row("GPT2TokenizerFast, list of lines", "GPT2TokenizerFast batch", "MB/s", higher_is_better=True),
        Row("GPT2TokenizerFast, decode", "GPT2TokenizerFast decode", "MB/s", higher_is_better=True),
        Row("GPT2Tokenizer, one text", "GPT2Tokenizer encode", "MB/s", higher_is_better=True),
        Row("GPT2Tokenizer, list of lines", "GPT2Tokenizer batch", "MB/s", higher_is_better=True),
        Row("GPT2Tokenizer, decode", "GPT2Tokenizer decode", "MB/s", higher_is_better=True),
        Row("peak memory", "memory", "MB"),
    ]
    title = (
        f"Tokenizing {text.stat().st_size / 1e6:.1f} MB: {OURS} against {THEIRS} {PINS[THEIRS]}; "
        f"{rounds} processes each"
    )
    return 0 if report(title, rows, results) else 1


if __name__ == "__main__":
    sys.exit(main())
