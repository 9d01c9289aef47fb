"""What streamers get of `generate` in PyTorch: every token, and every error."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import random_checkpoint, tiny_config
from drivers import TorchDriver
from gpt2kit.errors import InputError, LengthError
from gpt2kit.generation import BaseStreamer, TextIteratorStreamer
from gpt2kit.torch import GPT2LMHeadModel
from gpt2kit.torch.generation.logits import LogitsProcessor

IDS = torch.tensor([[17, 3, 59, 3, 71], [5, 83, 7, 11, 29]])
ONE = IDS[:1]


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    config = tiny_config(n_positions=37, eos_token_id=None, pad_token_id=1)
    return TorchDriver().build(config, random_checkpoint(config, 5), "float32")


class Broken(LogitsProcessor):
    """Fail where a rule of the caller's would."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raise IndexError("no such token")


class Listener(BaseStreamer):
    """Keep what a streamer gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, value: Any) -> None:
        self.got.append(value.tolist())

    def end(self) -> None:
        self.got.append("end")

    def fail(self, error: BaseException) -> None:
        self.got.append(error)


def test_a_streamer_gets_the_prompt_then_every_token(model: GPT2LMHeadModel):
    listener = Listener()
    text = model.generate(IDS, streamer=listener, max_new_tokens=3)
    assert listener.got == [IDS.tolist(), *text[:, 5:].T.tolist(), "end"]


def test_a_streamer_learns_of_an_error_before_the_caller_does(model: GPT2LMHeadModel):
    listener = Listener()
    with pytest.raises(LengthError) as caught:
        model.generate(IDS, streamer=listener, max_new_tokens=99)
    assert listener.got == [caught.value]


def test_a_reader_of_a_search_by_hand_is_told_what_was_refused(model: GPT2LMHeadModel):
    streamer = TextIteratorStreamer(object(), timeout=5)
    with pytest.raises(InputError, match="not used by the model"):
        model.greedy_search(ONE, streamer=streamer, max_lenght=9)
    with pytest.raises(InputError, match="not used by the model"):
        next(iter(streamer))


def test_a_reader_in_another_thread_does_not_hang_on_an_error(model: GPT2LMHeadModel):
    class Letters:
        def decode(self, token_ids: list[int], **kwargs: Any) -> str:
            return "".join(chr(200 + i) for i in token_ids)

    streamer = TextIteratorStreamer(Letters(), timeout=30)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            model.generate(ONE, streamer=streamer, max_new_tokens=3, logits_processor=[Broken()])
        except IndexError as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    with pytest.raises(IndexError):
        list(streamer)
    thread.join()
    assert len(failures) == 1
