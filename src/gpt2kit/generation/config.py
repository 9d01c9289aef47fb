"""GenerationConfig: every option of a generation, with the defaults of transformers 4.34."""

from __future__ import annotations

import copy
import difflib
import json
import math
import warnings
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

from gpt2kit.atomic import atomic_write_text, make_folder
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.generation.mode import check_relations
from gpt2kit.generation.order import end_tokens, processors_of, warpers_of
from gpt2kit.generation.rule import as_given, check_real
from gpt2kit.generation.stops import MaxTime, StopStrings
from gpt2kit.generation.way import check_way
from gpt2kit.hub import HubOptions, locate

__all__ = ["GENERATION_CONFIG_NAME", "GenerationConfig"]

GENERATION_CONFIG_NAME = "generation_config.json"
# Written into files for other readers, who take it as the release whose defaults hold.
_FORMAT_OF_TRANSFORMERS = "4.34.0"
_METADATA = ("_from_model_config", "_commit_hash", "_original_object_hash", "transformers_version")

# Integers and the least each may be; None is allowed where it means "off".
_LEAST = {
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": -1,  # as TRL writes "off"
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "top_k": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "pad_token_id": 0,
    "bos_token_id": 0,
}
_NEVER_NONE = ("num_beams", "num_beam_groups", "num_return_sequences")
# What each way of decoding alone reads: option -> the value that means "not asked for".
_SAMPLING_ONLY: dict[str, Any] = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
_BEAMS_ONLY: dict[str, Any] = {
    "early_stopping": False,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "length_penalty": 1.0,
    "constraints": None,
}


