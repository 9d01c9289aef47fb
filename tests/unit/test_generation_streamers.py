"""Streamers: the pieces are the text, none holds half a character, and the work stays bounded."""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt2kit.errors import InputError
from gpt2kit.generation import BaseStreamer, TextIteratorStreamer, TextStreamer
from gpt2kit.tokenization import AutoTokenizer


class Bytes:
    """A tokenizer whose tokens are bytes, with the clean-up of 4.34's decode; counts what it decodes."""

    def __init__(self, errors: str = "replace") -> None:
        self.errors = errors
        self.longest = 0

    def decode(self, token_ids: list[int], clean_up: bool = False) -> str:
        self.longest = max(self.longest, len(token_ids))
        text = bytes(token_ids).decode("utf-8", errors=self.errors)
        if clean_up:
            for pair in (" .", " ?", " !", " ,"):
                text = text.replace(pair, pair[1])
            text = text.replace(" ' ", "'")
            for tail in ("n't", "'m", "'s", "'ve", "'re"):
                text = text.replace(" " + tail, tail)
        return text


class Collector(TextStreamer):
    """Keep the pieces."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pieces: list[str] = []
        self.ended = 0

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.pieces.append(text)
        self.ended += stream_end


def stream(ids: list[int], tokenizer: Bytes, **kwargs: Any) -> list[str]:
    streamer = Collector(tokenizer, **kwargs)
    for token in ids:
        streamer.put(np.array([token]))
    streamer.end()
    assert streamer.ended == 1
    return streamer.pieces


def test_a_character_comes_whole_or_not_at_all():
    assert stream(list("a€é😀b".encode()), Bytes()) == ["a", "€", "é", "😀", "b", ""]


def test_half_a_character_at_the_end_is_shown_as_decoding_shows_it():
    assert "".join(stream(list("a€".encode())[:-1], Bytes())) == "a\ufffd"


def test_bytes_that_are_no_text_do_not_hold_the_stream_up():
    pieces = stream([0x80] * 50, Bytes())
    assert "".join(pieces) == "\ufffd" * 50
    assert len(pieces) >= 50


@given(
    st.lists(
        st.sampled_from([*b" .?!,'nmtsverxy\n", 0xE2, 0x82, 0xAC, 0xC3, 0xA9, 0xF0, 0xFF]),
        max_size=150,
    ),
    st.booleans(),
    st.sampled_from(["replace", "ignore", "surrogateescape"]),
)
@example(list(b"e ' ."), True, "replace")  # " ' " is joined, until the "." takes its last space
def test_the_pieces_are_what_decoding_everything_gives(ids: list[int], clean_up: bool, errors: str):
    tokenizer = Bytes(errors)
    assert "".join(stream(ids, tokenizer, clean_up=clean_up)) == tokenizer.decode(ids, clean_up)


@given(st.text(max_size=60))
def test_strict_decoding_waits_for_the_whole_character(text: str):
    ids = list(text.encode("utf-8", errors="ignore"))
    assert "".join(stream(ids, Bytes("strict"))) == text.encode("utf-8", errors="ignore").decode()


def test_a_long_text_costs_no_more_per_token():
    tokenizer = Bytes()
    stream(list("ein längerer Satz, immer wieder. ".encode()) * 100, tokenizer)
    assert tokenizer.longest < 200  # of 3,400


def test_the_prompt_is_left_out_on_request_and_again_for_the_next_text():
    streamer = Collector(Bytes(), skip_prompt=True)
    for _ in range(2):
        streamer.put(np.array([[97, 98]]))
        streamer.put(np.array([99]))
        streamer.end()
    assert streamer.pieces == ["c", "", "c", ""]


@pytest.mark.parametrize("value", [np.array([[97]]), np.array([97]), np.array(97), [97], 97, [[97]]])
def test_ids_come_in_any_form(value: Any):
    streamer = Collector(Bytes())
    streamer.put(value)
    assert streamer.pieces == ["a"]


def test_two_rows_are_refused():
    with pytest.raises(InputError, match="batch size 1"):
        TextStreamer(Bytes()).put(np.array([[97], [98]]))


def test_a_text_is_printed_with_a_newline_at_its_end(capsys: pytest.CaptureFixture[str]):
    streamer = TextStreamer(Bytes())
    streamer.put([97, 98])
    assert capsys.readouterr().out == "ab"
    streamer.end()
    assert capsys.readouterr().out == "\n"


def test_a_streamer_of_ones_own_has_to_define_its_methods():
    with pytest.raises(NotImplementedError, match="put"):
        BaseStreamer().put([1])
    with pytest.raises(NotImplementedError, match="end"):
        BaseStreamer().end()


# ---------------------------------------------------------------------- across threads


def test_the_iterator_gives_the_pieces_of_another_thread_and_ends():
    streamer = TextIteratorStreamer(Bytes(), timeout=10)

    def write() -> None:
        for token in "a€b".encode():
            streamer.put([token])
        streamer.end()

    thread = threading.Thread(target=write)
    thread.start()
    assert list(streamer) == ["a", "€", "b"]
    thread.join()


def test_an_error_of_the_writing_thread_is_raised_where_the_text_is_read():
    streamer = TextIteratorStreamer(Bytes(), timeout=10)

    def write() -> None:
        streamer.put([97])
        with pytest.raises(ZeroDivisionError), streamer:
            raise ZeroDivisionError("in the other thread")

    thread = threading.Thread(target=write)
    thread.start()
    assert next(streamer) == "a"
    with pytest.raises(ZeroDivisionError, match="other thread"):
        next(streamer)
    thread.join()


def test_waiting_ends_after_the_timeout():
    with pytest.raises(queue.Empty, match=r"timeout=0\.01"):
        next(TextIteratorStreamer(Bytes(), timeout=0.01))


@pytest.mark.parametrize("fast", [True, False])
def test_a_real_tokenizer_streams_what_it_decodes(fast: bool):
    tokenizer = AutoTokenizer.from_pretrained("gpt2", use_fast=fast)
    text = (
        "Don' t  stop ' here , we 've 3 cafés ! 東京 😀👍🏽 <|endoftext|> naïve \u200d x . it 's\n\n end  ."
        * 3
    )
    ids = tokenizer(text)["input_ids"]
    for options in ({}, {"skip_special_tokens": True}, {"clean_up_tokenization_spaces": False}):
        pieces = stream(ids, tokenizer, **options)
        assert "".join(pieces) == tokenizer.decode(ids, **options)
        assert not any("\ufffd" in piece for piece in pieces)
        assert len(pieces) > len(ids) / 2
