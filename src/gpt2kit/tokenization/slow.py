"""GPT-2's tokenizer in plain Python: the one to read.

A text is cut at its added tokens (added.py), then into words (`PATTERN` in bpe.py). The bytes of each word
are written as characters (bytes.py) and merged (`merge` in bpe.py). Texts repeat their words, so the ids of
a word are remembered, and most of the time goes into the regular expression.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.tokenization.added import AddedTokens
from gpt2kit.tokenization.assemble import CallOptions, check_text
from gpt2kit.tokenization.base import TokenizerBase
from gpt2kit.tokenization.bpe import (
    END_OF_TEXT,
    PATTERN,
    Pair,
    check_fit,
    merge,
    read_merges,
    read_vocabulary,
    vocabulary_of,
    write_merges,
    write_vocabulary,
)
from gpt2kit.tokenization.bytes import BYTE_TO_CHAR, CHAR_TO_BYTE, spell
from gpt2kit.tokenization.folder import FILES, PACKAGED_MERGES, read_model

__all__ = ["GPT2Tokenizer", "load_model"]

# Words whose ids are remembered; about 20 MB. English has far fewer, so it fills up on hostile text only.
_REMEMBERED_WORDS = 2**17
# Longer words are seldom seen twice, and a few of them would fill the memory.
_LONGEST_REMEMBERED = 64


class GPT2Tokenizer(TokenizerBase):
    """GPT-2's byte-level BPE in plain Python.

    Args:
        vocab_file: vocab.json, an object from token to id. None with OpenAI's merges of this package: the
            vocabulary follows from them.
        merges_file: merges.txt, the merges in their order.
        errors: What decoding does about bytes that are no UTF-8, as in `bytes.decode`.
        unk_token: Stands for a byte that the vocabulary lacks; GPT-2's lacks none.
        bos_token: Beginning of text.
        eos_token: End of text.
        pad_token: Padding; GPT-2 has none.
        add_prefix_space: Whether a text that does not begin with a space gets one, so that its first word is
            encoded like any other.
        add_bos_token: Whether a call puts `bos_token` before each text.
        **kwargs: model_max_length, padding_side, truncation_side, model_input_names, further special tokens,
            clean_up_tokenization_spaces, split_special_tokens, chat_template, added_tokens_decoder, verbose;
            tokenizer_file, to read vocabulary and merges from a tokenizer.json.

    Raises:
        TokenizerError: Files that are damaged or do not belong together.
        TypeError: An argument that does not exist.

    Example:
        >>> tokenizer = GPT2Tokenizer.from_pretrained("gpt2")
        >>> tokenizer.tokenize("Hello world"), tokenizer("Hello world")["input_ids"]
        (['Hello', 'Ġworld'], [15496, 995])
    """

    is_fast = False
    pat = PATTERN
    _CALL_EXTRAS = frozenset({"add_prefix_space", "split_special_tokens"})
    _KNOWN: ClassVar[frozenset[str]] = frozenset(
        {*TokenizerBase._COMMON, "errors", "unk_token", "bos_token", "eos_token", "pad_token"}
        | {"add_prefix_space", "add_bos_token"}
    )

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None,
        merges_file: str | os.PathLike[str] | None,
        errors: str = "replace",
        unk_token: str | AddedToken | None = END_OF_TEXT,
        bos_token: str | AddedToken | None = END_OF_TEXT,
        eos_token: str | AddedToken | None = END_OF_TEXT,
        pad_token: str | AddedToken | None = None,
        add_prefix_space: bool = False,
        add_bos_token: bool = False,
        **kwargs: Any,
    ) -> None:
        options = {
            "errors": errors,
            "unk_token": unk_token,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "pad_token": pad_token,
            "add_prefix_space": add_prefix_space,
            "add_bos_token": add_bos_token,
        }
        tokenizer_file = kwargs.pop("tokenizer_file", None)
        roles = self._start(options, kwargs)
        self.errors = errors
        self.add_prefix_space = add_prefix_space
        self.add_bos_token = add_bos_token
        self.encoder, merges = load_model(vocab_file, merges_file, tokenizer_file)
        self.decoder = {index: token for token, index in self.encoder.items()}
        self.byte_encoder = dict(BYTE_TO_CHAR)
        self.byte_decoder = dict(CHAR_TO_BYTE)
        self.bpe_ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._added = AddedTokens()
        self._added.put_all(roles.pop("added_tokens_decoder"))
        check_fit(self.encoder, merges, self._added.by_id, str(vocab_file or "vocabulary"))
        self._remembered: dict[str, list[int]] = {}
        self._start_special_tokens(roles)
        self._start_decoding()
        self._insert(
            [token for token in self.all_special_tokens_extended if token.content not in self._added.ids]
        )

    # ---- from text to ids

    def _text_ids(self, text: str, options: CallOptions | None = None, is_word: bool = False) -> list[int]:
        """Turn one text, or one word of a text that is split, into ids."""
        check_text(text)
        extras: Mapping[str, Any] = options.extras if options else {}
        prefix = extras.get("add_prefix_space", self.add_prefix_space) or is_word
        split_special_tokens = extras.get("split_special_tokens", self.split_special_tokens)
        ids: list[int] = []
        for piece in self._added.split(text, split_special_tokens):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._piece_ids(" " + piece if prefix and not piece.startswith(" ") else piece)
        return ids

    def _piece_ids(self, text: str) -> list[int]:
        """Turn text without added tokens into ids."""
        remembered = self._remembered
        ids: list[int] = []
        for word in PATTERN.findall(text):
            known = remembered.get(word)
            if known is None:
                known = self._word_ids(word)
            ids += known
        return ids

    def _word_ids(self, word: str) -> list[int]:
        """Merge one word, and remember its ids."""
        unknown = self.encoder.get(self.unk_token or "")
        ids = []
        for token in merge(spell(word), self.bpe_ranks):
            index = self.encoder.get(token, unknown)
            if index is None:
                raise TokenizerError(
                    f"The vocabulary has no token for {token!r} and no unk_token to stand for it. "
                    "Pass a vocabulary with all 256 bytes, or an unk_token that it has."
                )
            ids.append(index)
        if len(word) <= _LONGEST_REMEMBERED:
            if len(self._remembered) >= _REMEMBERED_WORDS:
                self._remembered.clear()
            self._remembered[word] = ids
        return ids

    def bpe(self, token: str) -> str:
        """Merge one word written in byte characters, and return its tokens with spaces between.

        Example:
            >>> GPT2Tokenizer.from_pretrained("gpt2").bpe("Ġtokenizer")
            'Ġtoken izer'
        """
        return " ".join(merge(token, self.bpe_ranks))

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Turn a text into tokens: byte characters merged, added tokens as they are.

        Args:
            text: Any text.
            **kwargs: add_prefix_space, split_special_tokens and is_split_into_words, as in a call.

        Example:
            >>> GPT2Tokenizer.from_pretrained("gpt2").tokenize("Führer<|endoftext|>")
            ['F', 'Ã¼', 'h', 'rer', '<|endoftext|>']
        """
        is_word = kwargs.pop("is_split_into_words", False)
        ids = self._text_ids(text, CallOptions(extras=self._extras(kwargs)), is_word)
        return [token for index in ids if (token := self.convert_ids_to_tokens(index)) is not None]

    # ---- vocabulary

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, added tokens left out."""
        return len(self.encoder)

    def __len__(self) -> int:
        """Return the size of the vocabulary with the added tokens."""
        return len(self.encoder.keys() | self._added.ids.keys())

    def get_vocab(self) -> dict[str, int]:
        """Return token -> id, added tokens included."""
        return {**self.encoder, **self._added.ids}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id -> added token, by id."""
        return dict(sorted(self._added.by_id.items()))

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or of each of several; that of `unk_token` for one that there is not."""
        if tokens is None:
            return None
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self._added.ids.get(tokens, self.encoder.get(tokens))
        if index is None and self.unk_token is not None:
            return self._added.ids.get(self.unk_token, self.encoder.get(self.unk_token))
        return index

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or of each of several; None for an id that there is not."""
        if isinstance(ids, int):
            added = self._added.by_id.get(ids)
            return self.decoder.get(ids) if added is None else added.content
        skipped = self._skipped_ids() if skip_special_tokens else set()
        return [self.convert_ids_to_tokens(int(index)) for index in ids if int(index) not in skipped]

    def _knows(self, token: str) -> bool:
        return token in self._added.ids or token in self.encoder

    def _insert(self, tokens: Sequence[AddedToken]) -> None:
        self._added.insert(tokens, self.encoder)
        self._start_decoding()

    # ---- files

    @classmethod
    def _choose_files(cls, files: Mapping[str, Path], from_slow: bool) -> dict[str, Path | None]:
        """Prefer vocab.json and merges.txt; tokenizer.json has both inside."""
        if "merges_file" in files and ("vocab_file" in files or files["merges_file"] == PACKAGED_MERGES):
            return {"vocab_file": files.get("vocab_file"), "merges_file": files["merges_file"]}
        return {"vocab_file": None, "merges_file": None, "tokenizer_file": files["tokenizer_file"]}

    def _merges(self) -> Iterable[Pair]:
        return sorted(self.bpe_ranks, key=self.bpe_ranks.__getitem__)

    def _vocabulary_files(self) -> dict[str, str]:
        return {
            FILES["vocab_file"]: write_vocabulary(self.encoder),
            FILES["merges_file"]: write_merges(self._merges()),
        }

    def _backend_json(self) -> str:
        from gpt2kit.tokenization.fast import GPT2TokenizerFast

        text: str = GPT2TokenizerFast.from_slow(self).backend_tokenizer.to_str()
        return text