class GenerationConfig:
    """Hold the options of `generate`, check them, and read and write them as `generation_config.json`.

    Every keyword, default and file key is that of transformers 4.34; `min_p`, `stop_strings` and the options
    of drafts and of DoLa are additions. A key of another release is kept as an attribute, so that a file
    passes through unharmed.
    `None` always means "off".

    Raises:
        ConfigError: a number that cannot work, or two options that contradict each other.

    Example:
        >>> config = GenerationConfig(do_sample=True, top_p=0.9, max_new_tokens=20)
        >>> config.to_diff_dict()["top_p"]
        0.9
    """

    # How long.
    max_length: int | None = 20
    max_new_tokens: int | None = None
    min_length: int | None = 0
    min_new_tokens: int | None = None
    early_stopping: bool | str = False
    max_time: float | None = None
    stop_strings: str | list[str] | None = None
    # By which way.
    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    penalty_alpha: float | None = None
    use_cache: bool = True
    # By which rules for the scores of the next token.
    temperature: float | None = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    min_p: float | None = None
    typical_p: float | None = 1.0
    epsilon_cutoff: float | None = 0.0
    eta_cutoff: float | None = 0.0
    diversity_penalty: float | None = 0.0
    repetition_penalty: float | None = 1.0
    encoder_repetition_penalty: float | None = 1.0
    length_penalty: float | None = 1.0
    no_repeat_ngram_size: int | None = 0
    bad_words_ids: list[list[int]] | None = None
    force_words_ids: list[Any] | None = None
    renormalize_logits: bool | None = False
    constraints: list[Any] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    remove_invalid_values: bool | None = False
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    forced_decoder_ids: list[list[int]] | None = None
    sequence_bias: dict[tuple[int, ...], float] | list[Any] | None = None
    guidance_scale: float | None = None
    low_memory: bool | None = None
    # By which drafts, and by which layers' disagreement.
    num_assistant_tokens: int | None = None
    num_assistant_tokens_schedule: str | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    dola_layers: str | list[int] | None = None
    # What comes back.
    num_return_sequences: int = 1
    output_attentions: bool = False
    output_hidden_states: bool = False
    output_scores: bool = False
    return_dict_in_generate: bool = False
    # The special tokens.
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    # Of models with an encoder; GPT-2 refuses them where they would have to do something.
    encoder_no_repeat_ngram_size: int | None = 0
    decoder_start_token_id: int | None = None
    generation_kwargs: dict[str, Any] = {}  # noqa: RUF012 - the default value; each instance gets a copy
    # Where the options came from.
    _from_model_config: bool = False
    _commit_hash: str | None = None
    _original_object_hash: int | None = None
    transformers_version: str = _FORMAT_OF_TRANSFORMERS

    FIELDS: ClassVar[tuple[str, ...]]

    def __init__(self, **kwargs: Any) -> None:
        unknown = self._fill(kwargs)
        if unknown and not self._from_model_config:
            for name in unknown:
                close = difflib.get_close_matches(name, self.FIELDS, n=1)
                hint = f" Did you mean `{close[0]}`?" if close else ""
                text = (
                    f"GenerationConfig keeps `{name}` as an attribute, but no rule of gpt2kit reads it.{hint}"
                )
                warnings.warn(text, UserWarning, stacklevel=2)
        self.validate(is_init=True)

    def _fill(self, values: Mapping[str, Any]) -> list[str]:
        """Set every field from `values` or its default; keep the rest too and return their names."""
        for name in self.FIELDS:
            setattr(self, name, copy.deepcopy(values.get(name, getattr(type(self), name))))
        for name in ("_from_model_config", "_commit_hash", "transformers_version"):
            setattr(self, name, values.get(name, getattr(type(self), name)))
        others = [name for name in values if name not in self.FIELDS and name not in _METADATA]
        if not self._from_model_config:  # a model's configuration is full of keys that are none of ours
            for name in others:
                if hasattr(type(self), name):
                    raise ConfigError(
                        f"`{name}` is a method of GenerationConfig and cannot be set by keyword."
                    )
                setattr(self, name, values[name])
        return others

    def __hash__(self) -> int:
        return hash(self.to_json_string(ignore_metadata=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationConfig):
            return NotImplemented
        mine = self.to_json_string(use_diff=False, ignore_metadata=True)
        return mine == other.to_json_string(use_diff=False, ignore_metadata=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string(ignore_metadata=True)}"

    # ------------------------------------------------------------------ checks

    def validate(self, is_init: bool = False) -> None:
        """Raise on what cannot work; warn, as 4.34 does, of options that the chosen way never reads.

        Args:
            is_init: Whether the values may come from a file, which the message then says.

        Raises:
            ConfigError: the option, its value and what to write instead.
        """
        _check_numbers(self)
        where = " If it came from a generation_config.json, correct that file." if is_init else ""
        if not self.do_sample:
            for name, off in _SAMPLING_ONLY.items():
                used_elsewhere = name == "top_k" and self.penalty_alpha is not None
                self._warn_unread(name, off, "do_sample=True", "sampling", where, unless=used_elsewhere)
        if self.num_beams == 1:
            for name, off in _BEAMS_ONLY.items():
                self._warn_unread(name, off, "num_beams>1", "beam search", where)
        check_relations(self)

    def _warn_unread(
        self, name: str, off: Any, switch: str, way: str, where: str, unless: bool = False
    ) -> None:
        value = getattr(self, name)
        if value is None or value == off or unless:
            return
        warnings.warn(
            f"`{name}` is set to `{value}`, but only {way} reads it: pass `{switch}` or leave `{name}` out."
            + where,
            UserWarning,
            stacklevel=4,
        )

    # ------------------------------------------------------------------ change

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Set the attributes that this configuration has; return the keywords that it has not."""
        unused = {}
        for name, value in kwargs.items():
            if name in vars(self):
                setattr(self, name, value)
            else:
                unused[name] = value
        return unused

    # ------------------------------------------------------------------ dictionaries and files

    def to_dict(self) -> dict[str, Any]:
        """Return every attribute, as a deep copy."""
        values = copy.deepcopy(vars(self))
        values.pop("_commit_hash", None)
        values.pop("_original_object_hash", None)
        values["transformers_version"] = _FORMAT_OF_TRANSFORMERS
        return values

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the attributes that differ from the defaults, and the format's version."""
        default = GenerationConfig().to_dict()
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in default or name == "transformers_version" or value != default[name]
        }

    def to_json_string(self, use_diff: bool = True, ignore_metadata: bool = False) -> str:
        """Return the attributes as JSON text, by default only those that differ from the defaults."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        if ignore_metadata:
            for name in _METADATA:
                values.pop(name, None)
        if isinstance(values.get("sequence_bias"), dict):  # JSON has no tuples for keys
            values["sequence_bias"] = [[list(ids), bias] for ids, bias in values["sequence_bias"].items()]
        return json.dumps(values, indent=2, sort_keys=True, default=str) + "\n"

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Write `to_json_string` to a file, whole or not at all."""
        atomic_write_text(Path(json_file_path), self.to_json_string(use_diff=use_diff))

    def save_pretrained(
        self,
        save_directory: str | Path,
        config_file_name: str | Path | None = None,
        push_to_hub: bool = False,
    ) -> None:
        """Write `generation_config.json` into a folder, which is made if need be.

        Raises:
            ConfigError: these options would warn or raise when they are read again; nothing is written.
            InputError: `push_to_hub`, which gpt2kit leaves to huggingface_hub.
        """
        if push_to_hub:
            raise InputError(
                "gpt2kit does not upload. Save to a folder, then call huggingface_hub.upload_folder."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                self.validate()
            except UserWarning as warning:
                raise ConfigError(
                    f"Not saved, these options would warn whoever reads them. {warning}"
                ) from None
        folder = Path(save_directory)
        if folder.is_file():
            raise ConfigError(f"Expected a folder to save into, but {folder} is a file.")
        make_folder(folder)
        self.to_json_file(folder / (config_file_name or GENERATION_CONFIG_NAME))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | Path,
        config_file_name: str | Path | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = "main",
        **kwargs: Any,
    ) -> Any:
        """Read `generation_config.json` of a folder or a repository of the hub.

        Args:
            pretrained_model_name: A folder, or a name on the hub.
            config_file_name: Another file name than `generation_config.json`.
            cache_dir: Where downloads are kept.
            force_download: Whether to download again what is there.
            local_files_only: Whether the network may not be asked.
            token: The token for the hub.
            revision: A branch, tag or commit of the repository.
            **kwargs: Options that override those of the file; `return_unused_kwargs=True` returns
                `(config, unknown keywords)`; `subfolder`, `proxies` and other options of the hub.

        Raises:
            HubError: there is no such folder, repository or file.
            ConfigError: the file is no JSON object, or holds options that cannot work.
            InputError: a keyword that is neither an option of a generation nor of the hub.
        """
        hub = {
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
            "token": token,
            "revision": revision,
        }
        for name in ("subfolder", "proxies", "use_auth_token", "resume_download"):
            if name in kwargs:
                hub[name] = kwargs.pop(name)
        path = locate(
            pretrained_model_name, str(config_file_name or GENERATION_CONFIG_NAME), HubOptions.pop_from(hub)
        )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid JSON ({error}). Download or write it again.") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds a {type(values).__name__}; expected one JSON object of options.")
        made = cls.from_dict(values, **kwargs)
        config = made[0] if isinstance(made, tuple) else made
        config._original_object_hash = hash(config)
        return made

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Make a configuration from a dictionary; keywords override it.

        Returns:
            The configuration, or `(configuration, unknown keywords)` with `return_unused_kwargs=True`.
        """
        return_unused = kwargs.pop("return_unused_kwargs", False)
        known = {**dict.fromkeys(cls.FIELDS), **dict.fromkeys(_METADATA), **config_dict}
        unused = {name: value for name, value in kwargs.items() if name not in known}
        if unused and not return_unused:
            raise InputError(f"GenerationConfig has no {sorted(unused)}; check the spelling.")
        used = {name: value for name, value in kwargs.items() if name in known}
        config = cls.__new__(cls)
        config._fill({**config_dict, **used})
        config.validate(is_init=True)
        return (config, unused) if return_unused else config

    @classmethod
    def from_model_config(cls, model_config: Any) -> GenerationConfig:
        """Take the generation options that older files keep in the model's own configuration."""
        config: GenerationConfig = cls.from_dict({**model_config.to_dict(), "_from_model_config": True})
        config._original_object_hash = hash(config)
        return config


