"""GPT-2's tokenizer as a Keras layer: texts in, ids out, and back again, inside the graph.

A text goes through three steps, each of TensorFlow operations on whole arrays: it is cut at its added tokens
(added.py), then into words (words.py), and the bytes of the words are merged (merges.py). So a saved model
takes strings wherever TensorFlow runs, without this package.
"""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.tensorflow.added import AddedTokens
from gpt2kit.tensorflow.keywords import plainly
from gpt2kit.tensorflow.merges import Merges
from gpt2kit.tensorflow.texts import Texts
from gpt2kit.tensorflow.words import Words
from gpt2kit.tensorflow.xla import inside_xla
from gpt2kit.tokenization import AddedToken, GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.tokenization.assemble import check_text
from gpt2kit.tokenization.backend import parts_of
from gpt2kit.tokenization.bpe import END_OF_TEXT, Pair, check_fit
from gpt2kit.tokenization.bytes import CHAR_TO_BYTE
from gpt2kit.tokenization.special import as_token

__all__ = ["TFGPT2Tokenizer"]

# Arguments of `from_pretrained` that are the layer's; the others are of `GPT2Tokenizer.from_pretrained`.
_OF_LAYER = ("max_length", "pad_token_id", "name", "dtype", "trainable")


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What a layer is made of, as JSON holds it; in one object, so that Keras tracks none of it."""

    vocab: dict[str, int]
    merges: list[str]
    max_length: int | None
    pad_token_id: int | None
    added_tokens: list[dict[str, Any]]
    unk_token_id: int | None
    bos_token_id: int | None
    add_prefix_space: bool
    split_special_tokens: bool
    padding_side: str
    truncation_side: str


@keras.saving.register_keras_serializable(package="gpt2kit")
class TFGPT2Tokenizer(keras.layers.Layer):
    """GPT-2's tokenizer in the graph: a layer from strings to ids.

    The ids are those of `GPT2Tokenizer(text)["input_ids"]`, for every text. Make it of such a tokenizer, by
    `from_tokenizer` or `from_pretrained`: then its added tokens with all their flags, `add_prefix_space`,
    `add_bos_token`, `split_special_tokens`, `unk_token`, `padding_side` and `truncation_side` are honoured.
    Its `pad_token` and `model_max_length` are not, as in 4.34: say `pad_token_id` and `max_length`.

    It runs eagerly, in `tf.function`, in `tf.data`, and from a SavedModel or a `.keras` file; not with
    `jit_compile=True`, because XLA has no strings.

    Args:
        vocab: Token -> id.
        merges: The merges in their order, each two symbols with a space between, or a pair.
        max_length: Longer rows are cut to it; None cuts nothing.
        pad_token_id: Rows shorter than `max_length` are filled up with it; None fills nothing. Without a
            `max_length` it has nothing to do.
        added_tokens: Found in a text before it is cut into words: dictionaries of "id", "content" and flags,
            as `AddedToken` has them. None is <|endoftext|>, if the vocabulary has it.
        unk_token_id: Stands for a byte that the vocabulary lacks. Without `added_tokens`, None is
            <|endoftext|>, if the vocabulary has it.
        bos_token_id: Put before each text; None puts nothing.
        add_prefix_space: Whether a text that does not begin with a space gets one, and so does what follows
            an added token.
        split_special_tokens: Whether special tokens in a text are text like any other.
        padding_side: "right" or "left".
        truncation_side: Where to cut, "right" or "left".
        **kwargs: name, trainable and dtype, as of every layer.

    Raises:
        TokenizerError: Vocabulary and merges that do not belong together.
        InputError: A length or an id that cannot be.

    Example:
        >>> tokenizer = TFGPT2Tokenizer.from_pretrained("gpt2", max_length=3, pad_token_id=50256)
        >>> {name: value.numpy().tolist() for name, value in tokenizer(["Hello", "a b c d"]).items()}
        {'attention_mask': [[1, 0, 0], [1, 1, 1]], 'input_ids': [[15496, 50256, 50256], [64, 275, 269]]}
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Iterable[str | Sequence[str]],
        max_length: int | None = None,
        pad_token_id: int | None = None,
        *,
        added_tokens: Sequence[Mapping[str, Any]] | None = None,
        unk_token_id: int | None = None,
        bos_token_id: int | None = None,
        add_prefix_space: bool = False,
        split_special_tokens: bool = False,
        padding_side: str = "right",
        truncation_side: str = "right",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Keras shall not cast strings, nor compile what no compiler takes.
        self._convert_input_args = False
        self.supports_jit = False
        vocab, pairs = dict(vocab), _as_pairs(merges)
        added = _as_added(added_tokens, vocab)
        if added_tokens is None and unk_token_id is None:
            unk_token_id = vocab.get(END_OF_TEXT)
        check_fit(vocab, pairs, added)
        _check_bytes(vocab, unk_token_id)
        _check_side("padding_side", padding_side)
        _check_side("truncation_side", truncation_side)
        self._settings = _Settings(
            vocab,
            [" ".join(pair) for pair in pairs],
            _number(max_length, "max_length", 1),
            _number(pad_token_id, "pad_token_id", 0),
            [{"id": index, **token.__getstate__()} for index, token in added.items()],
            _number(unk_token_id, "unk_token_id", 0),
            _number(bos_token_id, "bos_token_id", 0),
            bool(add_prefix_space),
            bool(split_special_tokens),
            padding_side,
            truncation_side,
        )
        with tf.init_scope(), tf.device("CPU:0"):  # where strings are, on every machine
            self._added = AddedTokens(added, self._settings.split_special_tokens)
            self._words = Words()
            self._merges = Merges(vocab, pairs, unk_token_id)
            tokens = {index: token for token, index in vocab.items()}
            tokens |= {index: token.content for index, token in added.items()}
            special = {index for index, token in added.items() if token.special}
            self._texts = Texts(tokens, added, special)
        self._encode = tf.function(
            self._encode_texts, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
        )
        self.built = True

    # ---- where it comes from

    @classmethod
    def from_tokenizer(cls, tokenizer: GPT2Tokenizer | GPT2TokenizerFast, *args: Any, **kwargs: Any) -> Self:
        """Make a layer that is equal to a tokenizer, as that is now.

        Args:
            tokenizer: A `GPT2Tokenizer` or `GPT2TokenizerFast`.
            *args: `max_length` and `pad_token_id`.
            **kwargs: These or other arguments of the constructor, which win over the tokenizer.

        Raises:
            TokenizerError: Another kind of tokenizer, or a fast one that changes texts first.

        Example:
            >>> from gpt2kit import GPT2Tokenizer
            >>> tokenizer = GPT2Tokenizer.from_pretrained("gpt2", add_prefix_space=True)
            >>> TFGPT2Tokenizer.from_tokenizer(tokenizer)("world")["input_ids"].numpy().tolist()
            [995]
        """
        vocab, merges = _model_of(tokenizer)
        added = tokenizer.added_tokens_decoder
        settings = {
            "added_tokens": [{"id": index, **token.__getstate__()} for index, token in added.items()],
            "unk_token_id": vocab.get(tokenizer.unk_token or ""),
            "bos_token_id": tokenizer.bos_token_id if tokenizer.add_bos_token else None,
            "add_prefix_space": tokenizer.add_prefix_space,
            "split_special_tokens": tokenizer.split_special_tokens,
            "padding_side": tokenizer.padding_side,
            "truncation_side": tokenizer.truncation_side,
        }
        return cls({**tokenizer.get_vocab(), **vocab}, merges, *args, **{**settings, **kwargs})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *init_inputs: Any, **kwargs: Any
    ) -> Self:
        """Load a tokenizer from a folder, from the hub, or from this package, and make a layer of it.

        Args:
            pretrained_model_name_or_path: A folder, which wins, or a name.
            *init_inputs: `max_length` and `pad_token_id`.
            **kwargs: These, and name, trainable and dtype of the layer; all others go to
                `GPT2Tokenizer.from_pretrained`, among them those of the hub.

        Raises:
            HubError: No such folder or name, or no answer.
            TokenizerError: The files are damaged, or are another kind of tokenizer.
        """
        of_layer = {key: kwargs.pop(key) for key in _OF_LAYER if key in kwargs}
        tokenizer = GPT2Tokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls.from_tokenizer(tokenizer, *init_inputs, **of_layer)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a layer of what `get_config` returned, here or in 4.34."""
        layer: Self = super().from_config(dict(config))
        return layer

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as JSON holds them."""
        return {**super().get_config(), **dataclasses.asdict(self._settings)}

    @property
    def vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return self._settings.vocab

    @property
    def merges(self) -> list[str]:
        """The merges, two symbols with a space between."""
        return self._settings.merges

    @property
    def max_length(self) -> int | None:
        """The length that rows are cut and filled up to; None for none."""
        return self._settings.max_length

    @property
    def pad_token_id(self) -> int | None:
        """The id that rows are filled up with; None for none."""
        return self._settings.pad_token_id

    # ---- from texts to ids

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Turn texts into ids; the arguments are those of `call`, and what Keras gives every layer."""
        # Here, before Keras looks at each text of a list and wraps what is refused.
        return super().__call__(x if isinstance(x, keras.KerasTensor) else _as_texts(x), *args, **kwargs)

    @plainly
    def call(self, x: Any, max_length: int | None = None) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Turn texts into ids.

        Args:
            x: A string or a vector of strings: tensor, array, list, or one text. Bytes that are no UTF-8 are
                read as U+FFFD, as by `bytes.decode(errors="replace")`.
            max_length: In place of the layer's own.

        Returns:
            "attention_mask" and "input_ids", int32. Of a vector: [B, max_length] with a `pad_token_id` and a
            `max_length`, else ragged [B, (T)]. Of one string: a vector.

        Raises:
            InputError: What comes are no strings, or more than a vector of them; or XLA compiles the function
                that calls.
            TokenizerError: A text of Python with half a character in it, which has no UTF-8.
        """
        if inside_xla():  # strings that come into its programs can abort the process
            raise InputError(
                "XLA has no strings, so a function with jit_compile=True cannot tokenize. Call the tokenizer "
                "outside it, or leave out jit_compile."
            )
        texts = _as_texts(x)  # [B] or []
        length = self.max_length if max_length is None else _number(max_length, "max_length", 1)
        with tf.device("CPU:0"):
            rows = self._encode(tf.reshape(texts, [-1]))  # [B, (T)]
            rows = self._truncate(rows, length)  # [B, (T)]
            masks = tf.ones_like(rows)  # [B, (T)]
            found = {"attention_mask": masks, "input_ids": rows}
            if self.pad_token_id is not None and length is not None:
                B = texts.shape[0] if texts.shape.rank else 1  # None where a graph does not know it
                found["attention_mask"] = tf.ensure_shape(self._pad(masks, length, 0), [B, length])  # [B, T]
                rows = self._pad(rows, length, self.pad_token_id)  # [B, T]
                found["input_ids"] = tf.ensure_shape(rows, [B, length])  # [B, T]
            if texts.shape.rank == 0:
                found = {name: value[0] for name, value in found.items()}  # [T]
        return found

    # ---- from ids to texts

    def decode(
        self, ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> tf.Tensor:
        """Turn ids into texts, as `GPT2Tokenizer.decode` does row by row.

        Bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: A row of whole numbers or several: a vector or a matrix, ragged or not; tensor, array, list.
            skip_special_tokens: Leave special tokens out.
            clean_up_tokenization_spaces: Take out the space in " ." and its like. The other tokenizers do so
                unless they are told not to; this one does not unless it is told to.

        Returns:
            The texts of several rows, shape [B]; that of one row, shape [].

        Raises:
            InputError: What comes are no rows of whole numbers; or XLA compiles the function that calls.
            TokenizerError: An id has no token. In a graph it is an InvalidArgumentError, when that runs.

        Example:
            >>> tokenizer = TFGPT2Tokenizer.from_pretrained("gpt2")
            >>> tokenizer.decode([[15496, 995], [64, 50256]], skip_special_tokens=True).numpy().tolist()
            [b'Hello world', b'a']
        """
        return self._texts.decode(ids, skip_special_tokens, clean_up_tokenization_spaces)  # [B] or []

    # ---- the steps

    def _encode_texts(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Turn texts into ids, nothing cut and nothing before them. Shape [B] in, [B, (T)] out."""
        valid = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")  # [B]
        pieces, ids, rows = self._added.cut(valid)  # [P] each
        is_token = ids >= 0  # [P]
        if self._settings.add_prefix_space:
            bare = ~is_token & (tf.strings.substr(pieces, 0, 1) != " ")  # [P]
            pieces = tf.where(bare, " " + pieces, pieces)  # [P]
        words, piece = self._words.cut(pieces, is_token)  # [W] each
        found = self._merges.encode(words, tf.gather(ids, piece))  # [W, (tokens)]
        row = tf.gather(rows, piece)  # [W]
        lengths = tf.math.unsorted_segment_sum(found.row_lengths(), row, tf.size(texts))  # [B]
        return tf.RaggedTensor.from_row_lengths(found.flat_values, lengths, validate=False)  # [B, (T)]

    def _truncate(self, rows: tf.RaggedTensor, length: int | None) -> tf.RaggedTensor:
        """Cut rows to a length, the beginning-of-text token put before them. Shape [B, (T)]."""
        bos = self._settings.bos_token_id
        if length is not None:
            room = length if bos is None else length - 1
            keeps_end = self._settings.truncation_side == "left" and room > 0
            rows = rows[:, -room:] if keeps_end else rows[:, :room]  # [B, (T)]
        if bos is not None:
            count = rows.nrows()
            both = tf.stack([tf.fill([count], count), tf.range(count)], 1)  # [B, 2] two rows make one
            parts = tf.gather(
                tf.concat([rows, tf.ragged.constant([[bos]], tf.int32)], 0), tf.reshape(both, [-1])
            )
            rows = tf.RaggedTensor.from_row_splits(parts.flat_values, parts.row_splits[::2], validate=False)
        return rows  # [B, (T)]

    def _pad(self, rows: tf.RaggedTensor, length: int, value: int) -> tf.Tensor:
        """Fill rows up to a length. Shape [B, (T)] in, [B, T] out."""
        if self._settings.padding_side == "right":
            return rows.to_tensor(value, shape=[None, length])  # [B, T]
        dense = tf.reverse(rows, [1]).to_tensor(value, shape=[None, length])  # [B, T]
        return tf.reverse(dense, [1])  # [B, T]


def _as_texts(x: Any) -> tf.Tensor:
    """Return what came as a tensor of strings, shape [] or [B]."""
    if isinstance(x, tf.RaggedTensor | tf.SparseTensor):
        raise InputError(
            f"Texts are a vector of strings, not a {type(x).__name__}. Pass x.values, or texts of one row."
        )
    try:
        texts = tf.zeros([0], tf.string) if isinstance(x, list | tuple) and not x else tf.convert_to_tensor(x)
    except (TypeError, ValueError) as error:
        for text in np.asarray(x, dtype=object).ravel():
            if isinstance(text, str):
                check_text(text)  # a lone surrogate is told as by the other tokenizers
        raise InputError(f"Texts are strings, alone or in one list, not {x!r:.60} ({error}).") from error
    if texts.dtype != tf.string:
        raise InputError(
            f"Texts are of dtype string, not {texts.dtype.name}. Pass texts; ids need no tokenizer."
        )
    if texts.shape.rank not in (0, 1):
        shape = "no known rank" if texts.shape.rank is None else f"the shape {texts.shape}"
        raise InputError(
            f"Texts are one string or a vector of strings, and these have {shape}. "
            "Reshape them: tf.reshape(x, [-1])."
        )
    return texts


def _as_pairs(merges: Iterable[str | Sequence[str]]) -> list[Pair]:
    """Return merges as pairs of symbols."""
    pairs: list[Pair] = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else [*merge]
        if len(pair) != 2 or not all(
            symbol and isinstance(symbol, str) and " " not in symbol for symbol in pair
        ):
            raise TokenizerError(
                f"Merge {len(pairs)} is {merge!r:.80}, and a merge is two symbols: 'Ġ t' or ('Ġ', 't')."
            )
        pairs.append((pair[0], pair[1]))
    return pairs


def _as_added(entries: Sequence[Mapping[str, Any]] | None, vocab: Mapping[str, int]) -> dict[int, AddedToken]:
    """Return the added tokens by id; those of GPT-2 where none are given."""
    if entries is None:
        flags = {"special": True, "normalized": False}
        entries = (
            [{"id": vocab[END_OF_TEXT], "content": END_OF_TEXT, **flags}] if END_OF_TEXT in vocab else []
        )
    added = {}
    for entry in entries:
        index = _number(entry.get("id"), "The id of an added token", 0)
        if index is None or not entry.get("content"):
            raise InputError(f"An added token has an id and a text, and this one is {dict(entry)}.")
        added[index] = as_token({key: value for key, value in entry.items() if key != "id"})
    return added


def _model_of(tokenizer: Any) -> tuple[dict[str, int], list[Pair]]:
    """Return vocabulary and merges of a tokenizer."""
    if isinstance(tokenizer, GPT2TokenizerFast):
        backend = tokenizer.backend_tokenizer
        if backend.normalizer is not None:
            raise TokenizerError(
                f"The tokenizer changes texts first ({type(backend.normalizer).__name__}), which this layer "
                "cannot. Use it before the model."
            )
        return parts_of(backend)
    if isinstance(tokenizer, GPT2Tokenizer):
        return tokenizer.encoder, sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    raise TokenizerError(
        f"The layer is made of gpt2kit's GPT2Tokenizer or GPT2TokenizerFast, "
        f"not of {type(tokenizer).__name__}. Load one with gpt2kit.GPT2Tokenizer.from_pretrained(...)."
    )


def _check_bytes(vocab: Mapping[str, int], unknown: int | None) -> None:
    """Refuse a vocabulary that has no token for a byte, nor one that stands for it."""
    missing = [byte for char, byte in CHAR_TO_BYTE.items() if char not in vocab]
    if missing and unknown is None:
        raise TokenizerError(
            f"The vocabulary lacks {len(missing)} of the 256 bytes, such as 0x{min(missing):02X}, and has no "
            "<|endoftext|> to stand for them. Pass a vocabulary with all bytes, or unk_token_id."
        )


def _check_side(name: str, side: str) -> None:
    """Refuse a side that is none."""
    if side not in ("right", "left"):
        raise InputError(f"{name} is 'right' or 'left', not {side!r}.")


def _number(value: Any, name: str, least: int) -> int | None:
    """Return a whole number, or None where none is given."""
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise InputError(f"{name} is a whole number from {least} on, or None, not {value!r}.")
    return number
