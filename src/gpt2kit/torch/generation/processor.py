"""What a logits processor is, and how several are applied one after the other.

Dimensions: B rows of text, T tokens so far, V vocabulary.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gpt2kit.errors import InputError
from gpt2kit.torch.generation.prompt import Prompt

__all__ = ["LogitsProcessor", "LogitsProcessorList", "Setting"]


class LogitsProcessor:
    """Change the scores of the next token; subclass it to make a rule of your own.

    Attributes:
        knows_rows: Whether the rows have to be those of the prompts, in their order: then rows that have
            ended do not leave a beam search.
    """

    knows_rows = False

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


@dataclass(frozen=True)
class Setting:
    """What the code of a rule may need besides the rule's numbers.

    Attributes:
        prompt: The prompt's tokens, [B, T].
        model: What writes the text; guidance asks it for other scores.
        negative: The negative prompt of guidance.
        use_cache: Whether keys and values are kept.
    """

    prompt: Tensor
    model: Any = None
    negative: Prompt | None = None
    use_cache: bool = True
