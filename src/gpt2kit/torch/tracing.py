"""What torch.jit.trace shall not see: it writes down every size that is looked at, and warns of each `if`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["unseen"]

_NOTHING = nullcontext()


def unseen() -> AbstractContextManager[None]:
    """Let a block look at shapes without the tracer writing it down or warning of it.

    Sizes are plain numbers inside, so only checks belong there: what is computed of them would be a constant
    of the traced graph.
    """
    return _Pause() if torch.jit.is_tracing() else _NOTHING


class _Pause:
    """Takes the tracer away, and puts it back at the end."""

    def __enter__(self) -> None:
        self.state = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)

    def __exit__(self, *_: object) -> None:
        torch._C._set_tracing_state(self.state)
