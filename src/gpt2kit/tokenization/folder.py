"""A tokenizer's folder: which files there are, what they say, and how they are written.

Written as by 4.34: vocab.json, merges.txt, added_tokens.json, special_tokens_map.json, tokenizer_config.json,
and tokenizer.json, the tokenizers library's own file, by the fast one. Read are these, and what later
versions of transformers write: `added_tokens_decoder` and `extra_special_tokens` in the configuration,
chat_template.jinja, a tokenizer.json alone.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers import AddedToken

from gpt2kit.atomic import atomic_write_text, make_folder
from gpt2kit.errors import FileNotInRepositoryError, InputError, TokenizerError
from gpt2kit.hub import HubOptions, find_folder, locate_optional
from gpt2kit.tokenization.bpe import END_OF_TEXT, Pair
from gpt2kit.tokenization.special import NAMED, SpecialTokens, as_token, copy_token

__all__ = [
    "FILES",
    "OFFICIAL",
    "PACKAGED_MERGES",
    "SavedTokenizer",
    "Stored",
    "as_pairs",
    "has_bos_template",
    "portable_json",
    "read_folder",
    "read_json",
    "read_model",
    "to_json",
]

PACKAGED_MERGES = Path(__file__).parent / "data" / "merges.txt"

# The names whose vocabulary is in this package; all of them are OpenAI's. The value is n_positions.
_SIZES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
OFFICIAL: dict[str, int] = {
    **{f"{owner}{size}": 1024 for owner in ("", "openai-community/") for size in _SIZES},
    **{f"{owner}distilgpt2": 1024 for owner in ("", "distilbert/")},
}

FILES = {
    "vocab_file": "vocab.json",
    "merges_file": "merges.txt",
    "tokenizer_file": "tokenizer.json",
}
_CONFIG = "tokenizer_config.json"

# Tokenizers that are, or may be, GPT-2's: its two classes, and the names of "whatever tokenizer.json says".
_CLASSES = ("GPT2Tokenizer", "PreTrainedTokenizer", "TokenizersBackend")


@dataclass
class SavedTokenizer:
    """What a folder says.

    Attributes:
        files: "vocab_file", "merges_file" and "tokenizer_file" -> path, for those that are there.
        options: Arguments of the constructor.
        extras: Entries of the configuration that mean nothing here; they are kept and saved again.
        added: Added tokens by id.
    """

    files: dict[str, Path] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    added: dict[int, AddedToken] = field(default_factory=dict)


def read_folder(
    name: str | os.PathLike[str], options: HubOptions, known: frozenset[str], class_name: str
) -> SavedTokenizer:
    """Read a folder, a repository on the hub, or one of the names that this package knows.

    Args:
        name: Folder or name; a folder wins.
        options: How to ask the hub.
        known: Arguments that the constructor takes.
        class_name: The class that asks, to be named in a refusal.

    Raises:
        HubError: There is no such place.
        TokenizerError: The place has no tokenizer, or another kind of tokenizer.
    """
    packaged = OFFICIAL.get(os.fspath(name))
    if (
        packaged
        and not options.subfolder
        and options.revision in (None, "main")
        and find_folder(name) is None
    ):
        return SavedTokenizer({"merges_file": PACKAGED_MERGES}, {"model_max_length": packaged})

    config = read_json(locate_optional(name, _CONFIG, options), _CONFIG)
    _check_class(config.pop("tokenizer_class", None), class_name, name)
    saved = SavedTokenizer()
    for argument, filename in FILES.items():
        path = locate_optional(name, filename, options)
        if path is not None:
            saved.files[argument] = path
    if "tokenizer_file" not in saved.files and not {"vocab_file", "merges_file"} <= saved.files.keys():
        raise FileNotInRepositoryError(
            f"{os.fspath(name)} has no tokenizer: neither vocab.json with merges.txt, nor tokenizer.json. "
            "Pass a folder that a GPT-2 tokenizer was saved in."
        )
    _read_special_tokens(saved, config, name, options)
    if "tokenizer_file" in saved.files:
        _, _, whole = read_model(saved.files["tokenizer_file"])
        config.setdefault("add_prefix_space", whole["pre_tokenizer"].get("add_prefix_space", False))
        config.setdefault("add_bos_token", has_bos_template(whole))
    template = locate_optional(name, "chat_template.jinja", options)
    if template is not None:
        config["chat_template"] = template.read_text(encoding="utf-8")
    for stale in ("name_or_path", "special_tokens_map_file", "init_inputs", *FILES):
        config.pop(stale, None)  # paths of the machine that wrote them
    saved.options.update({key: value for key, value in config.items() if key in known})
    saved.extras = {key: value for key, value in config.items() if key not in known}
    return saved


def read_model(path: str | os.PathLike[str]) -> tuple[dict[str, int], list[Pair], dict[str, Any]]:
    """Read vocabulary and merges out of a tokenizer.json.

    Returns:
        The vocabulary, the merges, and the whole file.

    Raises:
        TokenizerError: The file describes another kind of tokenizer than GPT-2's.
    """
    whole = read_json(Path(path), "tokenizer.json")
    model, words = whole.get("model") or {}, whole.get("pre_tokenizer") or {}
    by_words = words.get("type") == "ByteLevel" and words.get("use_regex", True)
    if model.get("type", "BPE") != "BPE" or "merges" not in model or not by_words or model.get("dropout"):
        raise TokenizerError(
            f"{path} describes a tokenizer of the kind {words.get('type')} + {model.get('type')}, "
            "and GPT-2's is ByteLevel (by words) + BPE (without dropout). gpt2kit has GPT-2's tokenizer only."
        )
    return dict(model["vocab"]), as_pairs(model["merges"]), whole


def as_pairs(merges: list[Any]) -> list[Pair]:
    """Read the merges of a tokenizer.json: "a b" in older files, ["a", "b"] in newer ones."""
    split = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
    return [(first, second) for first, second in split]


def has_bos_template(whole: Mapping[str, Any]) -> bool:
    """Tell whether a tokenizer.json puts a special token before the text.

    Raises:
        TokenizerError: It does something else with special tokens, which GPT-2 never does.
    """
    processor = whole.get("post_processor") or {"type": "ByteLevel"}
    steps = processor["processors"] if processor["type"] == "Sequence" else [processor]
    templates = [step for step in steps if step["type"] != "ByteLevel"]
    if not templates:
        return False
    single = templates[0].get("single") or []
    kinds = [next(iter(piece)) for piece in single]
    if len(templates) > 1 or kinds not in (["Sequence"], ["SpecialToken", "Sequence"]):
        raise TokenizerError(
            "tokenizer.json adds special tokens in another way than GPT-2, which puts at most one before "
            "the text. gpt2kit has GPT-2's tokenizer only."
        )
    return len(kinds) == 2


def portable_json(text: str) -> str:
    """Write the tokenizers library's JSON so that its older versions, such as 4.34's, read it too.

    They want a merge as one string. That is the same as long as no symbol has a space in it, and none has.
    """
    whole = json.loads(text)
    model = whole["model"]
    if not any(" " in symbol for pair in model["merges"] for symbol in pair):
        model["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return json.dumps(whole, indent=2, ensure_ascii=False)


def to_json(value: Mapping[str, Any]) -> str:
    """Write one of the small files."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


