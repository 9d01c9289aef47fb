"""A thin door: the tokenizer of a folder or name, which is always GPT-2's."""

from __future__ import annotations

import os
from typing import Any

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.hub import HubOptions, locate_optional
from gpt2kit.tokenization.fast import GPT2TokenizerFast
from gpt2kit.tokenization.folder import OFFICIAL, read_json
from gpt2kit.tokenization.slow import GPT2Tokenizer

__all__ = ["AutoTokenizer"]


class AutoTokenizer:
    """Opens the tokenizer of a GPT-2 checkpoint; the fast one unless told otherwise.

    Example:
        >>> from gpt2kit import AutoTokenizer
        >>> AutoTokenizer.from_pretrained("gpt2").is_fast
        True
    """

    def __init__(self) -> None:
        raise TypeError(
            "AutoTokenizer is not made by calling it. Use AutoTokenizer.from_pretrained(name_or_folder)."
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *inputs: Any,
        use_fast: bool = True,
        tokenizer_type: str | None = None,
        config: Any = None,
        **kwargs: Any,
    ) -> GPT2Tokenizer | GPT2TokenizerFast:
        """Open the tokenizer of a folder or name.

        Args:
            pretrained_model_name_or_path: A folder or a name.
            *inputs: Positional arguments of the tokenizer's constructor.
            use_fast: Whether to take GPT2TokenizerFast or GPT2Tokenizer.
            tokenizer_type: "gpt2" or None; there is no other.
            config: A configuration of the model; None reads config.json.
            **kwargs: As in `GPT2Tokenizer.from_pretrained`.

        Raises:
            TokenizerError: The checkpoint is of another kind of model.
        """
        if tokenizer_type not in (None, "gpt2"):
            raise InputError(f"tokenizer_type={tokenizer_type!r} is unknown: gpt2kit has 'gpt2' only.")
        name = os.fspath(pretrained_model_name_or_path)
        options = HubOptions.pop_from(dict(kwargs))
        model_type = getattr(config, "model_type", None)
        if config is None and name not in OFFICIAL:
            model_type = _model_type(pretrained_model_name_or_path, options)
        if model_type not in (None, "gpt2"):
            raise TokenizerError(
                f"{name} is a {model_type!r} model, and gpt2kit has GPT-2's tokenizer only. "
                "Pass a GPT-2 checkpoint."
            )
        if use_fast:
            return GPT2TokenizerFast.from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)
        return GPT2Tokenizer.from_pretrained(pretrained_model_name_or_path, *inputs, **kwargs)


def _model_type(name: str | os.PathLike[str], options: HubOptions) -> str | None:
    """Return the model type that config.json names, None where the tokenizer's own files know better."""
    saved = read_json(locate_optional(name, "tokenizer_config.json", options), "tokenizer_config.json")
    if saved.get("tokenizer_class") is not None:
        return None
    model_type: str | None = read_json(locate_optional(name, "config.json", options), "config.json").get(
        "model_type"
    )
    return model_type
