"""AsyncTextIteratorStreamer: text for an event loop, from a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest

from gpt2kit.errors import InputError
from gpt2kit.generation import AsyncTextIteratorStreamer


class Letters:
    def decode(self, ids: list[int], **kwargs: Any) -> str:
        return "".join(chr(97 + i) for i in ids)


def write(streamer: AsyncTextIteratorStreamer, tokens: Iterable[int], wait: float = 0.0) -> None:
    """Do as `generate` does in its thread; a number below 0 is an error."""
    with streamer:
        streamer.put([[0, 1, 2]])
        for token in tokens:
            time.sleep(wait)
            if token < 0:
                raise ZeroDivisionError("in the generating thread")
            streamer.put([token])
        streamer.end()


def started(
    streamer: AsyncTextIteratorStreamer, tokens: Iterable[int], wait: float = 0.0
) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(ZeroDivisionError):
            write(streamer, tokens, wait)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(("skip_prompt", "expected"), [(True, "defg"), (False, "abcdefg")])
def test_the_pieces_are_the_text(skip_prompt: bool, expected: str):
    async def read() -> str:
        streamer = AsyncTextIteratorStreamer(Letters(), skip_prompt=skip_prompt)
        thread = started(streamer, [3, 4, 5, 6])
        text = "".join([piece async for piece in streamer])
        thread.join()
        return text

    assert asyncio.run(read()) == expected


def test_other_work_of_the_loop_goes_on_meanwhile():
    async def read() -> int:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.001)

        task = asyncio.create_task(turn())
        streamer = AsyncTextIteratorStreamer(Letters())
        thread = started(streamer, [3, 4, 5], wait=0.02)
        assert "".join([piece async for piece in streamer]) == "abcdef"
        task.cancel()
        thread.join()
        return turns

    assert asyncio.run(read()) > 5


def test_an_error_of_the_generating_thread_is_raised_to_the_reader():
    async def read() -> None:
        streamer = AsyncTextIteratorStreamer(Letters())
        thread = started(streamer, [3, -1])
        text = "".join([await anext(streamer) for _ in range(2)])
        assert text == "abcd"
        with pytest.raises(ZeroDivisionError, match="generating thread"):
            await anext(streamer)
        thread.join()
        thread = started(streamer, [5])  # and it is ready for another text
        assert "".join([piece async for piece in streamer]) == "abcf"
        thread.join()

    asyncio.run(read())


def test_a_reader_that_is_cancelled_loses_nothing_and_holds_nobody_up():
    async def read() -> None:
        streamer = AsyncTextIteratorStreamer(Letters(), skip_prompt=True)
        waiting = asyncio.create_task(anext(streamer))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        thread = started(streamer, [3, 4, 5])
        thread.join(timeout=5)
        assert not thread.is_alive()
        assert "".join([piece async for piece in streamer]) == "def"

    asyncio.run(read())


def test_waiting_longer_than_the_timeout_is_an_error_that_says_so():
    async def read() -> None:
        streamer = AsyncTextIteratorStreamer(Letters(), timeout=0.01)
        with pytest.raises(TimeoutError, match=r"timeout=0\.01 s"):
            await anext(streamer)

    asyncio.run(read())


def test_a_closed_loop_ends_the_generation_in_its_thread():
    async def make() -> AsyncTextIteratorStreamer:
        return AsyncTextIteratorStreamer(Letters())

    streamer = asyncio.run(make())
    with pytest.raises(RuntimeError, match="closed"):
        write(streamer, [3, 4])


def test_without_a_loop_there_is_no_streamer():
    with pytest.raises(InputError, match="TextIteratorStreamer"):
        AsyncTextIteratorStreamer(Letters())
