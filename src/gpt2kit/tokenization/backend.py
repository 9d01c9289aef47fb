"""The tokenizers library's own object: made of files, set up as GPT-2's, read out again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from gpt2kit.errors import GPT2KitError, InputError, LengthError, TokenizerError
from gpt2kit.tokenization.bpe import Pair, check_fit
from gpt2kit.tokenization.folder import as_pairs, read_model
from gpt2kit.tokenization.length import Lengths
from gpt2kit.tokenization.slow import load_model

__all__ = ["READ", "configure", "explain", "make_backend", "parts_of", "take_lengths"]

# How to read each value of a result off the library's encoding.
READ: dict[str, Any] = {
    "input_ids": lambda row: row.ids,
    "token_type_ids": lambda row: row.type_ids,
    "attention_mask": lambda row: row.attention_mask,
    "special_tokens_mask": lambda row: row.special_tokens_mask,
    "offset_mapping": lambda row: row.offsets,
    "length": len,
}


def make_backend(
    vocab_file: str | os.PathLike[str] | None,
    merges_file: str | os.PathLike[str] | None,
    tokenizer_file: str | os.PathLike[str] | None,
    backend: Tokenizer | None,
    added: Mapping[int, AddedToken],
) -> Tokenizer:
    """Make the library's tokenizer from whatever was given, and check that it is GPT-2's kind."""
    given = [
        vocab_file is not None or merges_file is not None,
        tokenizer_file is not None,
        backend is not None,
    ]
    if sum(given) > 1:
        raise InputError(
            "A tokenizer is made of vocab_file and merges_file, or of tokenizer_file, or of "
            "tokenizer_object. Pass one of the three."
        )
    if backend is not None:
        backend = Tokenizer.from_str(backend.to_str())  # a copy: the caller keeps his own
        _check_kind(backend)
        return backend
    if tokenizer_file is not None:
        read_model(tokenizer_file)
        try:
            return Tokenizer.from_file(os.fspath(tokenizer_file))
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(
                f"{tokenizer_file} is no tokenizer.json that can be read: {error}. Save the tokenizer again."
            ) from error
    vocabulary, merges = load_model(vocab_file, merges_file)
    check_fit(vocabulary, merges, added, str(vocab_file or "vocabulary"))
    return Tokenizer(models.BPE(vocab=vocabulary, merges=merges))


def _check_kind(backend: Tokenizer) -> None:
    """Refuse a tokenizer that is not byte-level BPE."""
    if not isinstance(backend.model, models.BPE) or not isinstance(
        backend.pre_tokenizer, pre_tokenizers.ByteLevel
    ):
        raise TokenizerError(
            f"The tokenizer is {type(backend.pre_tokenizer).__name__} + {type(backend.model).__name__}, "
            "and GPT-2's is ByteLevel + BPE. gpt2kit has GPT-2's tokenizer only."
        )


def parts_of(backend: Tokenizer) -> tuple[dict[str, int], list[Pair]]:
    """Return the vocabulary and the merges of the library's tokenizer."""
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], as_pairs(model["merges"])


def configure(
    backend: Tokenizer,
    *,
    add_prefix_space: bool,
    trim_offsets: bool,
    split_special_tokens: bool,
    bos: tuple[str, int] | None,
    unk_token: str | None,
) -> None:
    """Set the library up: prefix space, offsets, beginning of text, unknown bytes.

    Args:
        backend: What to set up, in place.
        add_prefix_space: Whether each piece of text gets a space, unless it begins with one.
        trim_offsets: Whether offsets leave the space before a word out.
        split_special_tokens: Whether special tokens in a text are text like any other.
        bos: Token and id to put before each text, or None.
        unk_token: Stands for bytes that the vocabulary lacks; None if it lacks none.
    """
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.encode_special_tokens = split_special_tokens
    if unk_token is not None:
        backend.model.unk_token = unk_token
    offsets = processors.ByteLevel(trim_offsets=trim_offsets, add_prefix_space=add_prefix_space)
    if bos is None:
        backend.post_processor = offsets
        return
    token, index = bos
    template = processors.TemplateProcessing(
        single=["bos:0", "$A:0"],
        pair=["bos:0", "$A:0", "bos:1", "$B:1"],
        special_tokens=[{"id": "bos", "ids": [index], "tokens": [token]}],
    )
    backend.post_processor = processors.Sequence([offsets, template]) if trim_offsets else template


def take_lengths(backend: Tokenizer) -> dict[str, str]:
    """Switch truncation and padding off, which each call decides about, and return what they were set to.

    Returns:
        "truncation_side", "padding_side" and "pad_token", as far as the file had them.
    """
    found = {}
    if backend.truncation is not None:
        found["truncation_side"] = backend.truncation["direction"]
        backend.no_truncation()
    if backend.padding is not None:
        found["padding_side"] = backend.padding["direction"]
        found["pad_token"] = backend.padding["pad_token"]
        backend.no_padding()
    return found


def explain(error: BaseException, lengths: Lengths) -> GPT2KitError:
    """Return our error for one that the library raised while it encoded."""
    if "`stride`" in str(error):
        return InputError(
            f"stride={lengths.stride} must be less than the room for the text that "
            f"truncation={lengths.truncation!r} cuts, and in max_length={lengths.max_length} the other text "
            "of a pair leaves less. Pass a smaller stride or a larger max_length."
        )
    if "Truncation" in str(error):
        return LengthError(
            f"truncation={lengths.truncation!r} cannot make every text as short as "
            f"{lengths.max_length} tokens: {error}. Use truncation='longest_first'."
        )
    return TokenizerError(f"The text cannot be encoded: {error}. Check vocabulary and unk_token.")
