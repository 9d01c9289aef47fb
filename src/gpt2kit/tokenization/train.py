"""Train a byte-level BPE: count pairs of neighbours, join the most frequent, count again.

The counting is done by the tokenizers library. The same texts give the same tokenizer.

Source: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, section 3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import regex
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from gpt2kit.errors import InputError
from gpt2kit.tokenization.assemble import check_text
from gpt2kit.tokenization.bpe import END_OF_TEXT
from gpt2kit.tokenization.bytes import BYTE_TO_CHAR
from gpt2kit.tokenization.special import copy_token

if TYPE_CHECKING:
    from gpt2kit.tokenization.fast import GPT2TokenizerFast

__all__ = ["train_bpe", "train_like"]

_ALPHABET = list(BYTE_TO_CHAR.values())


def train_bpe(
    texts: Iterable[str | Sequence[str]],
    vocab_size: int,
    *,
    min_frequency: int = 0,
    special_tokens: Sequence[str | AddedToken] = (END_OF_TEXT,),
    length: int | None = None,
    show_progress: bool = False,
    max_token_length: int | None = None,
    normalizer: Any = None,
) -> Tokenizer:
    """Train a byte-level BPE.

    Args:
        texts: Texts, or lists of texts.
        vocab_size: How many tokens to have: special tokens, 256 bytes and merges. Fewer come out of a text
            that has no more pairs.
        min_frequency: How often a pair must occur to be joined.
        special_tokens: Tokens that get the first ids and are never cut; texts are cut at them.
        length: How many texts there are, for the progress bar.
        show_progress: Whether to show a progress bar on stderr.
        max_token_length: Longest token in bytes; None is no limit.
        normalizer: What the library does to the texts first; GPT-2 has none.

    Returns:
        The trained tokenizer, for `GPT2TokenizerFast(tokenizer_object=...)`.

    Raises:
        InputError: A vocabulary too small for the bytes and the special tokens, or an empty special token.
        TokenizerError: Something that is no text.
    """
    special = [str(getattr(token, "content", token)) for token in special_tokens]
    if "" in special:
        raise InputError("A special token is empty. Give it a text, such as <|endoftext|>.")
    least = len(_ALPHABET) + len(set(special))
    if vocab_size < least:
        raise InputError(
            f"vocab_size is {vocab_size}, but the 256 bytes and the special tokens are {least} already. "
            "Pass more."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=_ALPHABET,
        show_progress=show_progress,
        max_token_length=max_token_length,
    )
    tokenizer.train_from_iterator(_between(texts, special), trainer=trainer, length=length)
    return tokenizer


def train_like(
    old: GPT2TokenizerFast,
    texts: Iterable[str | Sequence[str]],
    vocab_size: int,
    length: int | None,
    new_special_tokens: Sequence[str | AddedToken],
    renamed: Mapping[str, str],
    trainer_options: dict[str, Any],
) -> tuple[Tokenizer, dict[str, Any]]:
    """Train a tokenizer with the special tokens and options of another.

    Returns:
        The trained tokenizer, and the arguments of the constructor that give it the other's roles.
    """

    def rename(token: AddedToken) -> AddedToken:
        return copy_token(token, content=renamed.get(token.content, token.content))

    special = [rename(token) for token in old.added_tokens_decoder.values() if token.special]
    backend = train_bpe(
        texts,
        vocab_size,
        special_tokens=[*special, *new_special_tokens],
        length=length,
        normalizer=old.backend_tokenizer.normalizer,
        **trainer_options,
    )
    options = copy.deepcopy({key: value for key, value in old.init_kwargs.items() if key in old._KNOWN})
    for key in ("added_tokens_decoder", "name_or_path", "additional_special_tokens"):
        options.pop(key, None)
    for role, value in old.special_tokens_map_extended.items():
        options[role] = [rename(token) for token in value] if isinstance(value, list) else rename(value)
    if new_special_tokens:
        options["additional_special_tokens"] = [
            *options.get("additional_special_tokens", []),
            *new_special_tokens,
        ]
    return backend, options


def _between(texts: Iterable[str | Sequence[str]], special: list[str]) -> Iterator[list[str]]:
    """Cut texts at their special tokens, which are no words to learn from, and refuse what is no text."""
    cut = (
        regex.compile("|".join(map(regex.escape, sorted(special, key=len, reverse=True))))
        if special
        else None
    )
    for item in texts:
        several = [item] if isinstance(item, str | bytes) or not isinstance(item, Sequence) else item
        for text in several:
            check_text(text)
        yield [part for text in several for part in (cut.split(text) if cut else [text])]
