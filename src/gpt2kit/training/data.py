"""Token shards: a text as token ids on disk, in flat files that are mapped into memory and never read whole.

```
data/
  index.json          what the shards were made of and how many tokens they hold; written last
  tokenizer/          the tokenizer that made them
  train-00000.bin     token ids, uint16 (uint32 for vocabularies beyond 65,536), little-endian, nothing else
  eval-00000.bin
```

Every file is written aside and renamed, and the index comes last: a folder with an index is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2kit.atomic import atomic_file, atomic_write_text, folder_lock, remove_leftovers
from gpt2kit.errors import TrainingError
from gpt2kit.training.text import TextPart, TextSource, pieces, split

__all__ = ["Recipe", "TokenData", "TokenShards", "fingerprint", "prepare"]

INDEX = "index.json"
_FORMAT = "gpt2kit token shards 1"
_SHARD_TOKENS = 1 << 26  # 128 MB of uint16: few files, and each is still quick to copy
_PIECES_AT_ONCE = 64  # 4 MB of text tokenized side by side
_LARGEST_UINT16 = 1 << 16

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True)
class Recipe:
    """What shards are made of. Equal recipes make equal shards, so that those on disk can be used again.

    Attributes:
        sources: the files to learn from.
        eval_source: the file to evaluate on; None holds out the end of `sources`.
        eval_fraction: how much of `sources` is held out where there is no `eval_source`.
        tokenizer: a fast tokenizer, or the function that trains one on the text to learn from.
        trained_vocabulary: the size of the vocabulary that is trained; None for a ready tokenizer.
    """

    sources: Sequence[TextSource]
    eval_source: TextSource | None
    eval_fraction: float
    tokenizer: Any
    trained_vocabulary: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what the index keeps to tell whether shards on disk fit."""
        held_out = None if self.eval_source is None else self.eval_source.to_dict()
        return {
            "text": [source.to_dict() for source in self.sources],
            "evaluation": held_out or {"last_part_of_text": self.eval_fraction},
            "tokenizer": {"trained_on_the_text": self.trained_vocabulary}
            if self.trained_vocabulary
            else {"sha256": fingerprint(self.tokenizer)},
        }

    def parts(self) -> tuple[list[TextPart], list[TextPart]]:
        """Return the text to learn from and the text to evaluate on."""
        if self.eval_source is None:
            return split(self.sources, self.eval_fraction)
        learnt, _ = split(self.sources, 0.0)
        return learnt, split([self.eval_source], 0.0)[0]


