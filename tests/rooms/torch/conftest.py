"""What holds for every test of the PyTorch room."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the PyTorch room is not installed")

from gpt2kit.torch import taps


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Any:
    yield
    assert not taps._watching
    assert not taps._blocks()
