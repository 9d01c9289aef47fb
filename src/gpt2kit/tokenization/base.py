"""What both tokenizers share: their options and the ways to call them.

A call goes `__call__` -> `_encode_one` or `_encode_many` (assemble.py): texts become ids, ids are truncated,
get their special tokens and masks, and are padded. The fast tokenizer takes a short cut through the
tokenizers library for texts; ids and tokens that somebody has made already go the same way in both.
"""

from __future__ import annotations

from typing import Any, ClassVar

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.tokenization.assemble import Assembling, CallOptions
from gpt2kit.tokenization.batch import BatchEncoding
from gpt2kit.tokenization.chat import Chat
from gpt2kit.tokenization.folder import OFFICIAL, Stored
from gpt2kit.tokenization.length import NO_LIMIT
from gpt2kit.tokenization.special import NAMED

__all__ = ["TokenizerBase"]


class TokenizerBase(Assembling, Stored, Chat):
    """The surface of a tokenizer; `GPT2Tokenizer` and `GPT2TokenizerFast` are the two that exist."""

    # Arguments of the constructor beyond those in its signature, with their defaults.
    _COMMON: ClassVar[dict[str, Any]] = {
        "name_or_path": "",
        "model_max_length": None,
        "padding_side": "right",
        "truncation_side": "right",
        "model_input_names": None,
        "clean_up_tokenization_spaces": True,
        "split_special_tokens": False,
        "chat_template": None,
        "added_tokens_decoder": None,
        "sep_token": None,
        "cls_token": None,
        "mask_token": None,
        "additional_special_tokens": None,
        "verbose": True,
    }
    _CALL_EXTRAS: ClassVar[frozenset[str]] = frozenset()

    # What code reads off the class before it makes a tokenizer.
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}
    max_model_input_sizes: ClassVar[dict[str, int]] = dict(OFFICIAL)
    model_input_names: list[str] = ["input_ids", "attention_mask"]  # noqa: RUF012  # each instance has its own
    padding_side: str = "right"
    truncation_side: str = "right"
    slow_tokenizer_class: ClassVar[type[TokenizerBase] | None] = None
    init_inputs: tuple[Any, ...] = ()

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, added tokens left out."""
        raise NotImplementedError

    def _start(self, options: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take the arguments that every tokenizer has, and refuse unknown ones.

        Args:
            options: Arguments of the signature, kept for saving.
            kwargs: The keywords beyond it.

        Returns:
            The roles of the special tokens, and "added_tokens_decoder".
        """
        unknown = sorted(kwargs.keys() - self._COMMON.keys())
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no argument {unknown[0]!r}. Besides those of its signature "
                f"it takes {', '.join(sorted(self._COMMON))}."
            )
        _check_errors(options["errors"])
        self.init_kwargs = {**options, **kwargs}
        of_class = ("padding_side", "truncation_side", "model_input_names")  # a subclass may have others
        common = {**self._COMMON, **{name: getattr(type(self), name) for name in of_class}, **kwargs}
        self.name_or_path = common["name_or_path"]
        limit = common["model_max_length"]
        self.model_max_length = NO_LIMIT if limit is None else limit
        self.padding_side, self.truncation_side = common["padding_side"], common["truncation_side"]
        self._check_sides()
        self.model_input_names = list(common["model_input_names"] or type(self).model_input_names)
        self.clean_up_tokenization_spaces = common["clean_up_tokenization_spaces"]
        self.split_special_tokens = common["split_special_tokens"]
        self.chat_template = common["chat_template"]
        self.verbose = common["verbose"]
        self.deprecation_warnings: dict[str, bool] = {}
        roles = {name: {**common, **options}.get(name) for name in (*NAMED, "additional_special_tokens")}
        return {**roles, "added_tokens_decoder": dict(common["added_tokens_decoder"] or {})}

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Turn a text, or a batch of texts, into what a model reads.

        Args:
            text: A text; a list of texts; with `is_split_into_words` a list of words or a list of such lists.
            text_pair: The second text of each pair, of the same form.
            text_target: Texts whose ids become "labels".
            text_pair_target: Their second texts.
            add_special_tokens: Whether to add the beginning-of-text token, if the tokenizer has
                `add_bos_token`.
            padding: True or "longest" pads to the longest of the batch, "max_length" to `max_length`.
            truncation: True or "longest_first", "only_first", "only_second"; False or None for none.
            max_length: Longest result; None is `model_max_length`. Alone it truncates the longest first.
            stride: How many tokens an overflowing window repeats of the one before.
            is_split_into_words: Whether the texts are lists of words.
            pad_to_multiple_of: Padded lengths become a multiple of this.
            return_tensors: "pt", "tf", "np" or "jax" for tensors instead of lists.
            return_token_type_ids: Whether to tell the first text (0) of a pair from the second (1).
            return_attention_mask: Whether to tell tokens (1) from padding (0); None is True.
            return_overflowing_tokens: Whether to keep what is cut off: the fast tokenizer makes rows of it,
                the slow one a list "overflowing_tokens".
            return_special_tokens_mask: Whether to mark the tokens that were added (1).
            return_offsets_mapping: Whether to return the characters of each token (fast tokenizer only).
            return_length: Whether to return the number of tokens, padding included.
            verbose: Whether to log hints.
            **kwargs: The slow tokenizer's `add_prefix_space` and `split_special_tokens`, for this call only.

        Returns:
            "input_ids", "attention_mask" and what else was asked for: lists for one text, lists of lists for
            a batch.

        Raises:
            TokenizerError: What came is no text.
            InputError: Arguments that contradict each other, or an unknown one.

        Example:
            >>> from gpt2kit import GPT2TokenizerFast
            >>> GPT2TokenizerFast.from_pretrained("gpt2")("Hello world")["input_ids"]
            [15496, 995]
        """
        options = CallOptions(
            add_special_tokens,
            padding,
            truncation,
            max_length,
            stride,
            is_split_into_words,
            pad_to_multiple_of,
            return_tensors,
            return_token_type_ids,
            return_attention_mask,
            return_overflowing_tokens,
            return_special_tokens_mask,
            return_offsets_mapping,
            return_length,
            verbose,
            self._extras(kwargs),
        )
        if text is None and text_target is None:
            raise TokenizerError("There is no text: `text` and `text_target` are None. Pass one of them.")
        if text is None:
            return self._call_once(text_target, text_pair_target, options)
        encoding = self._call_once(text, text_pair, options)
        if text_target is not None:
            encoding["labels"] = self._call_once(text_target, text_pair_target, options)["input_ids"]
        return encoding

    def _call_once(self, text: Any, pair: Any, options: CallOptions) -> BatchEncoding:
        """Encode one text or a batch, whichever came."""
        for value in (text,) if pair is None else (text, pair):
            _check_form(value)
        is_list = isinstance(text, list | tuple)
        is_batch = is_list and (
            not options.is_split_into_words or bool(text and isinstance(text[0], list | tuple))
        )
        if not is_batch:
            return self._encode_one(text, pair, options)
        if pair is not None and (isinstance(pair, str) or len(pair) != len(text)):
            raise InputError(
                f"`text` is a batch of {len(text)}, so `text_pair` must be a list of {len(text)} too."
            )
        pairs = [None] * len(text) if pair is None else pair
        return self._encode_many(list(zip(text, pairs, strict=True)), options)

    def encode(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Turn one text, a list of tokens, or a list of ids, into ids.

        The arguments are those of a call.

        Example:
            >>> from gpt2kit import GPT2Tokenizer
            >>> GPT2Tokenizer.from_pretrained("gpt2").encode("Hello world")
            [15496, 995]
        """
        return self.encode_plus(
            text,
            text_pair,
            add_special_tokens,
            padding,
            truncation,
            max_length,
            stride,
            return_tensors=return_tensors,
            **kwargs,
        )["input_ids"]

    def encode_plus(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Do as a call does, for one text, list of tokens, or list of ids."""
        options = CallOptions(
            add_special_tokens,
            padding,
            truncation,
            max_length,
            stride,
            is_split_into_words,
            pad_to_multiple_of,
            return_tensors,
            return_token_type_ids,
            return_attention_mask,
            return_overflowing_tokens,
            return_special_tokens_mask,
            return_offsets_mapping,
            return_length,
            verbose,
            self._extras(kwargs),
        )
        return self._encode_one(text, text_pair, options)

    def batch_encode_plus(
        self,
        batch_text_or_text_pairs: Any,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Do as a call does, for a list of texts or of pairs (also lists of ids, or pairs of them)."""
        options = CallOptions(
            add_special_tokens,
            padding,
            truncation,
            max_length,
            stride,
            is_split_into_words,
            pad_to_multiple_of,
            return_tensors,
            return_token_type_ids,
            return_attention_mask,
            return_overflowing_tokens,
            return_special_tokens_mask,
            return_offsets_mapping,
            return_length,
            verbose,
            self._extras(kwargs),
        )
        if not isinstance(batch_text_or_text_pairs, list | tuple):
            raise TokenizerError(
                f"A batch is a list, not {type(batch_text_or_text_pairs).__name__}. "
                "Pass a list of texts or pairs."
            )
        return self._encode_many([_split_pair(item, options) for item in batch_text_or_text_pairs], options)

    def _extras(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Refuse keywords that this tokenizer does not know."""
        for key in kwargs:
            if key not in self._CALL_EXTRAS:
                hint = _HINTS.get(key, "Check its spelling.")
                raise InputError(f"A call of {type(self).__name__} has no argument {key!r}. {hint}")
        return kwargs

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, is_fast={self.is_fast}, "
            f"padding_side={self.padding_side!r}, truncation_side={self.truncation_side!r}, "
            f"special_tokens={self.special_tokens_map}, added_tokens={len(self.added_tokens_decoder)})"
        )


_HINTS = {
    "truncate": "It is `truncation`.",
    "pad_to_max_length": "It is padding='max_length'.",
    "truncation_strategy": "It is `truncation`.",
    "add_prefix_space": "Construct the tokenizer with it: from_pretrained(..., add_prefix_space=True).",
    "split_special_tokens": "Construct the tokenizer with it.",
}


def _check_errors(errors: Any) -> None:
    """Refuse what `bytes.decode` does not take, before there are bytes that need it."""
    try:
        b"\xff".decode("utf-8", errors)
    except UnicodeDecodeError:  # "strict" and its like
        pass
    except (LookupError, TypeError) as error:
        raise InputError(
            f"errors={errors!r} is no way to decode bytes ({error}). "
            "Pass 'replace', 'ignore', 'backslashreplace' or 'strict'."
        ) from error


def _check_form(value: Any) -> None:
    """Refuse what is neither text, nor texts, nor lists of words."""
    first = value
    for _ in range(3):
        if isinstance(first, str):
            return
        if not isinstance(first, list | tuple):
            break
        if not first:
            return
        first = first[0]
    raise TokenizerError(
        "text input must be of type `str` (one text), `list[str]` (a batch, or one text split into words) or "
        f"`list[list[str]]` (a batch of split texts), not {_name_form(value)}. Decode bytes, turn numbers "
        "into text; ids go to encode() or prepare_for_model()."
    )


def _name_form(value: Any) -> str:
    """Name the types of nested lists: list[int]."""
    name = type(value).__name__
    return f"{name}[{_name_form(value[0])}]" if isinstance(value, list | tuple) and value else name


def _split_pair(item: Any, options: CallOptions) -> tuple[Any, Any]:
    """Read one entry of a batch: a text, a list of words or ids, or a pair of these."""
    if not isinstance(item, list | tuple) or not item or isinstance(item[0], int):
        return item, None
    if options.is_split_into_words and not isinstance(item[0], list | tuple):
        return item, None
    if len(item) != 2:
        raise InputError(
            f"An entry of the batch is a list of {len(item)}, and a pair has 2. "
            "Pass is_split_into_words=True for lists of words."
        )
    return item[0], item[1]
