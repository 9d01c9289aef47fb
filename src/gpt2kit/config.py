"""The configuration of a GPT-2: every number and switch, checked when it is made.

`GPT2Config` has the arguments, the defaults and the JSON of transformers 4.34, so a `config.json` goes from
one library to the other and back. What differs is told in docs/differences.md: values that cannot work are
refused with the fix, and `n_ctx` is written beside `n_positions` because llama.cpp's converter asks for it.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from gpt2kit.atomic import atomic_write_text
from gpt2kit.config_checks import ACTIVATIONS, DTYPES, check_config
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.hub import HubOptions, commit_of, locate

__all__ = ["ACTIVATIONS", "CONFIG_NAME", "DTYPES", "GPT2Config"]

CONFIG_NAME = "config.json"
FORMAT_VERSION = "4.34.0"  # whose JSON this is; written as "transformers_version", which every reader expects

# Where a configuration came from, not what it is: left out when two are compared.
_PROVENANCE = ("_name_or_path", "_commit_hash", "transformers_version")
_DTYPE_ALIASES = {"half": "float16", "float": "float32", "double": "float64"}

_logger = logging.getLogger(__name__)


def _alias(name: str) -> Any:
    """Make a property that is another spelling of the attribute `name`."""

    def read(self: GPT2Config) -> Any:
        return getattr(self, name)

    def write(self: GPT2Config, value: Any) -> None:
        setattr(self, name, value)

    return property(read, write, doc=f"Another spelling of `{name}`.")


@dataclass(init=False, eq=False, repr=False)
class _CommonConfig:
    """The keywords that 4.34's base class gives to every model, with its defaults.

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


def _common_defaults() -> dict[str, Any]:
    """Return a fresh copy of the defaults above."""
    return {
        item.name: item.default_factory() if item.default_factory is not MISSING else item.default
        for item in fields(_CommonConfig)
    }


