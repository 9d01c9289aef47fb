"""From ids to what a model reads: truncation, special tokens, masks, padding.

Both tokenizers do this in the same way. Here it is done on lists; for texts, the fast tokenizer leaves it to
the tokenizers library, and tests hold the two against each other.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.tokenization.batch import BatchEncoding, as_list, kind_of_tensor
from gpt2kit.tokenization.decode import Decoding
from gpt2kit.tokenization.length import Lengths, check_room, pad_one, plan_lengths, truncate_pair

__all__ = ["Assembling", "CallOptions", "check_text"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CallOptions:
    """The arguments that every way of calling a tokenizer takes; `TokenizerBase.__call__` explains them."""

    add_special_tokens: bool = True
    padding: Any = False
    truncation: Any = None
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    return_tensors: Any = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True
    extras: Mapping[str, Any] = field(default_factory=dict)  # add_prefix_space, split_special_tokens


class Assembling(Decoding):
    """The part of a tokenizer that builds the input of a model from ids."""

    add_bos_token: bool
    deprecation_warnings: dict[str, bool]
    is_fast: bool
    model_input_names: list[str]
    model_max_length: int
    padding_side: str
    truncation_side: str

    def _text_ids(self, text: str, options: CallOptions, is_word: bool = False) -> list[int]:
        """Turn one text, or one word of a text that is split, into ids."""
        raise NotImplementedError

    # ---- special tokens of a sequence

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Put the beginning-of-text token before each text, if the tokenizer has `add_bos_token`."""
        start = [self.bos_token_id] if self.add_bos_token and self.bos_token_id is not None else []
        return start + token_ids_0 + ([] if token_ids_1 is None else start + token_ids_1)

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return 0 for each token of the first text and 1 for each of the second, special tokens included."""
        first = len(self.build_inputs_with_special_tokens(token_ids_0))
        second = 0 if token_ids_1 is None else len(self.build_inputs_with_special_tokens(token_ids_1))
        return [0] * first + [1] * second

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for special tokens and 0 for others.

        Args:
            token_ids_0: Ids of the first text, or of everything.
            token_ids_1: Ids of the second.
            already_has_special_tokens: Whether the special tokens are in `token_ids_0` already, instead of
                being added by `build_inputs_with_special_tokens`.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise InputError(
                    "Ids that have their special tokens already come as one list. Leave the second out."
                )
            special = set(self.all_special_ids)
            return [int(index in special) for index in token_ids_0]
        start = [1] * self.num_special_tokens_to_add()
        second = [] if token_ids_1 is None else start + [0] * len(token_ids_1)
        return start + [0] * len(token_ids_0) + second

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a text, or a pair, gets."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens a text may have, the special ones left out."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens two texts may have together, the special ones left out."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    # ---- one text or many

    def _check_sides(self) -> None:
        """Refuse a side, which can be set at any time, that is none."""
        for name in ("padding_side", "truncation_side"):
            if (side := getattr(self, name)) not in ("right", "left"):
                raise InputError(f"{name} is {side!r}, and it must be 'right' or 'left'.")

    def _lengths(self, options: CallOptions) -> Lengths:
        """Decide about truncation and padding."""
        self._check_sides()
        return plan_lengths(
            options.padding,
            options.truncation,
            options.max_length,
            options.stride,
            options.pad_to_multiple_of,
            model_max_length=self.model_max_length,
            pad_token=self.pad_token,
            said=self.deprecation_warnings if options.verbose else None,
        )

    def _encode_one(self, text: Any, pair: Any, options: CallOptions) -> BatchEncoding:
        """Encode one text or pair of texts."""
        self._refuse_offsets(options)
        ids = self._ids(text, options)
        pair_ids = None if pair is None else self._ids(pair, options)
        return self._prepare(ids, pair_ids, options, prepend_batch_axis=True)

    def _encode_many(self, items: Sequence[tuple[Any, Any]], options: CallOptions) -> BatchEncoding:
        """Encode a batch of texts or pairs."""
        self._refuse_offsets(options)
        lengths = self._lengths(options)
        rows = [
            self._assemble(
                self._ids(text, options), None if pair is None else self._ids(pair, options), options, lengths
            )
            for text, pair in items
        ]
        if not rows:
            return BatchEncoding(
                {name: [] for name in self._names(options)}, tensor_type=options.return_tensors
            )
        if lengths.padding == "longest":
            longest = max(len(row["input_ids"]) for row in rows)
            lengths = dataclasses.replace(lengths, padding="max_length", max_length=longest)
        rows = [self._finish(row, lengths, options) for row in rows]
        return BatchEncoding(
            {key: [row[key] for row in rows] for key in rows[0]}, tensor_type=options.return_tensors
        )

    def _ids(self, text: Any, options: CallOptions) -> list[int]:
        """Turn a text, a list of words, of tokens or of ids into ids."""
        if isinstance(text, list | tuple):
            if all(isinstance(item, str) for item in text):
                if options.is_split_into_words:
                    return [index for word in text for index in self._text_ids(word, options, is_word=True)]
                return [self.convert_tokens_to_ids(token) for token in text]
            if all(type(item) is int for item in text):
                return list(text)
        check_text(text)
        return self._text_ids(text, options)

    def _refuse_offsets(self, options: CallOptions) -> None:
        if options.return_offsets_mapping:
            raise InputError(
                "Offsets need the tokenizers library and a text. Call GPT2TokenizerFast with a text, "
                "or leave return_offsets_mapping out."
            )

    def _names(self, options: CallOptions) -> list[str]:
        """Return the values that an encoding has."""
        asked = {
            "token_type_ids": options.return_token_type_ids,
            "attention_mask": options.return_attention_mask,
            "special_tokens_mask": options.return_special_tokens_mask,
            "offset_mapping": options.return_offsets_mapping,
            "length": options.return_length,
        }
        return ["input_ids"] + [
            name for name, want in asked.items() if (name in self.model_input_names if want is None else want)
        ]

    def prepare_for_model(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        prepend_batch_axis: bool = False,
    ) -> BatchEncoding:
        """Do with ids what a call does with a text; the arguments are those of a call.

        Args: `ids` and `pair_ids` are the texts; `prepend_batch_axis` makes tensors of a batch of one.
        """
        options = CallOptions(
            add_special_tokens,
            padding,
            truncation,
            max_length,
            stride,
            False,
            pad_to_multiple_of,
            return_tensors,
            return_token_type_ids,
            return_attention_mask,
            return_overflowing_tokens,
            return_special_tokens_mask,
            return_offsets_mapping,
            return_length,
            verbose,
        )
        self._refuse_offsets(options)
        return self._prepare(
            list(ids), None if pair_ids is None else list(pair_ids), options, prepend_batch_axis
        )

    def _prepare(
        self, ids: list[int], pair: list[int] | None, options: CallOptions, prepend_batch_axis: bool
    ) -> BatchEncoding:
        """Assemble and pad one text or pair."""
        lengths = self._lengths(options)
        row = self._finish(self._assemble(ids, pair, options, lengths), lengths, options)
        return BatchEncoding(row, tensor_type=options.return_tensors, prepend_batch_axis=prepend_batch_axis)

    def _assemble(
        self, ids: list[int], pair: list[int] | None, options: CallOptions, lengths: Lengths
    ) -> dict[str, Any]:
        """Truncate ids, add special tokens and make the masks, but for padding."""
        special = self.num_special_tokens_to_add(pair is not None) if options.add_special_tokens else 0
        check_room(lengths, special)
        total = len(ids) + len(pair or ()) + special
        row: dict[str, Any] = {}
        overflow: list[int] = []
        if options.return_overflowing_tokens and pair is not None and lengths.truncation == "longest_first":
            raise InputError(
                "The overflow of a pair that is cut longest first is of two texts. "
                "Use truncation='only_first' or 'only_second', or the fast tokenizer."
            )
        if lengths.truncation != "do_not_truncate" and lengths.max_length is not None:
            ids, pair, overflow = truncate_pair(
                ids,
                pair,
                total - lengths.max_length,
                lengths.truncation,
                lengths.stride,
                self.truncation_side,
            )
        if options.return_overflowing_tokens:
            row["overflowing_tokens"] = overflow
            row["num_truncated_tokens"] = 0 if lengths.max_length is None else total - lengths.max_length
        names = self._names(options)
        if options.add_special_tokens:
            row["input_ids"] = self.build_inputs_with_special_tokens(ids, pair)
            types = self.create_token_type_ids_from_sequences(ids, pair)
            mask = self.get_special_tokens_mask(ids, pair)
        else:
            row["input_ids"] = ids + (pair or [])
            types = [0] * len(ids) + [1] * len(pair or ())
            mask = [0] * len(types)
        if "token_type_ids" in names:
            row["token_type_ids"] = types
        if "special_tokens_mask" in names:
            row["special_tokens_mask"] = mask
        self._warn_if_too_long(len(row["input_ids"]), options)
        return row

    def _finish(self, row: dict[str, Any], lengths: Lengths, options: CallOptions) -> dict[str, Any]:
        """Pad one assembled text, and measure it."""
        names = self._names(options)
        row = self._pad_row(row, lengths, "attention_mask" in names)
        if "length" in names:
            row["length"] = len(row["input_ids"])
        return row

    def _warn_if_too_long(self, length: int, options: CallOptions) -> None:
        """Log once that a text is longer than the model takes."""
        key = "sequence-length-is-longer-than-the-specified-maximum"
        if options.max_length is None and length > self.model_max_length and options.verbose:
            if not self.deprecation_warnings.get(key):
                _logger.warning(
                    "Token indices sequence length is longer than the specified maximum sequence length "
                    "for this model (%d > %d). Running this sequence through the model will result in "
                    "indexing errors",
                    length,
                    self.model_max_length,
                )
            self.deprecation_warnings[key] = True

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: Any = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Take ids away from a text or a pair, and return both and what overflows (length.truncate_pair)."""
        strategy = str(getattr(truncation_strategy, "value", truncation_strategy))
        return truncate_pair(ids, pair_ids, num_tokens_to_remove, strategy, stride, self.truncation_side)

    # ---- padding what has been encoded

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad one encoding or a batch of them.

        Args:
            encoded_inputs: A mapping with "input_ids", of one text or of a batch, or a list of such mappings;
                lists or tensors.
            padding: As in a call.
            max_length: As in a call.
            pad_to_multiple_of: As in a call.
            return_attention_mask: As in a call.
            return_tensors: As in a call; None keeps the kind of tensor that came.
            verbose: Whether to log hints.

        Raises:
            InputError: No "input_ids", or rows that differ in number.
        """
        key = "Asking-to-pad-a-fast-tokenizer"
        if self.is_fast and verbose and not self.deprecation_warnings.get(key):
            self.deprecation_warnings[key] = True
            _logger.warning(
                "You're using a %s tokenizer. Please note that with a fast tokenizer, using the `__call__` "
                "method is faster than using a method to encode the text followed by a call to the `pad` "
                "method to get a padded encoding.",
                type(self).__name__,
            )
        main = self.model_input_names[0]
        data = _columns(encoded_inputs, main)
        options = CallOptions(
            padding=padding,
            truncation=False,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            verbose=verbose,
        )
        mask = "attention_mask" in self._names(options)
        if return_tensors is None:
            first = data[main][0] if isinstance(data[main], list | tuple) and len(data[main]) else data[main]
            return_tensors = kind_of_tensor(first)
        data = {key: as_list(value) for key, value in data.items()}
        lengths = self._lengths(options)
        if not data[main] or not isinstance(data[main][0], list | tuple):
            return BatchEncoding(self._pad_row(data, lengths, mask), tensor_type=return_tensors)
        number = len(data[main])
        uneven = [key for key, value in data.items() if len(value) != number]
        if uneven:
            raise InputError(
                f"The batch has {number} rows of {main}, but {len(data[uneven[0]])} of {uneven[0]}."
            )
        if lengths.padding == "longest":
            longest = max(len(ids) for ids in data[main])
            lengths = dataclasses.replace(lengths, padding="max_length", max_length=longest)
        rows = [
            self._pad_row({key: value[place] for key, value in data.items()}, lengths, mask)
            for place in range(number)
        ]
        return BatchEncoding({key: [row[key] for row in rows] for key in rows[0]}, tensor_type=return_tensors)

    def _pad_row(self, row: dict[str, Any], lengths: Lengths, mask: bool) -> dict[str, Any]:
        """Pad the lists of one text."""
        return pad_one(
            row,
            lengths,
            main=self.model_input_names[0],
            side=self.padding_side,
            pad_id=self.pad_token_id or 0,
            pad_type_id=self.pad_token_type_id,
            mask=mask,
        )


def check_text(text: Any) -> None:
    """Refuse what is no text, or has no UTF-8.

    Raises:
        TokenizerError: Not a str, or a str with a lone surrogate.
    """
    if not isinstance(text, str):
        raise TokenizerError(
            f"A text must be of type `str`, not {type(text).__name__} ({text!r:.60}). "
            "Decode bytes first; turn numbers into text with str()."
        )
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"Character {error.start} of the text is the lone surrogate U+{ord(text[error.start]):04X}, "
            "which is half a character and has no UTF-8. Read the text with errors='replace', or drop it."
        ) from error


def _columns(encoded: Any, main: str) -> dict[str, Any]:
    """Return one mapping for a mapping or a list of mappings."""
    if isinstance(encoded, list | tuple) and encoded and isinstance(encoded[0], Mapping):
        keys = encoded[0].keys()
        if any(row.keys() != keys for row in encoded):
            raise InputError(
                "The encodings of the batch have different keys. Encode all texts in the same way."
            )
        encoded = {key: [row[key] for row in encoded] for key in keys}
    if not isinstance(encoded, Mapping) or main not in encoded:
        got = list(encoded.keys()) if isinstance(encoded, Mapping) else type(encoded).__name__
        raise InputError(
            f"You should supply an encoding or a list of encodings with {main}, but you provided {got}."
        )
    return dict(encoded)
