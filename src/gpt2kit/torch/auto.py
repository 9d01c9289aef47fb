"""Thin doors: the model of a folder or name for a task, which is always a GPT-2.

    door                                 class
    AutoModel                            GPT2Model
    AutoModelForCausalLM                 GPT2LMHeadModel
    AutoModelForSequenceClassification   GPT2ForSequenceClassification
    AutoModelForTokenClassification      GPT2ForTokenClassification
    AutoModelForQuestionAnswering        GPT2ForQuestionAnswering

As in transformers 4.34 no door leads to GPT2DoubleHeadsModel; it is opened by its own name.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from gpt2kit.config import GPT2Config
from gpt2kit.config.auto import check_kind, refuse_code_revision, refuse_remote_code
from gpt2kit.errors import ConfigError
from gpt2kit.hub import HubOptions
from gpt2kit.torch.answering import GPT2ForQuestionAnswering
from gpt2kit.torch.classification import GPT2ForSequenceClassification, GPT2ForTokenClassification
from gpt2kit.torch.heads import GPT2LMHeadModel
from gpt2kit.torch.model import GPT2Model
from gpt2kit.torch.pretrained import GPT2PreTrainedModel

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
]


class _AutoModel:
    """What every door does: make sure that a GPT-2 is asked for, and hand on to its class.

    Source:
        transformers v4.34.0, models/auto/auto_factory.py, _BaseAutoModelClass.
    """

    _model_class: ClassVar[type[GPT2PreTrainedModel]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        raise OSError(
            f"{name} is not made by calling it. Use {name}.from_pretrained(name_or_folder), or "
            f"{name}.from_config(config) for a model with random weights."
        )

    @classmethod
    def from_config(cls, config: GPT2Config, **kwargs: Any) -> Any:
        """Make a model with random weights.

        Args:
            config: Its configuration.
            **kwargs: torch_dtype, the dtype of the weights.

        Raises:
            ConfigError: The configuration of another model.
        """
        trusted = kwargs.pop("trust_remote_code", None)
        refuse_code_revision(cls.__name__, kwargs.pop("code_revision", None))
        _check_config(cls.__name__, config, trusted)
        return cls._model_class._from_config(config, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a model from a folder, a name on the hub, or "pocket".

        Args:
            pretrained_model_name_or_path: A folder on this disk wins over a name.
            *model_args: As in `GPT2PreTrainedModel.from_pretrained`.
            **kwargs: As there.

        Returns:
            A model of the class that this door leads to, in evaluation mode.

        Raises:
            HubError: No such name, file or network.
            ConfigError: The model is of another type, or nothing says that it is a GPT-2.
            CheckpointError: A file that is damaged or unsafe, or one without a weight of the body.
        """
        refuse_code_revision(cls.__name__, kwargs.pop("code_revision", None))
        config, trusted = kwargs.get("config"), kwargs.get("trust_remote_code")
        place = pretrained_model_name_or_path if config is None else config
        if isinstance(place, str | os.PathLike):
            hub = HubOptions.pop_from(dict(kwargs))
            config_dict, _ = GPT2Config.get_config_dict(place, **vars(hub))
            check_kind(config_dict, place)
            refuse_remote_code(cls.__name__, config_dict.get("auto_map"), trusted)
        elif place is not None:
            _check_config(cls.__name__, place, trusted)
        return cls._model_class.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)


def _check_config(name: str, config: Any, trust_remote_code: Any) -> None:
    """Refuse the configuration of another model."""
    if not isinstance(config, GPT2Config):
        model_type = getattr(config, "model_type", None)
        of_type = f" of a {model_type!r} model" if model_type else ""
        raise ConfigError(
            f"{name} needs a GPT2Config, but a {type(config).__name__}{of_type} came. gpt2kit has GPT-2 "
            "only; make the configuration with gpt2kit's GPT2Config or AutoConfig."
        )
    refuse_remote_code(name, getattr(config, "auto_map", None), trust_remote_code)


class AutoModel(_AutoModel):
    """Open a GPT2Model: hidden states, without a head.

    Example:
        >>> from gpt2kit import AutoModel
        >>> type(AutoModel.from_pretrained("pocket")).__name__
        'GPT2Model'
    """

    _model_class = GPT2Model


class AutoModelForCausalLM(_AutoModel):
    """Open a GPT2LMHeadModel, which writes text."""

    _model_class = GPT2LMHeadModel


class AutoModelForSequenceClassification(_AutoModel):
    """Open a GPT2ForSequenceClassification, which puts a label on a text."""

    _model_class = GPT2ForSequenceClassification


class AutoModelForTokenClassification(_AutoModel):
    """Open a GPT2ForTokenClassification, which puts a label on each token."""

    _model_class = GPT2ForTokenClassification


class AutoModelForQuestionAnswering(_AutoModel):
    """Open a GPT2ForQuestionAnswering, which finds where an answer begins and ends."""

    _model_class = GPT2ForQuestionAnswering
