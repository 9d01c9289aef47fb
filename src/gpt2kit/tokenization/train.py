"""Train a byte-level BPE: count pairs of neighbours, join the most frequent, count again.

The counting is done by the tokenizers library. The same texts give the same tokenizer.

Source: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from gpt2kit.errors import InputError
from gpt2kit.tokenization.assemble import check_text
from gpt2kit.tokenization.bpe import END_OF_TEXT
from gpt2kit.tokenization.bytes import BYTE_TO_CHAR

__all__ = ["train_bpe"]

_ALPHABET = list(BYTE_TO_CHAR.values())


def train_bpe(
    texts: Iterable[str | Sequence[str]],
    vocab_size: int,
    *,
    min_frequency: int = 0,
    special_tokens: Sequence[str | AddedToken] = (END_OF_TEXT,),
    length: int | None = None,
    show_progress: bool = False,
    normalizer: Any = None,
    **trainer_options: Any,
) -> Tokenizer:
    """Train a byte-level BPE.

    Args:
        texts: Texts, or lists of texts.
        vocab_size: How many tokens to have: special tokens, 256 bytes and merges. Fewer come out of a text
            that has no more pairs.
        min_frequency: How often a pair must occur to be joined.
        special_tokens: Tokens that get the first ids and are never cut.
        length: How many texts there are, for the progress bar.
        show_progress: Whether to show a progress bar on stderr.
        normalizer: What the library does to the texts first; GPT-2 has none.
        **trainer_options: Further arguments of `tokenizers.trainers.BpeTrainer`.

    Returns:
        The trained tokenizer, for `GPT2TokenizerFast(tokenizer_object=...)`.

    Raises:
        InputError: A vocabulary too small for the bytes and the special tokens.
        TokenizerError: Something that is no text.
    """
    least = len(_ALPHABET) + len({str(getattr(token, "content", token)) for token in special_tokens})
    if vocab_size < least:
        raise InputError(
            f"vocab_size is {vocab_size}, and the 256 bytes and the special tokens alone are {least}. Pass more."
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
        **trainer_options,
    )
    tokenizer.train_from_iterator(_checked(texts), trainer=trainer, length=length)
    return tokenizer


def _checked(texts: Iterable[str | Sequence[str]]) -> Iterator[str | Sequence[str]]:
    """Pass texts on, and refuse what is none."""
    for item in texts:
        for text in [item] if isinstance(item, str | bytes) or not isinstance(item, Sequence) else item:
            check_text(text)
        yield item
