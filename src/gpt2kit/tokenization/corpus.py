"""Encode files that are larger than the memory: cut, encode the pieces on several cores, keep the order.

Where may a text be cut so that its tokens stay what they are? GPT-2's words (`PATTERN` in bpe.py) have white
space at their beginning only, or are nothing but white space. So no word goes across the place between a
character that is no white space and one that is, and no word looks across it: how many spaces belong to a
word is decided by what comes after them. Scripts without spaces are cut between a letter and a mark of
punctuation instead. An added token is different: it may have white space inside, or look at its neighbours.
So no place is taken that an added token touches.
"""

from __future__ import annotations

import codecs
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import regex

from gpt2kit.errors import HubError, InputError, TokenizerError

if TYPE_CHECKING:
    from gpt2kit.tokenization.fast import GPT2TokenizerFast

__all__ = ["encode_file", "read_pieces"]

# Searched backwards from the end, (?r), so that pieces come out as long as they may be.
_BEFORE_SPACE = regex.compile(r"(?r)(?<=\S)(?= )")
_BEFORE_WHITE_SPACE = regex.compile(r"(?r)(?<=\S)(?=\s)")
# Letters of scripts without spaces, before a mark that no word has inside. Both are in Unicode since long, so
# that all libraries agree on what they are.
_BEFORE_MARK = regex.compile(
    r"(?r)(?<=[\u3041-\u3096\u30A1-\u30FA\u4E00-\u9FA5\u0E01-\u0E30])(?=[、。，．！？：；])"
)


def encode_file(
    tokenizer: GPT2TokenizerFast,
    path: str | os.PathLike[str],
    *,
    chunk_bytes: int = 2**16,
    workers: int | None = None,
) -> Iterator[np.ndarray]:
    """Yield the ids of a text file in order; `GPT2TokenizerFast.encode_file` explains the arguments."""
    workers = os.cpu_count() or 1 if workers is None else workers
    if workers < 1 or chunk_bytes < 1:
        raise InputError(f"workers={workers} and chunk_bytes={chunk_bytes} must both be 1 or more.")
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        raise TokenizerError(
            "This tokenizer changes a text before it is cut, so a file cannot be cut first. Encode it whole."
        )
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    added = tuple(token.content for token in tokenizer.added_tokens_decoder.values())
    pieces = read_pieces(path, chunk_bytes, added, only_before_spaces=tokenizer.add_prefix_space)

    def encode(piece: str) -> np.ndarray:
        # encode_batch lets other threads run, which encode does not; _fast leaves the offsets out.
        encoding = backend.encode_batch_fast([piece], add_special_tokens=False)[0]
        return np.array(encoding.ids, dtype=dtype)  # [tokens of the piece]

    def run() -> Iterator[np.ndarray]:
        waiting: deque[Future[np.ndarray]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            try:
                for piece in pieces:
                    waiting.append(pool.submit(encode, piece))
                    if len(waiting) > workers:  # so many pieces are in memory, and no more
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    return run()


def read_pieces(
    path: str | os.PathLike[str],
    chunk_bytes: int = 2**16,
    added: tuple[str, ...] = (),
    *,
    only_before_spaces: bool = False,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[str]:
    """Yield the text of a UTF-8 file in pieces whose tokens are those of the whole.

    Args:
        path: The file.
        chunk_bytes: About how long a piece is.
        added: Texts of the added tokens.
        only_before_spaces: Whether each piece but the first must begin with a space, because a tokenizer
            with `add_prefix_space` would put one there.
        start: The byte to begin at; it must begin a character.
        stop: The byte to end before, the end of the file unless told.

    Raises:
        HubError: There is no such file.
        TokenizerError: The file is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    patterns = (_BEFORE_SPACE,) if only_before_spaces else (_BEFORE_WHITE_SPACE, _BEFORE_MARK)
    rest = ""
    try:
        with Path(path).open("rb") as file:
            place = file.seek(start)
            while block := file.read(chunk_bytes if stop is None else min(chunk_bytes, stop - place)):
                try:
                    rest += decoder.decode(block)
                except UnicodeDecodeError as error:
                    pending = len(decoder.getstate()[0])
                    raise _not_utf8(path, place - pending + error.start) from error
                place += len(block)
                cut = _last_cut(rest, len(block), patterns, added)
                if cut:
                    yield rest[:cut]
                    rest = rest[cut:]
            if decoder.getstate()[0]:
                raise _not_utf8(path, place - len(decoder.getstate()[0]))
    except OSError as error:
        raise HubError(f"{path} cannot be read: {error.strerror}. Pass a text file.") from error
    if rest:
        yield rest


def _last_cut(
    text: str, searched: int, patterns: tuple[regex.Pattern[str], ...], added: tuple[str, ...]
) -> int:
    """Return the last place where a text may be cut, 0 if there is none in its last `searched` characters."""
    longest = max(map(len, added), default=0)
    for pattern in patterns:
        for found in pattern.finditer(text, max(0, len(text) - searched - longest - 1)):
            place: int = found.start()
            # What comes next in the file may complete an added token, so stay off the end.
            if place + longest <= len(text) and not _touches(text, place, added):
                return place
    return 0


def _touches(text: str, place: int, added: tuple[str, ...]) -> bool:
    """Tell whether an added token goes across a place, or ends or begins at it."""
    for token in added:
        start = text.find(token, max(0, place - len(token)), place + len(token))
        if start >= 0:
            return True
    return False


def _not_utf8(path: str | os.PathLike[str], place: int) -> TokenizerError:
    return TokenizerError(
        f"{path} is not UTF-8: byte {place} begins no character. "
        "Convert it first, for example with iconv -f latin1 -t utf-8."
    )
