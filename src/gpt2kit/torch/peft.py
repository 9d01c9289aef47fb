"""A bridge to the PEFT library, which knows a Conv1D only if it is of transformers' own class.

    from gpt2kit.torch.peft import register
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(register(model), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))

PEFT brings transformers with it; this module alone imports transformers, and only when `register` is called.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from gpt2kit.errors import MissingDependencyError
from gpt2kit.torch.layers import Conv1D

__all__ = ["register"]

_BRIDGE = "BridgeConv1D"


def register(model: nn.Module) -> Any:
    """Let PEFT recognise the Conv1D layers of a model; nothing else about them changes.

    Args:
        model: Any model of this room. It is changed in place.

    Returns:
        The model.

    Raises:
        MissingDependencyError: transformers, which PEFT needs too, is not installed.
    """
    bridge = __getattr__(_BRIDGE)
    for module in model.modules():
        if type(module) is Conv1D:
            module.__class__ = bridge
    return model


def __getattr__(name: str) -> Any:
    """Make the class that is both kinds of Conv1D when it is first asked for, by a pickle perhaps."""
    if name != _BRIDGE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in globals():
        try:
            theirs = importlib.import_module("transformers.pytorch_utils").Conv1D
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "transformers":
                raise
            raise MissingDependencyError(
                "PEFT and this bridge to it need transformers, which is not installed: pip install peft"
            ) from None
        names = {
            "__module__": __name__,
            "__doc__": "A Conv1D of gpt2kit that PEFT takes for transformers'.",
            "__repr__": nn.Module.__repr__,  # theirs prints an attribute that ours does not have
        }
        globals()[name] = type(name, (Conv1D, theirs), names)
    return globals()[name]
