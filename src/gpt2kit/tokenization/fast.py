"""GPT-2's tokenizer on the tokenizers library: the one to use.

It gives the ids of `GPT2Tokenizer` many times faster, on all cores for a batch, and knows which characters
each token is from. The library does what slow.py, added.py and length.py do in Python; this module sets it
up, and turns what it returns into a `BatchEncoding`.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from tokenizers import AddedToken, Encoding, Tokenizer, models, pre_tokenizers

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.tokenization import corpus, train
from gpt2kit.tokenization.assemble import CallOptions, check_text
from gpt2kit.tokenization.backend import READ, configure, explain, make_backend, parts_of, take_lengths
from gpt2kit.tokenization.base import TokenizerBase
from gpt2kit.tokenization.batch import BatchEncoding
from gpt2kit.tokenization.bpe import END_OF_TEXT, write_merges, write_vocabulary
from gpt2kit.tokenization.bytes import CHAR_TO_BYTE
from gpt2kit.tokenization.folder import FILES, PACKAGED_MERGES
from gpt2kit.tokenization.length import Lengths, check_room
from gpt2kit.tokenization.slow import GPT2Tokenizer

__all__ = ["GPT2TokenizerFast"]


class GPT2TokenizerFast(TokenizerBase):
    """GPT-2's byte-level BPE on the tokenizers library.

    Args:
        vocab_file: vocab.json, together with `merges_file`; or neither, and a `tokenizer_file`.
        merges_file: merges.txt.
        tokenizer_file: tokenizer.json.
        unk_token: As in `GPT2Tokenizer`, and so are the others but for these:
        bos_token: Beginning of text.
        eos_token: End of text.
        add_prefix_space: Whether a text that does not begin with a space gets one.
        **kwargs: Those of `GPT2Tokenizer`; pad_token, errors and add_bos_token;
            trim_offsets (False): whether the offsets of a token leave its leading space out;
            tokenizer_object: a `tokenizers.Tokenizer` instead of files.

    Raises:
        TokenizerError: Files that are damaged, do not belong together, or are of another kind of tokenizer.
        TypeError: An argument that does not exist.

    Example:
        >>> tokenizer = GPT2TokenizerFast.from_pretrained("gpt2")
        >>> encoding = tokenizer("Hello world", return_offsets_mapping=True)
        >>> encoding.tokens(), encoding["offset_mapping"]
        (['Hello', 'Ġworld'], [(0, 5), (5, 11)])
    """

    is_fast = True
    slow_tokenizer_class = GPT2Tokenizer
    can_save_slow_tokenizer = True
    vocab_files_names = FILES
    _COMMON: ClassVar[dict[str, Any]] = {
        **TokenizerBase._COMMON,
        "pad_token": None,
        "errors": "replace",
        "add_bos_token": False,
        "trim_offsets": False,
    }
    _KNOWN: ClassVar[frozenset[str]] = frozenset(
        {*_COMMON, "unk_token", "bos_token", "eos_token", "add_prefix_space"}
    )

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        merges_file: str | os.PathLike[str] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        unk_token: str | AddedToken | None = END_OF_TEXT,
        bos_token: str | AddedToken | None = END_OF_TEXT,
        eos_token: str | AddedToken | None = END_OF_TEXT,
        add_prefix_space: bool = False,
        **kwargs: Any,
    ) -> None:
        backend = kwargs.pop("tokenizer_object", None)
        own = {key: kwargs.pop(key, self._COMMON[key]) for key in ("pad_token", "errors", "add_bos_token")}
        trim_offsets = kwargs.pop("trim_offsets", False)
        options = {
            "unk_token": unk_token,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "add_prefix_space": add_prefix_space,
            **own,
        }
        self._configured = False
        roles = self._start({**options, "trim_offsets": trim_offsets} if trim_offsets else options, kwargs)
        added = roles.pop("added_tokens_decoder")
        self.errors = own["errors"]
        self._lock = threading.Lock()
        self._tokenizer = make_backend(vocab_file, merges_file, tokenizer_file, backend, added)
        self._add_prefix_space, self._add_bos_token = bool(add_prefix_space), bool(own["add_bos_token"])
        self._trim_offsets = bool(trim_offsets)
        for key, value in take_lengths(self._tokenizer).items():  # what a tokenizer.json fixes, unless told
            if key == "pad_token":
                roles[key] = roles[key] or value
            elif key not in kwargs:
                setattr(self, key, value)
        # Asked once: the answer takes a copy of the whole vocabulary.
        self._lacks_bytes = not CHAR_TO_BYTE.keys() <= self._tokenizer.get_vocab(False).keys()
        self._added_tokens: dict[int, AddedToken] = self._tokenizer.get_added_tokens_decoder()
        self._restore(added)
        self._start_special_tokens(roles)
        self._start_decoding()
        known = {token.content for token in self._added_tokens.values()}
        self._insert([token for token in self.all_special_tokens_extended if token.content not in known])
        self._configured = True
        self._configure()

    @classmethod
    def from_slow(cls, slow: GPT2Tokenizer) -> Self:
        """Make a fast tokenizer that is equal to a slow one."""
        merges = sorted(slow.bpe_ranks, key=slow.bpe_ranks.__getitem__)
        backend = Tokenizer(models.BPE(vocab=dict(slow.encoder), merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        options = {key: value for key, value in slow.init_kwargs.items() if key in cls._KNOWN}
        options |= slow.special_tokens_map_extended
        options |= {
            "added_tokens_decoder": slow.added_tokens_decoder,
            "model_max_length": slow.model_max_length,
        }
        return cls(tokenizer_object=backend, **options)

    # ---- setting the library up

    def _restore(self, added: Mapping[int, AddedToken]) -> None:
        """Add the tokens that a folder lists, under the ids that it gives them."""
        have = self._added_tokens
        missing = [(index, token) for index, token in sorted(added.items()) if have.get(index) != token]
        self._insert([token for _, token in missing])
        for index, token in missing:
            got = self._tokenizer.token_to_id(token.content)
            if got != index:
                raise TokenizerError(
                    f"The added token {token.content!r} is saved with the id {index}, but its id is {got}. "
                    "added_tokens_decoder and vocabulary are of two tokenizers: save the tokenizer again."
                )

    def _configure(self) -> None:
        """Tell the library what has changed."""
        if not self._configured:
            return
        bos, index = self.bos_token, self.bos_token_id
        configure(
            self._tokenizer,
            add_prefix_space=self._add_prefix_space,
            trim_offsets=self._trim_offsets,
            split_special_tokens=self._split_special_tokens,
            bos=(bos, index) if self._add_bos_token and bos is not None and index is not None else None,
            unk_token=self.unk_token if self._lacks_bytes else None,
        )

    def _special_tokens_changed(self) -> None:
        self._configure()

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The `tokenizers.Tokenizer` that does the work."""
        return self._tokenizer

    @property
    def decoder(self) -> Any:
        """Its part that turns tokens into text."""
        return self._tokenizer.decoder

    @property
    def add_prefix_space(self) -> bool:
        """Whether a text that does not begin with a space gets one."""
        return self._add_prefix_space

    @add_prefix_space.setter
    def add_prefix_space(self, value: bool) -> None:
        self._add_prefix_space = bool(value)
        self._configure()

    @property
    def add_bos_token(self) -> bool:
        """Whether a call puts the beginning-of-text token before each text."""
        return self._add_bos_token

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._add_bos_token = bool(value)
        self._configure()

    @property
    def trim_offsets(self) -> bool:
        """Whether the offsets of a token leave its leading space out."""
        return self._trim_offsets

    @trim_offsets.setter
    def trim_offsets(self, value: bool) -> None:
        self._trim_offsets = bool(value)
        self._configure()

    @property
    def split_special_tokens(self) -> bool:
        """Whether special tokens in a text are text like any other."""
        return self._split_special_tokens

    @split_special_tokens.setter
    def split_special_tokens(self, value: bool) -> None:
        self._split_special_tokens = bool(value)
        self._configure()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._lock = threading.Lock()
        super().__setstate__(state)

    # ---- from text to ids

    def _encode_one(self, text: Any, pair: Any, options: CallOptions) -> BatchEncoding:
        """Encode one text or pair; a row that overflows stays a batch."""
        if not self._is_for_backend([(text, pair)], options):
            return super()._encode_one(text, pair, options)
        batch = self._encode_many([(text, pair)], options)
        if options.return_tensors is None and not options.return_overflowing_tokens:
            return BatchEncoding({key: value[0] for key, value in batch.items()}, batch.encodings)
        return batch

    def _encode_many(self, items: Sequence[tuple[Any, Any]], options: CallOptions) -> BatchEncoding:
        """Encode a batch of texts or pairs by the library."""
        if not items or not self._is_for_backend(items, options):
            return super()._encode_many(items, options)
        if options.is_split_into_words and not self._add_prefix_space:
            raise InputError(
                f"You need to instantiate {type(self).__name__} with add_prefix_space=True to use it with "
                "texts that are split into words: without a space, a word is encoded as the end of another."
            )
        lengths = self._lengths(options)
        has_pair = any(pair is not None for _, pair in items)
        check_room(lengths, self.num_special_tokens_to_add(has_pair) if options.add_special_tokens else 0)
        inputs = [text if pair is None else (text, pair) for text, pair in items]
        rows, samples = [], []
        for sample, encoding in enumerate(self._run(inputs, options, lengths)):
            windows = [encoding, *(encoding.overflowing if options.return_overflowing_tokens else ())]
            rows += windows
            samples += [sample] * len(windows)
        data = {name: [READ[name](row) for row in rows] for name in self._names(options)}
        if options.return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        self._warn_if_too_long(max(len(row.ids) for row in rows), options)
        return BatchEncoding(data, rows, tensor_type=options.return_tensors)

    def _is_for_backend(self, items: Iterable[tuple[Any, Any]], options: CallOptions) -> bool:
        """Tell texts, which the library takes, from tokens and ids; refuse what is neither."""
        for text in (part for item in items for part in item if part is not None):
            if not isinstance(text, list | tuple):
                check_text(text)
            elif not options.is_split_into_words:
                return False
            else:
                for word in text:
                    check_text(word)
        return True

    def _run(self, inputs: list[Any], options: CallOptions, lengths: Lengths) -> list[Encoding]:
        """Let the library encode a batch; its settings are of the whole tokenizer, so one call at a time."""
        backend = self._tokenizer
        with self._lock:
            if lengths.truncation == "do_not_truncate":
                backend.no_truncation()
            else:
                backend.enable_truncation(
                    min(lengths.max_length or 0, sys.maxsize),  # the library counts in machine words
                    stride=lengths.stride,
                    strategy=lengths.truncation,
                    direction=self.truncation_side,
                )
            if lengths.padding == "do_not_pad":
                backend.no_padding()
            else:
                backend.enable_padding(
                    length=lengths.max_length if lengths.padding == "max_length" else None,
                    direction=self.padding_side,
                    pad_id=self.pad_token_id,
                    pad_token=self.pad_token,
                    pad_type_id=self.pad_token_type_id,
                    pad_to_multiple_of=lengths.multiple,
                )
            try:
                encodings: list[Encoding] = backend.encode_batch(
                    inputs,
                    add_special_tokens=options.add_special_tokens,
                    is_pretokenized=options.is_split_into_words,
                )
            except BaseException as error:
                # The library raises plain Exception, and where it panics not even that.
                if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                    raise explain(error, lengths) from error
                raise
            finally:
                backend.no_truncation()
                backend.no_padding()
        return encodings

    def _text_ids(self, text: str, options: CallOptions | None = None, is_word: bool = False) -> list[int]:
        """Turn one text into ids, nothing added and nothing cut."""
        check_text(text)
        ids: list[int] = self._run([text], CallOptions(add_special_tokens=False), Lengths())[0].ids
        return ids

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """Turn a text, or a pair, into tokens; the other arguments are those of a call."""
        encoding = self.encode_plus(text, pair, add_special_tokens, **kwargs)
        tokens: list[str] = self.convert_ids_to_tokens(encoding["input_ids"])
        return tokens

    def encode_file(
        self, path: str | os.PathLike[str], *, chunk_bytes: int = 2**16, workers: int | None = None
    ) -> Iterator[np.ndarray]:
        """Encode a text file of any size, on several cores and in bounded memory.

        The file is cut only where no token can reach across, so the ids are those of the whole text
        (`add_special_tokens=False`).

        Args:
            path: A UTF-8 file.
            chunk_bytes: About how much is encoded at a time.
            workers: How many chunks at once; None is one for each core.

        Yields:
            The ids in order, uint16 if all ids of the tokenizer fit, else uint32; shape [tokens of a chunk].

        Raises:
            TokenizerError: The file is not UTF-8.
        """
        return corpus.encode_file(self, path, chunk_bytes=chunk_bytes, workers=workers)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str | Sequence[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[str | AddedToken] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Train a tokenizer like this one on other texts.

        Args:
            text_iterator: Texts, or lists of texts.
            vocab_size: How many tokens to have, special ones and the 256 bytes included.
            length: How many texts there are, for the progress bar.
            new_special_tokens: Further special tokens.
            special_tokens_map: Special token of this tokenizer -> its name in the new one.
            **kwargs: min_frequency (0), max_token_length and show_progress, as in `train.train_bpe`.

        Returns:
            The new tokenizer; its roles are those of this one.
        """
        backend, options = train.train_like(
            self,
            text_iterator,
            vocab_size,
            length,
            new_special_tokens or (),
            special_tokens_map or {},
            kwargs,
        )
        return type(self)(tokenizer_object=backend, **options)

    # ---- vocabulary

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, added tokens left out."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    def __len__(self) -> int:
        """Return the size of the vocabulary with the added tokens."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def get_vocab(self) -> dict[str, int]:
        """Return token -> id, added tokens included."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    @property
    def vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id -> added token, by id."""
        return dict(sorted(self._added_tokens.items()))

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or of each of several; that of `unk_token` for one that there is not."""
        if tokens is None:
            return None
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self._tokenizer.token_to_id(tokens)
        return self._tokenizer.token_to_id(self.unk_token) if index is None and self.unk_token else index

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or of each of several; None for an id that there is not."""
        if isinstance(ids, int):
            return self._tokenizer.id_to_token(ids) if 0 <= ids < 2**32 else None  # the library's uint32
        skipped = self._skipped_ids() if skip_special_tokens else set()
        return [self.convert_ids_to_tokens(int(index)) for index in ids if int(index) not in skipped]

    def _knows(self, token: str) -> bool:
        return self._tokenizer.token_to_id(token) is not None

    def _insert(self, tokens: Sequence[AddedToken]) -> None:
        for special, run in itertools.groupby(tokens, key=lambda token: token.special):  # ids in this order
            add = self._tokenizer.add_special_tokens if special else self._tokenizer.add_tokens
            add(list(run))
        self._added_tokens = self._tokenizer.get_added_tokens_decoder()
        self._start_decoding()

    # ---- files

    @classmethod
    def _choose_files(cls, files: Mapping[str, Path], from_slow: bool) -> dict[str, Path | None]:
        """Prefer tokenizer.json, unless the slow tokenizer's files are asked for."""
        if "tokenizer_file" in files and not (from_slow and {"vocab_file", "merges_file"} <= files.keys()):
            return {"tokenizer_file": files["tokenizer_file"]}
        if "vocab_file" in files or files.get("merges_file") == PACKAGED_MERGES:
            return {"vocab_file": files.get("vocab_file"), "merges_file": files["merges_file"]}
        raise InputError("from_slow=True needs vocab.json and merges.txt, and the folder has neither.")

    def _vocabulary_files(self) -> dict[str, str]:
        vocabulary, merges = parts_of(self._tokenizer)
        return {FILES["vocab_file"]: write_vocabulary(vocabulary), FILES["merges_file"]: write_merges(merges)}

    def _backend_json(self) -> str:
        return str(self._tokenizer.to_str())
