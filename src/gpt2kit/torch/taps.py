"""Activations by name: look at them, or put others in their place, while a `with` block is open.

    with model.record("h.3.attn.weights", "h.*.mlp.out") as store:
        model(ids)
    store["h.3.attn.weights"]  # [B, H, T, S]

    with model.patch({"h.3.attn.out": torch.zeros_like}):
        model(ids)

A tap is a place in the model's code, `x = tap(self, "out", x)`. It hands x on, unless a block is open: then
each open patch puts its own in the place of x, the outermost block first, and after all of them each open
record keeps what the rest of the model goes on with.

Blocks belong to the thread (or asyncio task) that opened them, and to the tasks that start inside them, until
they end: others do not see them.
Dimensions: B batch, T query positions, S key positions, D n_embd, H heads, K width of a head, M width of the
MLP, V vocabulary, E encoder positions (docs/shapes.md).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from gpt2kit.errors import InputError
from gpt2kit.torch.places import Place, matching, names_of, places_of

__all__ = ["ActivationMixin", "Activations", "begin", "recomputable", "tap", "wanted_weights"]

_ONLY_EXPLICIT = ("scores", "weights")  # the fused kernel never holds them

Replacement: TypeAlias = "Tensor | Callable[[Tensor], Tensor]"

# Whether a block is open in any thread. It is a plain name, and not the context variable below, because
# compilers follow it: a compiled model is compiled anew when it changes.
_watching = False
_open_blocks = 0
_stance: Any = None  # what torch.compile is told for the time
_lock = threading.RLock()  # a collected generator may end its block in the middle of this
# Tasks that start inside a block take its list along, and find it empty when the block has ended.
_open: ContextVar[tuple[list[_Record | _Patch], ...]] = ContextVar("gpt2kit_taps", default=())


# --------------------------------------------------------------------------- what the model's code calls


def tap(owner: nn.Module | None, word: str, value: Tensor) -> Tensor:
    """Return an activation as it is, or what the open patches make of it; show it to the open records.

    Args:
        owner: The module that computes it; None belongs to no model.
        word: What the module calls it, the last part of its name.
        value: The activation.
    """
    return value if not _watching else _pass((id(owner), word), value)


def begin(body: nn.Module) -> None:
    """Tell the records of this model that a call begins."""
    if _watching:
        for record in _of(body):
            if isinstance(record, _Record):
                record.store.calls.append({})


def wanted_weights(body: nn.Module) -> str | None:
    """Return the name of an open tap that only the explicit attention kernel can serve, if there is one."""
    if not _watching:
        return None
    names = (name for block in _of(body) for name in block.names.values())
    return next((name for name in names if name.endswith(_ONLY_EXPLICIT)), None)


def recomputable(
    body: nn.Module, block: Callable[..., Any], options: Mapping[str, Any]
) -> Callable[..., Any]:
    """Return a block that gradient checkpointing may run again, whatever `with` blocks are open by then.

    The second run sees the patches of the first and no others, and nothing is recorded twice.

    Args:
        body: The model.
        block: What shall be run.
        options: Those of torch.utils.checkpoint.checkpoint.

    Raises:
        InputError: The checkpoint is reentrant: what a record kept would have no gradients.
    """
    if torch.compiler.is_compiling():  # nothing is open, and what is run again is part of the graph
        return block
    if _watching and _of(body) and options["use_reentrant"]:
        raise InputError(
            "Activations cannot be recorded or patched in reentrant gradient checkpointing, which runs the "
            "blocks without gradients first. Call gradient_checkpointing_enable() without use_reentrant=True."
        )
    patches = [each for each in _blocks() if isinstance(each, _Patch)]
    runs = 0

    def run(*given: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 1 or not (_watching or patches):
            return block(*given)
        with _opened(*patches, instead=True):
            return block(*given)

    return run


# --------------------------------------------------------------------------- what users call


class Activations(Mapping[str, Tensor]):
    """What a record has kept: a mapping, name to tensor, of the last call of the model.

    Names come in the order of computation. The tensors are those that the model computed with, gradients
    included; nothing is copied.

    Args:
        names: What is to be kept.

    Attributes:
        names: The same.
        calls: A dictionary, name to tensor, for each call of the model, first to last: in a generation, the
            prompt and then one for each token.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self.calls: list[dict[str, Tensor]] = []

    def __getitem__(self, name: str) -> Tensor:
        """Return the activation of the last call."""
        if self.calls and name in self.calls[-1]:
            return self.calls[-1][name]
        if name not in self.names:
            raise KeyError(f"{name!r} was not asked for; the record is of {', '.join(self.names)}.")
        if not self.calls:
            raise KeyError(f"{name!r} is not there: the model was not called in this block and thread.")
        raise KeyError(
            f"{name!r} is not there: the last call did not come there. Cross-attention is computed with "
            "encoder_hidden_states alone, logits without loss_chunk_size."
        )

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the last call."""
        return iter(self.calls[-1] if self.calls else ())

    def __len__(self) -> int:
        """Count the activations of the last call."""
        return len(self.calls[-1]) if self.calls else 0

    def __repr__(self) -> str:
        """Show names and shapes of the last call."""
        shapes = ", ".join(f"{name}: {list(tensor.shape)}" for name, tensor in self.items())
        return f"Activations({len(self.calls)} calls; {{{shapes}}})"


class ActivationMixin:
    """Give a model `record`, `patch` and `activation_names`."""

    base_model: Any
    own_activations: tuple[str, ...] = ()  # what a head taps beside its body, in order

    def activation_names(self) -> list[str]:
        """Return the names of all activations, in the order of computation (docs/activations.md).

        Example:
            >>> from gpt2kit import GPT2Config, GPT2Model
            >>> GPT2Model(GPT2Config(n_embd=6, n_layer=1, n_head=2)).activation_names()[:4]
            ['embed', 'h.0.in', 'h.0.ln_1', 'h.0.attn.query']
        """
        return list(places_of(self))

    @contextmanager
    def record(self, *names: str) -> Iterator[Activations]:
        """Keep the activations of the calls inside a `with` block.

        Args:
            *names: Names, or patterns of them: "h.*.mlp.out", "h.[0-3].in", "h.1.**", "**". Attention scores
                and weights take the explicit kernel for the calls.

        Returns:
            The store, which stays when the block has ended.

        Raises:
            InputError: A pattern that matches nothing; at the call, attention weights of
                attn_implementation="sdpa".

        Example:
            >>> import torch
            >>> from gpt2kit import GPT2Config, GPT2Model
            >>> model = GPT2Model(GPT2Config(n_embd=6, n_layer=1, n_head=2)).eval()
            >>> with model.record("h.*.attn.weights") as store:
            ...     output = model(torch.tensor([[2, 3, 5]]))
            >>> store["h.0.attn.weights"].shape
            torch.Size([1, 2, 3, 3])
        """
        if not names:
            raise InputError('Nothing is named to be recorded. Give names or patterns; "**" is everything.')
        places = places_of(self)
        found = {name for pattern in names for name in matching(pattern, places)}
        record = _Record(self, {name: place for name, place in places.items() if name in found})
        with _opened(record):
            yield record.store

    @contextmanager
    def patch(self, replacements: Mapping[str, Replacement]) -> Iterator[None]:
        """Put others in the place of activations in the calls inside a `with` block.

        Args:
            replacements: For a name or a pattern, a tensor of the same shape, dtype and device; or a function
                that gets the activation, a copy that it may change, and returns what shall be in its place.
                Gradients flow through both.

        Raises:
            InputError: A pattern that matches nothing, or two that match the same; at the call, another
                shape, dtype or device; at the end, a name that no call came to.

        Example:
            >>> import torch
            >>> from gpt2kit import GPT2Config, GPT2Model
            >>> model = GPT2Model(GPT2Config(n_embd=6, n_layer=1, n_head=2)).eval()
            >>> with model.patch({"ln_f": torch.zeros_like}):
            ...     output = model(torch.tensor([[2, 3, 5]]))
            >>> output.last_hidden_state.abs().max()
            tensor(0., grad_fn=<MaxBackward1>)
        """
        patch = _Patch(self, _resolved(replacements, places_of(self)))
        with _opened(patch):
            yield
        patch.check_all_used()


# --------------------------------------------------------------------------- open blocks


class _Record:
    """An open `record`.

    Args:
        model: What it was called on.
        places: Where each name is tapped.
    """

    def __init__(self, model: ActivationMixin, places: Mapping[str, Place]) -> None:
        self.body = model.base_model
        self.names = names_of(places)
        self.store = Activations(places)

    def keep(self, place: Place, value: Tensor) -> None:
        """Enter an activation into the page of this call."""
        if place in self.names:
            if not self.store.calls:  # a block of the model was called by hand
                self.store.calls.append({})
            self.store.calls[-1][self.names[place]] = value


class _Patch:
    """An open `patch`.

    Args:
        model: What it was called on.
        replacements: For each name, where it is tapped and what shall be there.
    """

    def __init__(self, model: ActivationMixin, replacements: Mapping[str, tuple[Place, Replacement]]) -> None:
        self.body = model.base_model
        self.names = names_of({name: place for name, (place, _) in replacements.items()})
        self.replacements = {name: replacement for name, (_, replacement) in replacements.items()}
        self.unused = dict.fromkeys(replacements)

    def apply(self, place: Place, value: Tensor) -> Tensor:
        """Return what shall be in the place of an activation."""
        name = self.names.get(place)
        if name is None:
            return value
        self.unused.pop(name, None)
        replacement = self.replacements[name]
        if isinstance(replacement, Tensor):
            return _alike(replacement, value, f"The patch of {name}")
        return _alike(replacement(value.clone()), value, f"What the function for {name} returns")

    def check_all_used(self) -> None:
        """Refuse to end without a word where something was never put in its place."""
        if self.unused:
            raise InputError(
                f"{next(iter(self.unused))} was to be patched, and no call of the model came there. Call the "
                "model inside the block, in the thread that opened it. Cross-attention is computed with "
                "encoder_hidden_states alone, logits without loss_chunk_size."
            )


@contextmanager
def _opened(*blocks: _Record | _Patch, instead: bool = False) -> Iterator[None]:
    """Open blocks after those that are open, or instead of them.

    What was opened is taken out again by itself, because blocks of generators and tasks need not end in the
    order in which they began, nor in the thread.
    """
    before, opening = _open.get(), list(blocks)
    _watch(1)
    _open.set((opening,) if instead else (*before, opening))
    try:
        yield
    finally:
        opening.clear()
        _open.set(before if instead else tuple(each for each in _open.get() if each))
        _watch(-1)


def _watch(change: int) -> None:
    """Count the open blocks of all threads; while there are any, compiled models run as they are written."""
    global _watching, _open_blocks, _stance
    with _lock:
        _open_blocks += change
        _watching = _open_blocks > 0
        if _watching and _stance is None and "torch._dynamo" in sys.modules:  # else nothing was compiled yet
            _stance = torch.compiler.set_stance("force_eager")
        elif not _watching and _stance is not None:
            _stance.__exit__(None, None, None)
            _stance = None


def _blocks() -> list[_Record | _Patch]:
    """Return the open blocks, outermost first."""
    return [block for opening in _open.get() for block in opening]


def _of(body: nn.Module) -> list[_Record | _Patch]:
    """Return the open blocks of a model."""
    return [block for block in _blocks() if block.body is body]


def _pass(place: Place, value: Tensor) -> Tensor:
    """Let the patches change an activation, outermost first, and then the records see it."""
    blocks = _blocks()
    for block in blocks:
        if isinstance(block, _Patch):
            value = block.apply(place, value)
    for block in blocks:
        if isinstance(block, _Record):
            block.keep(place, value)
    return value


def _resolved(
    replacements: Mapping[str, Replacement], places: Mapping[str, Place]
) -> dict[str, tuple[Place, Replacement]]:
    """Return the place and the replacement of each name that the patterns of a patch match."""
    if not isinstance(replacements, Mapping) or not replacements:
        raise InputError('patch needs a dictionary of names, such as {"h.3.attn.out": torch.zeros_like}.')
    found: dict[str, tuple[Place, Replacement]] = {}
    for pattern, replacement in replacements.items():
        if not isinstance(replacement, Tensor) and not callable(replacement):
            raise InputError(
                f"The patch of {pattern!r} should be a tensor or a function of one, but it is a "
                f"{type(replacement).__name__}."
            )
        for name in matching(pattern, places):
            if name in found:
                raise InputError(
                    f"{name} is matched by two patterns of one patch. Open one block inside another: the "
                    "outer one is applied first."
                )
            found[name] = (places[name], replacement)
    return found


def _alike(given: Any, value: Tensor, what: str) -> Tensor:
    """Return a replacement if it has the shape, dtype and device of what it replaces."""
    if not isinstance(given, Tensor):
        raise InputError(f"{what} should be a tensor, but it is a {type(given).__name__}.")
    for kind in ("shape", "dtype", "device"):
        wanted, came = getattr(value, kind), getattr(given, kind)
        if wanted != came:
            wanted, came = (list(each) if kind == "shape" else each for each in (wanted, came))
            raise InputError(f"{what} should have the {kind} {wanted}, but it is {came}.")
    return given
