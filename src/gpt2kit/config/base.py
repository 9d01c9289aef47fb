"""What every configuration has: the common keywords, labels, dictionaries and JSON.

The names and defaults are those that transformers 4.34 gives to the configuration of any model.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from gpt2kit.atomic import atomic_write_text, make_folder
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.hub import HubOptions, commit_of, locate

__all__ = ["CONFIG_NAME", "BaseConfig", "CommonKeywords"]

CONFIG_NAME = "config.json"
FORMAT_VERSION = "4.34.0"  # whose JSON this is; written as "transformers_version", which every reader expects

# Where a configuration came from, not what it is: left out when two are compared.
_PROVENANCE = ("_name_or_path", "_commit_hash", "transformers_version")
_DTYPE_ALIASES = {"half": "float16", "float": "float32", "double": "float64"}


@dataclass(init=False, eq=False, repr=False)
class CommonKeywords:
    """The keywords of every configuration, with 4.34's defaults.

    A saved file names them only where they differ from these.
    """

    return_dict: bool = True
    output_hidden_states: bool = False
    output_attentions: bool = False
    torchscript: bool = False
    torch_dtype: str | None = None  # the name of a dtype; the PyTorch room turns it into a torch.dtype
    use_bfloat16: bool = False
    tf_legacy_loss: bool = False
    pruned_heads: dict[int, list[int]] = field(default_factory=dict)
    tie_word_embeddings: bool = True
    is_encoder_decoder: bool = False
    is_decoder: bool = False
    cross_attention_hidden_size: int | None = None
    add_cross_attention: bool = False
    tie_encoder_decoder: bool = False
    max_length: int = 20
    min_length: int = 0
    do_sample: bool = False
    early_stopping: bool | str = False
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: list[list[int]] | None = None
    num_return_sequences: int = 1
    chunk_size_feed_forward: int = 0
    output_scores: bool = False
    return_dict_in_generate: bool = False
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    architectures: list[str] | None = None
    finetuning_task: str | None = None
    tokenizer_class: str | None = None
    prefix: str | None = None
    pad_token_id: int | None = None
    sep_token_id: int | None = None
    decoder_start_token_id: int | None = None
    task_specific_params: dict[str, Any] | None = None
    problem_type: str | None = None

    @staticmethod
    def defaults() -> dict[str, Any]:
        """Return a fresh copy of the defaults."""
        return {
            item.name: item.default_factory() if item.default_factory is not MISSING else item.default
            for item in fields(CommonKeywords)
        }


class BaseConfig(CommonKeywords):
    """A configuration: common keywords, labels, and the way to and from a file."""

    model_type: ClassVar[str] = ""
    is_composition: ClassVar[bool] = False

    id2label: dict[int, str]
    label2id: dict[str, int]
    _name_or_path: str
    _commit_hash: str | None
    transformers_version: str | None

    def validate(self) -> None:
        """Refuse values that cannot work."""
        raise NotImplementedError

    @classmethod
    def own_defaults(cls) -> dict[str, Any]:
        """Return the defaults of the arguments that are the model's own."""
        raise NotImplementedError

    @classmethod
    def modernize(cls, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return a read config.json in the words of 4.34."""
        return dict(config_dict)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a dtype is kept by its name, so that the core needs no framework."""
        super().__setattr__(name, _dtype_name(value) if name == "torch_dtype" else value)

    # ------------------------------------------------------------------ labels and names

    @property
    def num_labels(self) -> int:
        """Number of labels of a classification head; setting another number renames them all."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"num_labels must be a whole number of at least 1, but it is {count!r}.")
        if len(getattr(self, "id2label", ())) != count:
            self.id2label = {index: f"LABEL_{index}" for index in range(count)}
            self.label2id = {label: index for index, label in self.id2label.items()}

    def set_labels(self, kwargs: dict[str, Any]) -> None:
        """Take id2label, label2id and num_labels out of keywords, and make each from whichever was given."""
        id2label, label2id = kwargs.pop("id2label", None), kwargs.pop("label2id", None)
        num_labels = kwargs.pop("num_labels", None)
        for name, labels in (("id2label", id2label), ("label2id", label2id)):
            if labels is not None and not isinstance(labels, dict):
                raise ConfigError(f"`{name}` should be a dictionary, but it is {labels!r}.")
        if id2label is None and label2id is None:
            self.num_labels = 2 if num_labels is None else num_labels
            return
        if id2label is None:
            id2label = {index: label for label, index in label2id.items()}
        if num_labels is not None and num_labels != len(id2label):
            raise ConfigError(
                f"num_labels={num_labels} does not fit the {len(id2label)} labels of id2label={id2label}. "
                "Give one of the two."
            )
        try:
            self.id2label = {int(index): label for index, label in id2label.items()}
        except (TypeError, ValueError):
            raise ConfigError(
                f"The keys of `id2label` should be whole numbers, but they are {list(id2label)}."
            ) from None
        self.label2id = label2id or {label: index for index, label in self.id2label.items()}

    @property
    def name_or_path(self) -> str:
        """Where the configuration was loaded from, empty if it was made by hand."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: object) -> None:
        self._name_or_path = str(value)

    @property
    def use_return_dict(self) -> bool:
        """Whether models return a ModelOutput rather than a tuple."""
        return self.return_dict and not self.torchscript

    def get_text_config(self, decoder: bool = False) -> Self:
        """Return the configuration of the text model, which is this one (newer libraries ask)."""
        return self

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several attributes, then check the whole."""
        for name, value in config_dict.items():
            setattr(self, name, value)
        self.validate()

    def update_from_string(self, update_str: str) -> None:
        """Set attributes from text such as "n_embd=96,resid_pdrop=0.2,use_cache=false".

        Raises:
            ConfigError: An unknown name, or a value that is not of the kind of the present one.
        """
        changes: dict[str, Any] = {}
        for part in update_str.split(","):
            name, equals, text = part.partition("=")
            if not equals or not hasattr(self, name):
                raise ConfigError(
                    f"{part!r} sets nothing: write name=value with a name of this configuration."
                )
            changes[name] = _parse_like(getattr(self, name), name, text)
        self.update(changes)

    # ------------------------------------------------------------------ dictionaries and JSON

    def to_dict(self) -> dict[str, Any]:
        """Return every attribute, ready for JSON."""
        output = copy.deepcopy(self.__dict__)
        output.pop("_commit_hash", None)
        return output | {
            "model_type": self.model_type,
            "transformers_version": FORMAT_VERSION,
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """Return GPT-2's own attributes, and the common ones that differ from 4.34's."""
        common = self.defaults() | {"_name_or_path": "", "bos_token_id": None, "eos_token_id": None}
        common |= {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
        own = self.own_defaults()
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in common or value != common[name] or (name in own and value != own[name])
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the JSON text of `to_diff_dict()`, or of `to_dict()` if `use_diff` is False."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(values, indent=2, sort_keys=True, default=_plain) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write `to_json_string(use_diff)` to a file, whole or not at all."""
        atomic_write_text(json_file_path, self.to_json_string(use_diff))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write config.json into a folder, which is made if it is not there.

        Raises:
            InputError: The folder is a file, or an upload is asked for (gpt2kit uploads nothing).
        """
        if push_to_hub or kwargs:
            raise InputError(
                "save_pretrained takes a folder and uploads nothing"
                + (f"; it does not know {', '.join(sorted(kwargs))}" if kwargs else "")
                + ". To publish, call huggingface_hub.upload_folder on the folder afterwards."
            )
        folder = Path(save_directory)
        if folder.is_file():
            raise InputError(f"{folder} is a file; save_pretrained needs a folder. Pass another name.")
        make_folder(folder)
        self.validate()
        self.to_json_file(folder / CONFIG_NAME)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Make a configuration from a dictionary, such as `to_dict()` or a read config.json.

        Args:
            config_dict: Names and values.
            **kwargs: Values that take the place of those in the dictionary. A name that the configuration
                does not have is refused, or handed back with `return_unused_kwargs=True`.

        Returns:
            The configuration, or with `return_unused_kwargs=True` a pair of it and the unused keywords.

        Raises:
            ConfigError: Another model's type, an unknown keyword, or a value that cannot work.
        """
        return_unused = kwargs.pop("return_unused_kwargs", False)
        for internal in ("_from_auto", "_from_pipeline"):
            kwargs.pop(internal, None)
        if "_commit_hash" in config_dict:
            kwargs.pop("_commit_hash", None)
        config = cls(**cls.modernize(config_dict))
        unused = {name: kwargs.pop(name) for name in list(kwargs) if not config.has(name)}
        if "torch_dtype" in kwargs:  # the loader of weights wants it too; "auto" is for the loader alone
            unused["torch_dtype"] = kwargs["torch_dtype"]
            if kwargs["torch_dtype"] == "auto":
                del kwargs["torch_dtype"]
        if {"id2label", "label2id", "num_labels"} & kwargs.keys():
            config.set_labels(kwargs)
        config.update(kwargs)
        if return_unused:
            return config, unused
        unused.pop("torch_dtype", None)
        if unused:
            raise ConfigError(config.describe_unknown(unused))
        return config

    def has(self, name: str) -> bool:
        """Tell whether a configuration has a value of this name that can be set."""
        return name in self.__dict__ or getattr(getattr(type(self), name, None), "fset", None) is not None

    def describe_unknown(self, names: Iterable[str]) -> str:
        """Say which names a configuration does not have, and what may have been meant."""
        first, *_ = names = sorted(names)
        close = difflib.get_close_matches(first, self.to_dict(), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return (
            f"{type(self).__name__} has no {', '.join(names)}{hint}. Set the attribute on the configuration "
            "afterwards if it is yours, or pass return_unused_kwargs=True to get it back."
        )

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Make a configuration from a JSON file.

        Raises:
            ConfigError: The file holds no JSON object, or values that cannot work.
        """
        config: Self = cls.from_dict(_read_json(Path(json_file)))
        return config

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a configuration from a folder, a JSON file, a name on the hub, or "pocket".

        Args:
            pretrained_model_name_or_path: A folder on this disk wins over a name.
            **kwargs: The arguments of `gpt2kit.hub.HubOptions` (revision, cache_dir, token,
                local_files_only, subfolder, ...), `return_unused_kwargs`, and values that take the place
                of those in the file.

        Returns:
            The configuration, or with `return_unused_kwargs=True` a pair of it and the unused keywords.

        Raises:
            HubError: No such name, file or network.
            ConfigError: Another model's type, an unknown keyword, or a value that cannot work.
        """
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls.from_dict(config_dict, **kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what config.json says, and the keywords that are not the hub's."""
        options = HubOptions.pop_from(kwargs)
        path = Path(pretrained_model_name_or_path)
        if not path.is_file():
            path = locate(
                pretrained_model_name_or_path, kwargs.pop("_configuration_file", CONFIG_NAME), options
            )
        config_dict = _read_json(path)
        commit = commit_of(path)
        return (config_dict | {"_commit_hash": commit} if commit else config_dict), kwargs

    def __eq__(self, other: object) -> bool:
        """Compare every value but those that only tell where the configuration came from."""
        if not isinstance(other, BaseConfig):
            return NotImplemented
        mine, theirs = (
            {name: value for name, value in config.__dict__.items() if name not in _PROVENANCE}
            for config in (self, other)
        )
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]  # a configuration can be changed, so it cannot be a key

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _dtype_name(value: Any) -> str | None:
    """Return the name of a dtype that was given by name or as an object of any framework."""
    if value is None:
        return None
    text = value if isinstance(value, str) else getattr(value, "name", getattr(value, "__name__", str(value)))
    name = text.removeprefix("torch.")
    return _DTYPE_ALIASES.get(name, name)


def _parse_like(current: object, name: str, text: str) -> object:
    """Read text as a value of the kind that the attribute has now."""
    try:
        if isinstance(current, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        if isinstance(current, int | float):
            return type(current)(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{name}={text} does not fit: {name} is {current!r} now.") from None
    if isinstance(current, str):
        return text
    raise ConfigError(f"Only numbers, switches and words can be set from text, and {name} is {current!r}.")


def _plain(value: Any) -> Any:
    """Turn a NumPy number into one that JSON knows."""
    if hasattr(value, "item"):
        return value.item()
    raise ConfigError(
        f"{value!r} ({type(value).__name__}) cannot be written as JSON; remove it from the configuration."
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a valid JSON file ({error}). Download or save it again.") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds {type(values).__name__} where a configuration, a JSON object, was expected."
        )
    return values
