"""Streamers: text as it is being written, one complete character at a time.

A byte-level token may hold a part of a character, and decoding may still change the last few characters
(" n" followed by "'t" is cleaned up to "n't"). A streamer holds such a tail back until it is settled, so that
the pieces put together are exactly what decoding all tokens at once gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Protocol, Self

from gpt2kit.errors import InputError

__all__ = ["AsyncTextIteratorStreamer", "BaseStreamer", "TextIteratorStreamer", "TextStreamer"]

# Decoding looks at this many tokens again at most, whatever the length of the text.
_WINDOW = 32
# What decode's clean-up joins; a text that ends in the beginning of one may still change there. So may one
# that ends in "'": that may have been " ' ", and is " '" again should " ." take the last space.
_JOINED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
_UNSETTLED = tuple(
    sorted({"'", *(text[:n] for text in _JOINED for n in range(1, len(text)))}, key=len, reverse=True)
)  # longest first


class _Decodes(Protocol):
    def decode(self, token_ids: list[int], **kwargs: Any) -> str: ...


class BaseStreamer:
    """Receive the tokens of `generate` as they are made: the prompt first, then one token per row at a time.

    A subclass defines `put` and `end`. As a context manager it learns of an error: `generate` runs inside
    `with streamer:`, and `fail` is called with the exception before that is raised to the caller.
    """

    def put(self, value: Any) -> None:
        """Receive token ids: an array of any framework, or a list."""
        raise NotImplementedError(f"{type(self).__name__} has to define put().")

    def end(self) -> None:
        """Learn that the text is complete."""
        raise NotImplementedError(f"{type(self).__name__} has to define end().")

    def fail(self, error: BaseException) -> None:
        """Learn that the generation failed; there is nothing to do where no one else waits for the text."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)