class Stored(SpecialTokens):
    """The part of a tokenizer that loads and saves."""

    _KNOWN: ClassVar[frozenset[str]]  # keywords of the constructor
    is_fast: bool
    init_kwargs: dict[str, Any]
    name_or_path: str
    chat_template: str | None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *init_inputs: Any,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> Self:
        """Load a tokenizer from a folder, from the hub, or from this package.

        "gpt2", its three larger sizes, "distilgpt2" and "pocket" need no network.

        Args:
            pretrained_model_name_or_path: A folder, which wins, or a name.
            *init_inputs: Positional arguments of the constructor.
            cache_dir: Where downloads are kept.
            force_download: Whether to fetch what is in the cache again.
            local_files_only: Whether to ask nobody.
            token: The hub's access token.
            revision: Branch, tag or commit on the hub.
            **kwargs: `subfolder` and the like (`gpt2kit.hub.HubOptions`), and arguments of the constructor,
                which win over what was saved.

        Raises:
            HubError: No such folder or name, or no answer.
            TokenizerError: The files are damaged, or are another kind of tokenizer.
        """
        kwargs |= {"cache_dir": cache_dir, "force_download": force_download, "token": token}
        kwargs |= {"local_files_only": local_files_only, "revision": None if revision == "main" else revision}
        options = HubOptions.pop_from(kwargs)
        from_slow = kwargs.pop("from_slow", False)
        saved = read_folder(pretrained_model_name_or_path, options, cls._KNOWN, cls.__name__)
        files = cls._choose_files(saved.files, from_slow)
        given = ("vocab_file", "merges_file", "tokenizer_file", "tokenizer_object")
        if init_inputs or any(kwargs.get(key) is not None for key in given):
            files = {}
        arguments = {**files, **saved.options, **kwargs}
        if not files:  # the caller's own vocabulary: ids of this folder's added tokens mean nothing in it
            saved.added = {}
        arguments.setdefault("added_tokens_decoder", saved.added)
        arguments["name_or_path"] = os.fspath(pretrained_model_name_or_path)
        tokenizer = cls(*init_inputs, **arguments)
        tokenizer.init_kwargs.update(saved.extras)
        return tokenizer

    @classmethod
    def _choose_files(cls, files: Mapping[str, Path], from_slow: bool) -> dict[str, Path | None]:
        """Choose which of a folder's files to hand to the constructor."""
        raise NotImplementedError

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
    ) -> tuple[str, ...]:
        """Write the tokenizer to a folder, in the files of 4.34; each is written whole or not at all.

        Args:
            save_directory: The folder, made if need be.
            legacy_format: True for vocab.json, merges.txt and added_tokens.json; False for tokenizer.json
                (the fast tokenizer only); None for all that the tokenizer has. A file of the other kind that
                is in the folder already is brought up to date, so that the folder holds one tokenizer.
            filename_prefix: Put before each name, with a hyphen.
            push_to_hub: Refused: gpt2kit uploads nothing.

        Returns:
            The paths of the files.

        Raises:
            InputError: `save_directory` is a file, or the slow tokenizer is asked for tokenizer.json.
        """
        folder = Path(save_directory)
        if push_to_hub:
            raise InputError("gpt2kit uploads nothing. Save to a folder, then `hf upload NAME FOLDER`.")
        if folder.is_file():
            raise InputError(f"{folder} is a file, and a tokenizer is saved in a folder. Pass a folder.")
        if legacy_format is False and not self.is_fast:
            raise InputError(
                "The slow tokenizer has no tokenizer.json. Leave legacy_format out, or use the fast one."
            )
        make_folder(folder)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        texts = {
            _CONFIG: to_json(self._config()),
            "special_tokens_map.json": to_json(self.special_tokens_map),
        }
        added = {token.content: index for index, token in self.added_tokens_decoder.items()}
        legacy = {**self._vocabulary_files(), "added_tokens.json": to_json(added)}
        unified = {"tokenizer.json": portable_json(self._backend_json())}
        if legacy_format is not False:
            texts |= legacy
        if legacy_format is not True and self.is_fast:
            texts |= unified
        for name, text in {**legacy, **unified}.items():
            if (folder / (prefix + name)).exists():
                texts[name] = text
        for name, text in texts.items():
            atomic_write_text(folder / (prefix + name), text)
        return tuple(str(folder / (prefix + name)) for name in texts)

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, str]:
        """Write vocab.json and merges.txt to a folder that exists.

        Returns:
            The paths of both.
        """
        folder = Path(save_directory)
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder. Make it first, or use save_pretrained, which does.")
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        paths = []
        for name, text in self._vocabulary_files().items():
            atomic_write_text(folder / (prefix + name), text)
            paths.append(str(folder / (prefix + name)))
        return paths[0], paths[1]

    def _vocabulary_files(self) -> dict[str, str]:
        """Return the texts of vocab.json and merges.txt, in this order."""
        raise NotImplementedError

    def _backend_json(self) -> str:
        """Return this tokenizer as the tokenizers library writes it."""
        raise NotImplementedError

    def _config(self) -> dict[str, Any]:
        """Return what tokenizer_config.json says."""
        config = {key: getattr(self, key, value) for key, value in self.init_kwargs.items()}
        for key in ("name_or_path", "added_tokens_decoder", "verbose", *FILES):
            config.pop(key, None)
        for key in ("padding_side", "truncation_side"):
            if (side := getattr(self, key)) != "right":
                config[key] = side
        for key in (*NAMED, "model_max_length", "clean_up_tokenization_spaces", "additional_special_tokens"):
            if key in config or getattr(self, key) is not None:
                config[key] = getattr(self, key)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        config["added_tokens_decoder"] = {
            str(index): token.__getstate__() for index, token in self.added_tokens_decoder.items()
        }
        config["tokenizer_class"] = type(self).__name__.removesuffix("Fast")
        return copy.deepcopy(config)


