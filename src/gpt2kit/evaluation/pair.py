"""A context and what follows it, as tokens: the text is tokenized whole and cut where the context ends."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2kit.errors import InputError

__all__ = ["Pair", "encode", "encode_pair"]


class Pair(NamedTuple):
    """The tokens of a context and those of its continuation, which begin at `first`."""

    ids: NDArray[np.int64]
    first: int


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text as they are: nothing added, nothing cut."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def encode_pair(tokenizer: Any, context: str, continuation: str, prefix_token_id: int | None = None) -> Pair:
    """Tokenize a context and its continuation as the one text that they are.

    White space at the end of the context goes to the continuation, because GPT-2's tokens begin with a space
    and do not end with one. Where the context is empty, `prefix_token_id` stands in its place; a continuation
    that begins with that very token needs no other.

    Args:
        tokenizer: Any that returns "input_ids".
        context: What is given.
        continuation: What is scored.
        prefix_token_id: What stands before everything where the context is empty.

    Raises:
        InputError: The continuation has no tokens of its own; or the context is empty and there is no
            prefix.

    Source:
        lm-evaluation-harness 0.4.13, api/model.py, TemplateLM.loglikelihood and _encode_pair: the same rules.
    """
    kept = context.rstrip()
    if not kept and not context:
        return _without_context(encode(tokenizer, continuation), prefix_token_id, continuation)
    whole = encode(tokenizer, context + continuation)
    first = len(encode(tokenizer, kept))
    if first == 0:  # nothing but white space: all of it goes to the continuation
        return _without_context(whole, prefix_token_id, continuation)
    if first >= len(whole):
        raise InputError(
            f"{continuation!r} adds no token to its context; give a continuation with at least one letter."
        )
    return Pair(np.array(whole, np.int64), first)


def _without_context(ids: list[int], prefix_token_id: int | None, continuation: str) -> Pair:
    if not ids:
        raise InputError("An empty continuation cannot be scored.")
    if prefix_token_id is None:
        raise InputError(
            f"Nothing stands before {continuation!r}, and the first token of a text has no probability "
            "without one before it: give a context, or a prefix_token_id such as the model's bos_token_id."
        )
    if ids[0] != prefix_token_id:
        ids = [prefix_token_id, *ids]
    elif len(ids) == 1:
        raise InputError("The continuation is the prefix token and nothing else; nothing is left to score.")
    return Pair(np.array(ids, np.int64), 1)
