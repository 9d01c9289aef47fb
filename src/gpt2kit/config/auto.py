"""A thin door: the configuration of a folder or name, which is always GPT-2's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from gpt2kit.config.gpt2 import GPT2Config
from gpt2kit.errors import ConfigError, InputError

__all__ = ["AutoConfig", "check_kind", "refuse_code_revision", "refuse_remote_code"]

_MODEL_TYPE = GPT2Config.model_type
_ARCHITECTURE = re.compile("(TF|Flax)?GPT2")  # how the names of its classes begin


class AutoConfig:
    """Reads the configuration of a GPT-2 checkpoint, and refuses that of any other model by name.

    Source:
        transformers v4.34.0, models/auto/configuration_auto.py, AutoConfig.

    Example:
        >>> from gpt2kit import AutoConfig
        >>> AutoConfig.from_pretrained("pocket").model_type
        'gpt2'
    """

    def __init__(self) -> None:
        raise OSError(
            "AutoConfig is not made by calling it. Use AutoConfig.from_pretrained(name_or_folder), or "
            "GPT2Config(...) for sizes of your own."
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Read the configuration of a folder, a JSON file, a name on the hub, or "pocket".

        Args:
            pretrained_model_name_or_path: A folder on this disk wins over a name.
            **kwargs: As in `GPT2Config.from_pretrained`.

        Returns:
            A GPT2Config, or with `return_unused_kwargs=True` a pair of it and the unused keywords.

        Raises:
            HubError: No such name, file or network.
            ConfigError: The model is of another type, or nothing says that it is a GPT-2.
        """
        trusted = kwargs.get("trust_remote_code")
        refuse_code_revision(cls.__name__, kwargs.pop("code_revision", None))
        config_dict, kwargs = GPT2Config.get_config_dict(pretrained_model_name_or_path, **kwargs)
        check_kind(config_dict, pretrained_model_name_or_path)
        refuse_remote_code(cls.__name__, config_dict.get("auto_map"), trusted)
        return GPT2Config.from_dict(config_dict, **kwargs)

    @classmethod
    def for_model(cls, model_type: str, *args: Any, **kwargs: Any) -> GPT2Config:
        """Make a configuration by hand; the rest of the arguments are those of GPT2Config.

        Raises:
            ConfigError: Another model type than "gpt2".
        """
        check_kind({"model_type": model_type}, "")
        return GPT2Config(*args, **kwargs)


def check_kind(config_dict: Mapping[str, Any], name_or_path: str | os.PathLike[str]) -> None:
    """Refuse the configuration of any model but a GPT-2.

    What decides is `model_type`; where it is missing, the classes that `architectures` lists; where these
    are missing too, whether the name has "gpt2" in it, which is all that 4.34 looks at.

    Args:
        config_dict: A read config.json.
        name_or_path: Where it was read from.

    Raises:
        ConfigError: Another model, or none that could be told.
    """
    where = f" of {os.fspath(name_or_path)}" if os.fspath(name_or_path) else ""
    model_type, architectures = config_dict.get("model_type"), config_dict.get("architectures")
    if model_type:
        if model_type != _MODEL_TYPE:
            raise ConfigError(
                f"The model{where} is of type {model_type!r}, and gpt2kit has {_MODEL_TYPE!r} only. Pass a "
                "GPT-2 checkpoint, or open this one with the transformers library."
            )
    elif architectures:
        strangers = [name for name in architectures if not _ARCHITECTURE.match(name)]
        if strangers:
            raise ConfigError(
                f"The configuration{where} has no model_type and is for {', '.join(strangers)}, and gpt2kit "
                "has GPT-2 only. Pass a GPT-2 checkpoint, or open this one with the transformers library."
            )
    elif _MODEL_TYPE not in os.fspath(name_or_path):
        raise ConfigError(
            f"The configuration{where} has no model_type, and its name does not say {_MODEL_TYPE!r} either. "
            f'If it is a GPT-2, add "model_type": "{_MODEL_TYPE}" to its config.json, or open it with '
            "GPT2Config and the class of the model you want."
        )


def refuse_remote_code(name: str, auto_map: object, trust_remote_code: object) -> None:
    """Refuse to run the code of a repository where the repository has some and the caller asks for it.

    Args:
        name: The class that was called.
        auto_map: What the configuration says; a mapping from such a class to code of the repository.
        trust_remote_code: The argument of that name.

    Raises:
        InputError: Both say so.
    """
    if trust_remote_code and isinstance(auto_map, Mapping) and name in auto_map:
        raise InputError(
            f"This checkpoint brings code of its own for {name} ({auto_map[name]}), and gpt2kit runs no code "
            "of a repository. Leave trust_remote_code out to open it as a plain GPT-2."
        )


def refuse_code_revision(name: str, code_revision: object) -> None:
    """Refuse to choose the revision of code that is never run."""
    if code_revision is not None:
        raise InputError(
            f"{name} cannot honour code_revision={code_revision!r}: gpt2kit runs no code of a repository. "
            "`revision` chooses the weights."
        )
