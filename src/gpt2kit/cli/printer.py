"""What listens to the tokens while they come: a watch, and the text on stdout."""

from __future__ import annotations

import time
from typing import Any

from gpt2kit.cli.console import write
from gpt2kit.generation import BaseStreamer, TextStreamer

__all__ = ["Clock", "Printer"]


class Clock(BaseStreamer):
    """A streamer that looks at its watch when the first new token comes, and hands everything on."""

    def __init__(self, listener: BaseStreamer | None = None) -> None:
        self.listener = listener
        self.start = time.perf_counter()
        self.first: float | None = None
        self.calls = 0

    def put(self, value: Any) -> None:
        """Count a call: the first one brings the prompt, the second the first new token."""
        self.calls += 1
        if self.calls == 2:
            self.first = time.perf_counter() - self.start
        if self.listener is not None:
            self.listener.put(value)

    def end(self) -> None:
        """Hand on that the text is complete; the clock itself has nothing to do."""
        if self.listener is not None:
            self.listener.end()


class Printer(TextStreamer):
    """Write a text to stdout as it is made, from its prompt on: what is refused leaves stdout empty."""

    def __init__(self, tokenizer: Any, prompt: str = "") -> None:
        super().__init__(
            tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        self.prompt = prompt
        self.at_line_start = True

    def put(self, value: Any) -> None:
        """Write the prompt in its own words, then what is new."""
        if self.next_tokens_are_prompt:
            self.at_line_start = False
            write(self.prompt)
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Write what can no longer change."""
        if text:
            self.at_line_start = text.endswith("\n")
            write(text)