def _read_special_tokens(
    saved: SavedTokenizer, config: dict[str, Any], name: str | os.PathLike[str], options: HubOptions
) -> None:
    """Fill in the added tokens and their roles from all files that know of them."""
    roles = read_json(locate_optional(name, "special_tokens_map.json", options), "special_tokens_map.json")
    by_id = config.pop("added_tokens_decoder", None)
    if by_id is not None:
        saved.added = {int(index): as_token(token) for index, token in by_id.items()}
    else:
        numbers = read_json(locate_optional(name, "added_tokens.json", options), "added_tokens.json")
        saved.added = {index: AddedToken(token) for token, index in numbers.items()}
        if "tokenizer_file" in saved.files:  # it knows the flags as well
            listed = read_json(saved.files["tokenizer_file"], "tokenizer.json").get("added_tokens") or []
            for entry in listed:
                saved.added[entry["id"]] = as_token({k: v for k, v in entry.items() if k != "id"})
        config.update({key: value for key, value in roles.items() if key in NAMED})
    flags = {token.content: token for token in saved.added.values()}

    def resolve(value: Any) -> Any:
        if value is None:
            return None
        token = as_token(value, special=True, normalized=False)
        return flags.get(token.content, token) if isinstance(value, str) else token

    extra = config.pop("extra_special_tokens", None) or []
    model_specific = config.pop("model_specific_special_tokens", None) or {}
    additional = [
        *(config.pop("additional_special_tokens", None) or roles.get("additional_special_tokens") or [])
    ]
    for more in (extra, model_specific):
        additional += more.values() if isinstance(more, dict) else more
    for role in NAMED:
        if role in config or role in roles:
            saved.options[role] = resolve(config.pop(role, roles.get(role)))
    defaults = dict.fromkeys(("bos_token", "eos_token", "unk_token"), AddedToken(END_OF_TEXT))
    for token in [token for role in NAMED if (token := saved.options.get(role)) is not None]:
        for index, known in saved.added.items():
            if known.content == token.content:  # a role with flags of its own knows better
                saved.added[index] = copy_token(token, special=True)
    taken = {
        token.content for token in {**defaults, **saved.options}.values() if isinstance(token, AddedToken)
    }
    resolved = [resolve(token) for token in additional]
    resolved += [token for token in saved.added.values() if token.special]
    once = {token.content: token for token in resolved if token.content not in taken}
    if once:
        saved.options["additional_special_tokens"] = list(once.values())


def _check_class(saved: str | None, class_name: str, name: str | os.PathLike[str]) -> None:
    """Refuse the tokenizer of another model."""
    if saved is None:
        return
    if saved.removesuffix("Fast") not in (*_CLASSES, class_name.removesuffix("Fast")):
        raise TokenizerError(
            f"{os.fspath(name)} holds a {saved}, and gpt2kit has GPT-2's tokenizer only. "
            "Pass a GPT-2 checkpoint."
        )


def read_json(path: Path | None, what: str) -> dict[str, Any]:
    """Read a JSON object, empty where there is no file."""
    if path is None:
        return {}
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} is no JSON in UTF-8 ({error}). Save the tokenizer again.") from error
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}.") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} holds no JSON object, and {what} is one. Save the tokenizer again.")
    return value
