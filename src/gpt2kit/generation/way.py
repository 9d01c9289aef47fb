"""The numbers of single ways of decoding: contrastive search, assisted decoding, DoLa."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2kit.errors import InputError
from gpt2kit.generation.rule import check_integer, check_real

if TYPE_CHECKING:
    from gpt2kit.generation.config import GenerationConfig

__all__ = ["SCHEDULES", "Assistance", "Contrast", "check_way", "dola_candidates"]

# How the number of drafted tokens follows their success (torch/generation/draft.py).
SCHEDULES = ("heuristic", "heuristic_transient", "constant")


@dataclass(frozen=True)
class Contrast:
    """The numbers of contrastive search.

    Attributes:
        top_k: Candidates of a step.
        penalty_alpha: How much resemblance counts, above 0 and up to 1.
        one_by_one: Whether the candidates are read one after the other (`low_memory`).
    """

    top_k: int
    penalty_alpha: float
    one_by_one: bool = False

    def __post_init__(self) -> None:
        check_integer("top_k", self.top_k, 1)
        check_real("penalty_alpha", self.penalty_alpha, lambda x: 0 <= x <= 1, "a number from 0 to 1")

    def check(self, vocab_size: int, use_cache: bool) -> None:
        """Refuse more candidates than there are tokens, and a search without its cache."""
        if self.top_k > vocab_size:
            raise InputError(
                f"Contrastive search takes top_k={self.top_k} candidates, but the vocabulary has "
                f"{vocab_size} tokens. Lower top_k."
            )
        if not use_cache:
            raise InputError("Contrastive search requires `use_cache=True`: the candidates share the cache.")

    def __str__(self) -> str:
        read = "one after the other" if self.one_by_one else "in one call"
        return (
            f"of the {self.top_k} likeliest tokens, read {read}, the one whose probability times "
            f"{1 - self.penalty_alpha:g} exceeds its likeness to the text times {self.penalty_alpha:g} most"
        )


@dataclass(frozen=True)
class Assistance:
    """The numbers of assisted decoding.

    Attributes:
        count: Tokens of a draft, at first; None is what the assistant brings, or 5.
        schedule: One of `SCHEDULES`; None is what the assistant brings, or the first.
        by_lookup: Whether the text itself drafts, and no model.
        longest: Tokens of the longest ending that is looked up.
    """

    count: int | None
    schedule: str | None = None
    by_lookup: bool = False
    longest: int = 2

    def __str__(self) -> str:
        if self.by_lookup:
            return (
                f"the text drafts {self.count} token(s): what followed when it last ended in the same "
                f"{self.longest} or fewer"
            )
        count = "its own number of" if self.count is None else str(self.count)
        return f"the assistant drafts {count} token(s) at a time, {self.schedule or 'heuristic'}"


def check_way(config: GenerationConfig) -> None:
    """Check the options of single ways of decoding, whether or not this call takes the way.

    Raises:
        InputError: the option, its value and what is allowed.
    """
    if config.penalty_alpha is not None:
        check_real("penalty_alpha", config.penalty_alpha, lambda x: 0 <= x <= 1, "a number from 0 to 1")
    for name in ("num_assistant_tokens", "prompt_lookup_num_tokens", "max_matching_ngram_size"):
        if getattr(config, name) is not None:
            check_integer(name, getattr(config, name), 1)
    schedule = config.num_assistant_tokens_schedule
    if schedule is not None and schedule not in SCHEDULES:
        raise InputError(
            f"`num_assistant_tokens_schedule` has to be one of {', '.join(SCHEDULES)}, but is {schedule!r}."
        )
    layers = config.dola_layers
    if layers is None or layers in ("low", "high"):
        return
    if isinstance(layers, (str, bool)) or not isinstance(layers, (list, tuple)) or not layers:
        raise InputError(f"`dola_layers` has to be 'low', 'high' or a list of layers, but is {layers!r}.")
    for layer in layers:
        check_integer("dola_layers", layer, 0)


def dola_candidates(layers: Any, n_layer: int, tied: bool) -> tuple[int, ...]:
    """Return the layers that DoLa may contrast the last one with, as transformers has them.

    Args:
        layers: "low" (the first half), "high" (the second half), or a list; 0 is the embeddings.
        n_layer: Layers of the model.
        tied: Whether the head is the embeddings; then the first two layers tell little but the token itself.

    Raises:
        InputError: a layer that the model does not have, or the last one.

    Source:
        Chuang et al. 2023, "DoLa: Decoding by Contrasting Layers Improves Factuality", section 3.
    """
    if isinstance(layers, (list, tuple)):
        if outside := [layer for layer in layers if not 0 <= layer < n_layer]:
            raise InputError(
                f"`dola_layers` names layer {outside[0]}, but what the last of {n_layer} layers may be "
                f"contrasted with is 0 to {n_layer - 1}."
            )
        return tuple(layers)
    start = min(2, n_layer - 1) if tied else 0
    middle = n_layer // 2
    if layers == "high":
        return tuple(range(middle if n_layer <= 40 else n_layer - 20, n_layer, 2))
    if start >= middle:
        return (start,)
    return tuple(range(start, middle if n_layer <= 40 else 20, 2))
