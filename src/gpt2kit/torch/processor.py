"""What a logits processor is, and how several are applied one after the other.

Dimensions: B rows of text, T tokens so far, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from gpt2kit.errors import InputError

__all__ = ["LogitsProcessor", "LogitsProcessorList"]


class LogitsProcessor:
    """Change the scores of the next token; subclass it to make a rule of your own."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the changed scores, [B, V]."""
        raise NotImplementedError(f"{type(self).__name__} has to define __call__(input_ids, scores).")


class LogitsProcessorList(list):
    """Apply several processors and warpers, one after the other."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Return the scores that the last one returns, [B, V].

        Raises:
            InputError: a processor asks for an argument that is not among `kwargs`.
        """
        for processor in self:
            wanted = list(inspect.signature(processor.__call__).parameters)[2:]
            missing = [name for name in wanted if name not in kwargs]
            if missing:
                raise InputError(
                    f"{type(processor).__name__} needs the arguments {missing}; pass them by name."
                )
            scores = (
                processor(input_ids, scores, **kwargs) if wanted else processor(input_ids, scores)
            )  # [B, V]
        return scores