GenerationConfig.FIELDS = tuple(
    name
    for name in GenerationConfig.__annotations__
    if not name.startswith("_") and name not in ("FIELDS", "transformers_version")
)


def _check_numbers(config: GenerationConfig) -> None:
    """Check every option by itself; a rule checks its own numbers when it is made."""
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value is None and name not in _NEVER_NONE:
            continue
        if name == "top_k" and isinstance(value, float) and value == 0:  # as TRL writes "off"
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise InputError(f"`{name}` has to be an integer of at least {least}, but is {value!r}.")
    if config.early_stopping not in (True, False, "never"):
        raise InputError(
            f"`early_stopping` has to be True, False or 'never', but is {config.early_stopping!r}."
        )
    if config.max_time is not None:
        MaxTime(config.max_time)
    check_way(config)
    for name in ("length_penalty", "diversity_penalty"):
        if getattr(config, name) is not None:
            check_real(name, getattr(config, name), math.isfinite, "a number")
    if config.stop_strings is not None:
        StopStrings(as_given(config.stop_strings))
    # An end token may be given later, with the call; until then any will do.
    processors_of(config, prompt_length=1, max_length=config.max_length or 1, eos=end_tokens(config) or (0,))
    greedy_by_zero = not config.do_sample and config.temperature == 0  # the usual way to write "no sampling"
    warpers_of(config, without_temperature=greedy_by_zero)
