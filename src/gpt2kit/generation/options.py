"""The options of one call of `generate`: the model's or the caller's, with what the call changes."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from gpt2kit.errors import InputError
from gpt2kit.generation.config import GenerationConfig

__all__ = ["options_of"]


def options_of(
    model: Any, generation_config: GenerationConfig | None, given: dict[str, Any], stacklevel: int
) -> tuple[GenerationConfig, dict[str, Any]]:
    """Return the options of a call, not checked yet, and the rest of its keywords: arguments of the model.

    Args:
        model: Whose `generation_config` holds where none is given.
        generation_config: The caller's own; it stays as it is.
        given: The keywords of the call.
        stacklevel: Of a warning from here, so that it names the caller's line.

    Raises:
        InputError: Something else came in the place of a configuration.
    """
    if generation_config is None:
        _follow_model_config(model, stacklevel + 1)
        generation_config = model.generation_config
    if not isinstance(generation_config, GenerationConfig):
        raise InputError(
            f"generation_config has to be a gpt2kit.GenerationConfig, but is a "
            f"{type(generation_config).__name__}. Make one: GenerationConfig(**options)."
        )
    config = copy.deepcopy(generation_config)
    config.update(**{name: value for name, value in given.items() if name in GenerationConfig.FIELDS})
    others = {name: value for name, value in given.items() if name not in GenerationConfig.FIELDS}
    return config, others


def _follow_model_config(model: Any, stacklevel: int) -> None:
    """Take over options that were changed in the model's own configuration, as 4.34 does, and say so."""
    current = model.generation_config
    if not current._from_model_config or current._original_object_hash != hash(current):
        return
    changed = GenerationConfig.from_model_config(model.config)
    if changed != current:
        warnings.warn(
            "Generation options were changed in `model.config`; they are taken from there this time. Set "
            "them in `model.generation_config`, or pass them to `generate`.",
            UserWarning,
            stacklevel=stacklevel,
        )
        model.generation_config = changed
