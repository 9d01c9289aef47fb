"""How weights begin: drawn as GPT-2 draws them, or left unfilled where a file is about to fill them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gpt2kit.torch.layers import GPT2MLP, Conv1D, GPT2Attention

__all__ = ["draw", "draw_missing", "is_loading", "loading", "unfilled_while_loading"]

_loading: ContextVar[bool] = ContextVar("gpt2kit_loading", default=False)
# The fills of nn.init hide the tensor methods that they call, so both are listed.
_RANDOM_FILLS = frozenset(
    {Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
)


@torch.no_grad()
def draw(module: nn.Module, deviation: float, n_layer: int) -> None:
    """Draw the weights of one module, as GPT-2 does and in the order in which 4.34 draws.

    Weights are normal with the given deviation, biases 0, layer norms 1 and 0. Where a projection ends in the
    residual stream the deviation is divided by sqrt(2 L), because the stream adds up 2 L of them.

    Args:
        module: Anything; what is none of GPT-2's parts is left as it is.
        deviation: `initializer_range` of the configuration.
        n_layer: L.

    Source:
        Radford et al. 2019, section 2.3; transformers v4.34.0, modeling_gpt2.py, _init_weights.
    """
    if isinstance(module, nn.Linear | Conv1D):
        module.weight.normal_(std=deviation)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.Embedding):
        module.weight.normal_(std=deviation)
        if module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1.0)
        module.bias.zero_()
    elif isinstance(module, GPT2Attention | GPT2MLP):
        module.c_proj.weight.normal_(std=deviation / math.sqrt(2 * n_layer))


def draw_missing(model: Any, missing: set[str]) -> None:
    """Draw every module of a model that has a parameter among the missing ones.

    Args:
        model: A model whose other weights are about to be loaded over what is drawn here.
        missing: Names as in its state dict.
    """
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        own = {start + name for name, _ in module.named_parameters(recurse=False)}
        if isinstance(module, GPT2Attention | GPT2MLP):
            own.add(f"{start}c_proj.weight")
        module._is_initialized = not own & missing
    model.apply(model._initialize_weights)


def is_loading() -> bool:
    """Tell whether the model being built is about to be filled from a file."""
    return _loading.get()


@contextmanager
def loading() -> Iterator[None]:
    """Build models without drawing their weights, inside the block and in this thread."""
    token = _loading.set(True)
    try:
        yield
    finally:
        _loading.reset(token)


@contextmanager
def unfilled_while_loading() -> Iterator[None]:
    """Let GPT-2's own layers take memory without touching it while a file is being loaded.

    Random numbers that are overwritten at once would take longer than the loading, and memory that nobody has
    touched is not there yet. Layers that a subclass adds are built outside of this block, filled as ever.
    """
    if not is_loading():
        yield
        return
    with _WithoutRandomFills():
        yield


class _WithoutRandomFills(TorchFunctionMode):
    """Turns in-place random fills into nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the tensor untouched where it would be filled at random; run everything else."""
        kwargs = kwargs or {}
        if func in _RANDOM_FILLS:
            return args[0] if args else kwargs["tensor"]  # nn.init passes it by name
        return func(*args, **kwargs)