class GPT2Config(_CommonConfig):
    """Everything that tells one GPT-2 from another, under the names of transformers 4.34.

    Args:
        vocab_size: Number of tokens, V.
        n_positions: Longest sequence, P.
        n_embd: Width of the residual stream, D.
        n_layer: Number of blocks, L.
        n_head: Attention heads in a block, H; they share D evenly.
        n_inner: Width of the MLP, M; None is 4 * n_embd.
        activation_function: Nonlinearity of the MLP, one of `ACTIVATIONS`.
        resid_pdrop: Dropout after each projection into the residual stream.
        embd_pdrop: Dropout after the embeddings.
        attn_pdrop: Dropout on the attention probabilities.
        layer_norm_epsilon: What layer normalization adds to the variance.
        initializer_range: Standard deviation of fresh weights.
        summary_type: Which position the multiple-choice head reads.
        summary_use_proj: Whether that head ends in a linear layer.
        summary_activation: Activation after it, None for no activation.
        summary_proj_to_labels: Whether that layer has num_labels outputs (else n_embd).
        summary_first_dropout: Dropout before that layer.
        scale_attn_weights: Whether attention scores are divided by sqrt(K).
        use_cache: Whether a model returns its keys and values for the next call.
        bos_token_id: Token that begins a text.
        eos_token_id: Token that ends a text, or a list of such tokens.
        scale_attn_by_inverse_layer_idx: Whether the scores of layer i are divided by i + 1 as well.
        reorder_and_upcast_attn: Whether scores are computed in float32, with the scaling inside the product.
        **kwargs: The keywords that 4.34 gives every model (see the attributes below), the aliases
            `hidden_size`, `max_position_embeddings`, `num_attention_heads` and `num_hidden_layers`,
            `num_labels`, and anything else, which is kept as an attribute.

    Raises:
        ConfigError: A value cannot work; the message says what would. Values set later are checked by
            `validate`, which every model calls when it is built.

    Source:
        transformers v4.34.0, models/gpt2/configuration_gpt2.py and configuration_utils.py.

    Example:
        >>> config = GPT2Config(n_layer=3, n_embd=33, n_head=3)
        >>> config.hidden_size, config.mlp_width, config.num_labels
        (33, 132, 2)
    """

    model_type: ClassVar[str] = "gpt2"
    is_composition: ClassVar[bool] = False
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    hidden_size = _alias("n_embd")
    max_position_embeddings = _alias("n_positions")
    num_attention_heads = _alias("n_head")
    num_hidden_layers = _alias("n_layer")

    id2label: dict[int, str]
    label2id: dict[str, int] | None

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        n_inner: int | None = None,
        activation_function: str = "gelu_new",
        resid_pdrop: float = 0.1,
        embd_pdrop: float = 0.1,
        attn_pdrop: float = 0.1,
        layer_norm_epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        summary_type: str = "cls_index",
        summary_use_proj: bool = True,
        summary_activation: str | None = None,
        summary_proj_to_labels: bool = True,
        summary_first_dropout: float = 0.1,
        scale_attn_weights: bool = True,
        use_cache: bool = True,
        bos_token_id: int | None = 50256,
        eos_token_id: int | list[int] | None = 50256,
        scale_attn_by_inverse_layer_idx: bool = False,
        reorder_and_upcast_attn: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.n_positions = n_positions
        self.n_embd = n_embd
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_inner = n_inner
        self.activation_function = activation_function
        self.resid_pdrop = resid_pdrop
        self.embd_pdrop = embd_pdrop
        self.attn_pdrop = attn_pdrop
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.summary_type = summary_type
        self.summary_use_proj = summary_use_proj
        self.summary_activation = summary_activation
        self.summary_proj_to_labels = summary_proj_to_labels
        self.summary_first_dropout = summary_first_dropout
        self.scale_attn_weights = scale_attn_weights
        self.use_cache = use_cache
        self.scale_attn_by_inverse_layer_idx = scale_attn_by_inverse_layer_idx
        self.reorder_and_upcast_attn = reorder_and_upcast_attn
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id

        self._check_model_type(kwargs.pop("model_type", self.model_type))
        for name, default in _common_defaults().items():
            setattr(self, name, kwargs.pop(name, default))
        self._name_or_path = str(kwargs.pop("name_or_path", kwargs.pop("_name_or_path", "")))
        self._commit_hash: str | None = kwargs.pop("_commit_hash", None)
        self.transformers_version: str | None = kwargs.pop("transformers_version", None)
        if kwargs.pop("xla_device", None) is not None:
            _logger.warning("`xla_device` has had no meaning since transformers 4.4; remove it.")
        self._set_labels(kwargs)
        self._set_the_rest(kwargs)
        self.validate()

    # ------------------------------------------------------------------ construction

    @classmethod
    def _check_model_type(cls, model_type: object) -> None:
        if model_type not in ("", cls.model_type):
            raise ConfigError(
                f"This is the configuration of a model of type {model_type!r}, and {cls.__name__} reads only "
                f"{cls.model_type!r}. Choose a GPT-2 checkpoint; if it is one, correct `model_type`."
            )

    def _set_labels(self, kwargs: dict[str, Any]) -> None:
        """Make id2label and label2id from whichever of id2label, label2id and num_labels was given."""
        id2label, label2id = kwargs.pop("id2label", None), kwargs.pop("label2id", None)
        num_labels = kwargs.pop("num_labels", None)
        for name, labels in (("id2label", id2label), ("label2id", label2id)):
            if labels is not None and not isinstance(labels, dict):
                raise ConfigError(f"`{name}` should be a dictionary, but it is {labels!r}.")
        if id2label is None and label2id is not None:
            id2label = {index: label for label, index in label2id.items()}
        if id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
            return
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
        self.label2id = label2id

    def _set_the_rest(self, kwargs: dict[str, Any]) -> None:
        """Set aliases and unknown keywords as attributes; they must not hide a part of the class."""
        defaults = _own_defaults()
        for alias, name in self.attribute_map.items():
            default, value = defaults[name], getattr(self, name)
            if alias in kwargs and value not in (default, kwargs[alias]):
                raise ConfigError(
                    f"{name}={value} and {alias}={kwargs[alias]} are two values of one setting. Give one."
                )
        for name, value in kwargs.items():
            if hasattr(type(self), name) and name not in self.attribute_map and name != "n_ctx":
                raise ConfigError(f"`{name}` is a part of {type(self).__name__} and cannot be an argument.")
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a dtype is kept by its name, so that the core needs no framework."""
        super().__setattr__(name, _dtype_name(value) if name == "torch_dtype" else value)

    def validate(self) -> None:
        """Refuse values that cannot work.

        The constructor calls it; so does every model when it is built, for what was set in between.

        Raises:
            ConfigError: With the value that came and one that would do.
        """
        check_config(self)

    # ------------------------------------------------------------------ derived values

    @property
    def mlp_width(self) -> int:
        """Width of the MLP, M."""
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd

    @property
    def n_ctx(self) -> int:
        """The name that n_positions had in GPT-2's first release; it can only be the same number."""
        return self.n_positions

    @n_ctx.setter
    def n_ctx(self, value: int) -> None:
        if value != self.n_positions:
            raise ConfigError(
                f"n_ctx={value} differs from n_positions={self.n_positions}. The length of a GPT-2 is "
                f"n_positions; pass n_positions={value} if that is what you want."
            )

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
            "n_ctx": self.n_positions,
            "transformers_version": FORMAT_VERSION,
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """Return GPT-2's own attributes, and the common ones that differ from 4.34's."""
        common = _common_defaults() | {"_name_or_path": "", "bos_token_id": None, "eos_token_id": None}
        common |= {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
        own = _own_defaults()
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
        folder.mkdir(parents=True, exist_ok=True)
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
        config = cls(**_modernize(config_dict))
        if (
            "num_labels" in kwargs
            and "id2label" in kwargs
            and len(kwargs["id2label"] or ()) != kwargs["num_labels"]
        ):
            raise ConfigError(
                f"num_labels={kwargs['num_labels']} does not fit id2label={kwargs['id2label']}. "
                "Give one of the two."
            )
        unused = {name: kwargs.pop(name) for name in list(kwargs) if not hasattr(config, name)}
        if kwargs.get("torch_dtype") == "auto":  # a wish to the loader of weights, not a value
            unused["torch_dtype"] = kwargs.pop("torch_dtype")
        elif "torch_dtype" in kwargs:
            unused["torch_dtype"] = kwargs["torch_dtype"]
        if "id2label" in kwargs and kwargs["id2label"] is not None:
            kwargs["id2label"] = {int(index): label for index, label in kwargs["id2label"].items()}
        config.update(kwargs)
        if return_unused:
            return config, unused
        strangers = sorted(set(unused) - {"torch_dtype"})
        if strangers:
            close = difflib.get_close_matches(strangers[0], config.to_dict(), n=1)
            raise ConfigError(
                f"{cls.__name__} has no {', '.join(strangers)}"
                + (f" (did you mean {close[0]}?)" if close else "")
                + ". Set the attribute on the configuration afterwards if it is yours, "
                "or pass return_unused_kwargs=True to get it back."
            )
        return config

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
        if not isinstance(other, GPT2Config):
            return NotImplemented
        mine, theirs = (
            {name: value for name, value in config.__dict__.items() if name not in _PROVENANCE}
            for config in (self, other)
        )
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]  # a configuration can be changed, so it cannot be a key

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _own_defaults() -> dict[str, Any]:
    """Return the defaults of GPT2Config's named arguments."""
    parameters = inspect.signature(GPT2Config.__init__).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not item.empty}


def _dtype_name(value: Any) -> str | None:
    """Return the name of a dtype that was given by name or as an object of any framework."""
    if value is None:
        return None
    text = value if isinstance(value, str) else getattr(value, "name", getattr(value, "__name__", str(value)))
    name = text.removeprefix("torch.")
    return _DTYPE_ALIASES.get(name, name)


def _modernize(config_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a read config.json in the words of 4.34: what other versions say otherwise is translated."""
    values = dict(config_dict)
    if "dtype" in values and values.get("torch_dtype") is None:  # transformers 5 writes it so
        values["torch_dtype"] = values.pop("dtype")
    length = values.get("n_positions", values.get("max_position_embeddings"))
    n_ctx = values.pop("n_ctx", None)
    if n_ctx is not None and length is None:  # the first release's only name for it
        values["n_positions"] = n_ctx
    elif n_ctx is not None and n_ctx != length:
        _logger.warning("n_ctx=%s is ignored: the model's length is n_positions=%s.", n_ctx, length)
    labels, count = values.get("id2label"), values.get("num_labels")
    if labels is not None and count is not None:
        del values["num_labels"]
        if count != len(labels):
            _logger.warning("num_labels=%s is ignored: id2label names %d labels.", count, len(labels))
    return values


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