def load_model(
    vocab_file: str | os.PathLike[str] | None,
    merges_file: str | os.PathLike[str] | None,
    tokenizer_file: str | os.PathLike[str] | None = None,
) -> tuple[dict[str, int], list[Pair]]:
    """Read vocabulary and merges from two files, or from a tokenizer.json.

    Raises:
        InputError: One of the two files is missing.
        TokenizerError: A file is damaged.
    """
    if merges_file is not None and vocab_file is None and Path(merges_file) == PACKAGED_MERGES:
        merges = read_merges(merges_file)
        return vocabulary_of(merges), merges
    if vocab_file is not None and merges_file is not None:
        return read_vocabulary(vocab_file), read_merges(merges_file)
    if vocab_file is None and merges_file is None and tokenizer_file is not None:
        vocabulary, merges, whole = read_model(tokenizer_file)
        if whole.get("normalizer") is not None:
            raise TokenizerError(
                f"{tokenizer_file} changes texts first ({whole['normalizer'].get('type')}), which only "
                "GPT2TokenizerFast can do. Use it."
            )
        return vocabulary, merges
    raise InputError(
        f"A tokenizer needs vocab_file and merges_file, and got {vocab_file!r} and {merges_file!r}. "
        'Pass both, or use from_pretrained("gpt2").'
    )
