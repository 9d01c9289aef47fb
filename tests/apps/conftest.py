"""What holds for every test of the commands."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Give other tests their threads of PyTorch back: the command computes small models in one."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