class TextStreamer(BaseStreamer):
    """Print the text of one row as it is written; override `on_finalized_text` to do something else with it.

    Args:
        tokenizer: Anything with `decode(ids, **kwargs) -> str`.
        skip_prompt: Whether to leave the prompt out.
        **decode_kwargs: Passed to `decode`, such as `skip_special_tokens=True`.

    Example:
        >>> class Letters:
        ...     def decode(self, ids, **kwargs):
        ...         return "".join(chr(97 + i) for i in ids)
        >>> streamer = TextStreamer(Letters())
        >>> streamer.put([[0, 1]]), streamer.put([2]), streamer.end()
        abc
        (None, None, None)
    """

    def __init__(self, tokenizer: _Decodes, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self.next_tokens_are_prompt = True
        self._start_over()

    def _start_over(self) -> None:
        self.token_cache: list[int] = []  # tokens from a place where text and tokens can be cut
        self.print_len = 0  # how much of their text is out
        self._next_cut = _WINDOW

    def put(self, value: Any) -> None:
        """Receive the ids of a prompt or the next token, and hand on the text that is settled by now.

        Raises:
            InputError: more than one row; a stream is one text.
        """
        ids = _one_row(value)
        if self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            if self.skip_prompt:
                return
        self.token_cache.extend(ids)
        text = self._decode(self.token_cache)
        if text is None:
            return
        settled = _settled_length(text)
        if settled > self.print_len:
            self.on_finalized_text(text[self.print_len : settled])
            self.print_len = settled
        if len(self.token_cache) >= self._next_cut:
            self._cut(text)

    def end(self) -> None:
        """Hand on whatever is left, be it half a character, and be ready for another text."""
        text = self.tokenizer.decode(self.token_cache, **self.decode_kwargs) if self.token_cache else ""
        rest = text[self.print_len :]
        self.next_tokens_are_prompt = True
        self._start_over()
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print a piece of text; the last piece is followed by a newline."""
        print(text, flush=True, end="\n" if stream_end else "")

    def _decode(self, ids: list[int]) -> str | None:
        """Return the text of the ids, or None in the middle of a character where `errors="strict"`."""
        try:
            return self.tokenizer.decode(ids, **self.decode_kwargs)
        except UnicodeDecodeError:
            return None

    def _cut(self, text: str) -> None:
        """Forget tokens whose text is out, at a place where the parts give the text of the whole."""
        cache = self.token_cache
        for at in range(len(cache) - _WINDOW // 2, 0, -1):
            before = self._decode(cache[:at])
            if before is None or len(before) > self.print_len:
                continue
            if before + (self._decode(cache[at:]) or "") == text:
                self.token_cache = cache[at:]
                self.print_len -= len(before)
                self._next_cut = len(self.token_cache) + _WINDOW
                return
            if len(cache) - at > _WINDOW:  # this decoder does not cut anywhere near; try much later
                break
        self._next_cut = 2 * len(cache)


class TextIteratorStreamer(TextStreamer):
    """Hand the pieces of text to whoever iterates over the streamer, in another thread.

    An error in the generating thread is raised by the iterator too, instead of leaving it waiting.

    Args:
        tokenizer: Anything with `decode(ids, **kwargs) -> str`.
        skip_prompt: Whether to leave the prompt out.
        timeout: Seconds to wait for the next piece; None waits for ever.
        **decode_kwargs: Passed to `decode`.

    Raises:
        queue.Empty: no text came within `timeout` seconds.
    """

    def __init__(
        self,
        tokenizer: _Decodes,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: Queue[str | BaseException | None] = Queue()
        self.stop_signal = None
        self.timeout = timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queue a piece of text, and after the last one the signal that there is no more."""
        if text:
            self.text_queue.put(text, timeout=self.timeout)
        if stream_end:
            self.text_queue.put(self.stop_signal, timeout=self.timeout)

    def fail(self, error: BaseException) -> None:
        """Queue the error, to be raised where the text is read, and be ready for another text."""
        self.next_tokens_are_prompt = True
        self._start_over()
        self.text_queue.put(error)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            value = self.text_queue.get(timeout=self.timeout)
        except Empty:
            raise Empty(f"No text came within timeout={self.timeout} s.") from None
        if isinstance(value, BaseException):
            raise value
        if value is self.stop_signal:
            raise StopIteration
        return value


class AsyncTextIteratorStreamer(TextStreamer):
    """Hand the pieces of text to an `async for` of the event loop in which the streamer was made.

    The generation runs in another thread. An error there is raised by the reader too. A reader that is
    cancelled or stops reading loses nothing and holds nobody up; once its loop is closed, the next piece ends
    the generation with an error, since no one can read it.

    Args:
        tokenizer: Anything with `decode(ids, **kwargs) -> str`.
        skip_prompt: Whether to leave the prompt out.
        timeout: Seconds to wait for the next piece; None waits for ever.
        **decode_kwargs: Passed to `decode`.

    Raises:
        TimeoutError: no text came within `timeout` seconds.
        InputError: the streamer is made where no event loop runs.
    """

    def __init__(
        self,
        tokenizer: _Decodes,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:
            raise InputError(
                "AsyncTextIteratorStreamer has to be made inside a running event loop, which reads it: in an "
                "async function. Elsewhere use TextIteratorStreamer."
            ) from None
        self.text_queue: asyncio.Queue[str | BaseException | None] = asyncio.Queue()
        self.stop_signal = None
        self.timeout = timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand a piece of text to the loop, and after the last one the signal that there is no more."""
        if text:
            self._hand_over(text)
        if stream_end:
            self._hand_over(self.stop_signal)

    def fail(self, error: BaseException) -> None:
        """Hand the error over, to be raised where the text is read, and be ready for another text."""
        self.next_tokens_are_prompt = True
        self._start_over()
        if not self.loop.is_closed():
            self._hand_over(error)

    def _hand_over(self, value: str | BaseException | None) -> None:
        self.loop.call_soon_threadsafe(self.text_queue.put_nowait, value)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        try:
            async with asyncio.timeout(self.timeout):
                value = await self.text_queue.get()
        except TimeoutError:
            raise TimeoutError(f"No text came within timeout={self.timeout} s.") from None
        if isinstance(value, BaseException):
            raise value
        if value is self.stop_signal:
            raise StopAsyncIteration
        return value


def _one_row(value: Any) -> list[int]:
    """Return the ids of a number, a row, or a batch of one row."""
    ids = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(ids, int):
        return [ids]
    if ids and isinstance(ids[0], list):
        if len(ids) > 1:
            raise InputError(
                f"TextStreamer only supports batch size 1, but got {len(ids)} rows. Stream one prompt."
            )
        ids = ids[0]
    return list(ids)


def _settled_length(text: str) -> int:
    """Return how much of a text no later token can change.

    Of an incomplete character, decoding shows nothing, U+FFFD or lone surrogates (`errors="surrogateescape"`,
    at most three), and only the last U+FFFD can stand for one.
    """
    end = len(text)
    if text.endswith("\ufffd"):
        return end - 1
    while end > max(0, len(text) - 3) and "\ud800" <= text[end - 1] <= "\udfff":
        end -= 1
    if end == len(text):
        tail = next((tail for tail in _UNSETTLED if text.endswith(tail)), "")
        end -= len(tail)
    return end