class TokenShards:
    """The tokens of one split as if they were one array. `len` is their number.

    Raises:
        TrainingError: a file is missing, or does not hold the tokens that the index says.
    """

    def __init__(self, folder: Path, entry: dict[str, Any], dtype: np.dtype[Any]) -> None:
        self.bytes: int = entry["bytes"]
        self._arrays: list[NDArray[Any]] = []
        for name, tokens in entry["files"]:
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != tokens * dtype.itemsize:
                came = "is missing" if size is None else f"has {size:,} bytes"
                raise TrainingError(
                    f"{path} should have {tokens * dtype.itemsize:,} bytes and {came}: delete {folder} "
                    "and make the shards again."
                )
            self._arrays.append(np.memmap(path, dtype, mode="r"))
        self._ends = np.cumsum([len(array) for array in self._arrays], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """Return the tokens from `start` on, across the borders of files: [length]."""
        if not 0 <= start <= start + length <= len(self):
            raise IndexError(f"tokens {start} to {start + length} of {len(self)}")
        found = []
        shard = int(np.searchsorted(self._ends, start, side="right"))
        while length > 0:
            array = self._arrays[shard]
            inside = start - (int(self._ends[shard]) - len(array))
            found.append(array[inside : inside + length])
            start, length, shard = start + len(found[-1]), length - len(found[-1]), shard + 1
        return np.concatenate(found).astype(np.int64) if found else np.empty(0, np.int64)  # [length]

    def blocks(
        self, starts: NDArray[np.int64], block_size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the inputs at these starts and, one token further, their targets. Both [B, T]."""
        rows = np.stack([self.read(int(start), block_size + 1) for start in starts])  # [B, T + 1]
        return rows[:, :-1], rows[:, 1:]  # [B, T] both


@dataclass(frozen=True)
class TokenData:
    """A folder of shards: text to learn from, text to evaluate on (or None), and their tokenizer's folder."""

    folder: Path
    train: TokenShards
    evaluation: TokenShards | None
    vocab_size: int
    tokenizer_sha256: str
    recipe: dict[str, Any]

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer of these shards is saved."""
        return self.folder / "tokenizer"

    @classmethod
    def open(cls, folder: Path) -> TokenData:
        """Open what `prepare` wrote.

        Raises:
            TrainingError: there is no index, or it does not describe the files beside it.
        """
        index = _read_index(folder)
        if index is None:
            raise TrainingError(f"{folder} holds no token shards: there is no {INDEX} in it.")
        dtype = np.dtype(index["dtype"])
        held_out = index["eval"]
        return cls(
            folder,
            TokenShards(folder, index["train"], dtype),
            None if held_out is None else TokenShards(folder, held_out, dtype),
            index["vocab_size"],
            index["tokenizer_sha256"],
            index["recipe"],
        )


def prepare(
    folder: Path, recipe: Recipe, *, replace: bool = False, progress: Progress | None = None
) -> tuple[TokenData, bool]:
    """Make the shards of a recipe, or find them made already.

    Args:
        folder: where they are or will be.
        recipe: what they are made of.
        replace: make them again where the folder holds shards of another recipe.
        progress: told how many bytes of text have been tokenized.

    Returns:
        The shards, and whether they were there already.

    Raises:
        TrainingError: the folder holds shards of another text or tokenizer, or the text cannot be used.
        StorageError: another process is making shards in the folder and does not come to an end.
    """
    asked = recipe.to_dict()
    if _made(folder, asked, replace=replace):
        return TokenData.open(folder), True
    parts = recipe.parts()  # refuses an empty text before a folder is made
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        if _made(folder, asked, replace=replace):  # by another run, while this one waited
            return TokenData.open(folder), True
        remove_leftovers(folder, "*")
        if (folder / INDEX).exists():  # of another recipe
            (folder / INDEX).unlink()  # from here on the folder is not complete
            for shard in (*folder.glob("train-*.bin"), *folder.glob("eval-*.bin")):
                shard.unlink()
        _write(folder, recipe, parts, asked, progress)
    return TokenData.open(folder), False


def _made(folder: Path, asked: dict[str, Any], *, replace: bool) -> bool:
    """Tell whether a folder holds the shards of a recipe, and refuse those of another one."""
    index = _read_index(folder)
    if index is None or index["recipe"] == asked:
        return index is not None
    if not replace:
        differs = [name for name in asked if index["recipe"].get(name) != asked[name]]
        raise TrainingError(
            f"The token shards in {folder} were made of something else (not the same: {', '.join(differs)}). "
            "Name another folder, or delete this one."
        )
    return False


def fingerprint(tokenizer: Any) -> str:
    """Hash everything of a fast tokenizer that decides its ids: what a text's shards depend on."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    added = sorted((token["id"], token["content"]) for token in content["added_tokens"])
    decisive = {
        "vocabulary": sorted(model["vocab"].items(), key=lambda entry: entry[1]),
        "merges": merges,
        "added": added,
        "normalizer": content["normalizer"],
        "pre_tokenizer": content["pre_tokenizer"],
    }
    return hashlib.sha256(json.dumps(decisive, ensure_ascii=True).encode()).hexdigest()


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        index = None
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        raise TrainingError(f"{path} is not an index of token shards; delete {folder} and make them again.")
    return index


def _write(
    folder: Path,
    recipe: Recipe,
    parts: tuple[list[TextPart], list[TextPart]],
    asked: dict[str, Any],
    progress: Progress | None,
) -> None:
    learnt, held_out = parts
    tokenizer = recipe.tokenizer
    if recipe.trained_vocabulary is not None:
        tokenizer = tokenizer(chain.from_iterable(pieces(part) for part in learnt))
    tokenizer.save_pretrained(folder / "tokenizer")
    dtype = np.dtype("<u2" if len(tokenizer) <= _LARGEST_UINT16 else "<u4")
    total = sum(part.size for part in (*learnt, *held_out))
    done = 0

    def write_split(name: str, parts: list[TextPart]) -> dict[str, Any]:
        nonlocal done

        def arrays() -> Iterator[NDArray[Any]]:
            nonlocal done
            for ids, size in _encode(tokenizer, parts):
                yield ids.astype(dtype)
                done += size
                if progress is not None:
                    progress(done, total)

        files = _write_shards(folder, name, arrays())
        return {
            "tokens": sum(tokens for _, tokens in files),
            "bytes": sum(part.size for part in parts),
            "files": files,
        }

    index = {
        "format": _FORMAT,
        "recipe": asked,
        "tokenizer_sha256": fingerprint(tokenizer),
        "vocab_size": len(tokenizer),
        "dtype": dtype.str,
        "train": write_split("train", learnt),
        "eval": write_split("eval", held_out) if held_out else None,
    }
    atomic_write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _encode(tokenizer: Any, parts: Sequence[TextPart]) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Tokenize parts of text; between two files stands the end-of-text token. Yields ids and their bytes."""
    backend = tokenizer.backend_tokenizer
    end = tokenizer.eos_token_id
    for number, part in enumerate(parts):
        if number > 0 and end is not None:
            yield np.array([end]), 0
        texts = pieces(part, tokenizer)
        while batch := list(islice(texts, _PIECES_AT_ONCE)):
            for text, encoding in zip(
                batch, backend.encode_batch_fast(batch, add_special_tokens=False), strict=True
            ):
                yield np.array(encoding.ids, np.int64), len(text.encode())


def _write_shards(folder: Path, name: str, arrays: Iterable[NDArray[Any]]) -> list[tuple[str, int]]:
    """Write tokens as files of at most `_SHARD_TOKENS`; return their names and numbers of tokens."""
    files: list[tuple[str, int]] = []
    rest = iter(arrays)
    waiting = next(rest, None)
    while waiting is not None:
        path = folder / f"{name}-{len(files):05d}.bin"
        written = 0
        with atomic_file(path) as file:
            while waiting is not None and written < _SHARD_TOKENS:
                now, later = np.split(waiting, [_SHARD_TOKENS - written])
                file.write(now.tobytes())
                written += len(now)
                waiting = later if len(later) else next(rest, None)
        if written:
            files.append((path.name, written))
    return files
