"""What a tokenizer returns: a dictionary of lists or tensors that also remembers where each token came from.

The only module of the tokenizers that imports a framework, and only when its tensors are asked for.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from tokenizers import Encoding

from gpt2kit.errors import InputError, MissingDependencyError

__all__ = ["BatchEncoding", "CharSpan", "TokenSpan", "as_list", "kind_of_tensor"]

_FRAMEWORKS = {"pt": "PyTorch", "tf": "TensorFlow", "np": "NumPy", "jax": "JAX"}
_EXTRAS = {"pt": "torch", "tf": "tensorflow", "jax": "flax"}


class CharSpan(NamedTuple):
    """Characters of a text: from `start` up to, not including, `end`."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens of a sequence: from `start` up to, not including, `end`."""

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """The result of calling a tokenizer: `encoding["input_ids"]`, `encoding.input_ids`, `**encoding`.

    From the fast tokenizer it also has alignments between tokens, words and characters. These methods take
    one index, of a token, word or character in the first text of the batch, or a batch index before it.

    Args:
        data: Name -> list or tensor.
        encoding: The encodings of the tokenizers library, one to a row.
        tensor_type: "pt", "tf", "np" or "jax" turns the lists into tensors.
        prepend_batch_axis: Whether to make a batch of one out of a single text first.
        n_sequences: 1 for single texts, 2 for pairs.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: Any = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data)
        self._encodings = [encoding] if isinstance(encoding, Encoding) else encoding
        if n_sequences is None and self._encodings:
            n_sequences = self._encodings[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, item: Any) -> Any:
        """Return a value by name, an `Encoding` by number, or all values cut by a slice."""
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError(
            f"{item!r} is no name of a value. Encodings by number come from the fast tokenizer only; "
            "a slice takes rows of every value."
        )

    def __getattr__(self, item: str) -> Any:
        if item == "data":  # not there yet while a pickle is read
            raise AttributeError(item)
        try:
            return self.data[item]
        except KeyError:
            raise AttributeError(f"This encoding has no {item!r}, only {', '.join(self.data)}.") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "encodings": self._encodings, "n_sequences": self._n_sequences}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data = state["data"]
        self._encodings = state["encodings"]
        self._n_sequences = state["n_sequences"]

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs, None where it is not known."""
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether this comes from the fast tokenizer and has alignments."""
        return self._encodings is not None

    @property
    def encodings(self) -> Sequence[Encoding] | None:
        """The encodings of the tokenizers library, one to a row; None from the slow tokenizer."""
        return self._encodings

    def _row(self, index: int, what: str) -> Encoding:
        if not self._encodings:
            raise InputError(
                f"{what}() needs the alignments that only the fast tokenizer makes. Use GPT2TokenizerFast."
            )
        return self._encodings[index]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a row."""
        return list(self._row(batch_index, "tokens").tokens)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token the text of the pair it is from, 0 or 1; None for added special tokens."""
        return list(self._row(batch_index, "sequence_ids").sequence_ids)

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token the word it is from; None for added special tokens."""
        return list(self._row(batch_index, "word_ids").word_ids)

    def words(self, batch_index: int = 0) -> list[int | None]:
        """Return what `word_ids` does, under its older name."""
        return self.word_ids(batch_index)

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the text of the pair, 0 or 1, that a token is from."""
        row, token = _batch_and_index(batch_or_token_index, token_index)
        encoding = self._row(row, "token_to_sequence")
        found: int | None = encoding.token_to_sequence(_from_start(token, len(encoding)))
        return found

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the word that a token is from, None for a special token."""
        row, token = _batch_and_index(batch_or_token_index, token_index)
        encoding = self._row(row, "token_to_word")
        found: int | None = encoding.token_to_word(_from_start(token, len(encoding)))
        return found

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the tokens of a word, None where it has none."""
        row, word = _batch_and_index(batch_or_word_index, word_index)
        encoding = self._row(row, "word_to_tokens")
        if word < 0:
            word += 1 + max((w for w in encoding.word_ids if w is not None), default=-1)
        span = encoding.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return the characters of the text that a token covers, None for a special token."""
        row, token = _batch_and_index(batch_or_token_index, token_index)
        span = self._row(row, "token_to_chars").token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the token that covers a character of the text, None where none does."""
        row, char = _batch_and_index(batch_or_char_index, char_index)
        found: int | None = self._row(row, "char_to_token").char_to_token(char, sequence_index)
        return found

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Return the characters of the text that a word covers."""
        row, word = _batch_and_index(batch_or_word_index, word_index)
        span = self._row(row, "word_to_chars").word_to_chars(word, sequence_index)
        return None if span is None else CharSpan(*span)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the word that a character of the text belongs to."""
        row, char = _batch_and_index(batch_or_char_index, char_index)
        found: int | None = self._row(row, "char_to_word").char_to_word(char, sequence_index)
        return found

    def convert_to_tensors(self, tensor_type: Any = None, prepend_batch_axis: bool = False) -> Self:
        """Turn the lists into tensors in place.

        Args:
            tensor_type: "pt", "tf", "np" or "jax"; None changes nothing.
            prepend_batch_axis: Whether to make a batch of one out of each value first.

        Raises:
            InputError: Rows of different lengths, or an unknown framework.
            MissingDependencyError: The framework is not installed.
        """
        if tensor_type is None:
            return self
        framework = str(getattr(tensor_type, "value", tensor_type))
        make, is_tensor = _tensor_maker(framework)
        for key, value in self.data.items():
            if is_tensor(value) and not prepend_batch_axis:
                continue
            rows = [value] if prepend_batch_axis else value
            try:
                self.data[key] = make(_rectangle(rows))
            except (ValueError, TypeError, OverflowError) as error:
                raise InputError(_describe_ragged(key)) from error
        return self

    def to(self, device: Any) -> Self:
        """Send PyTorch tensors to a device, in place.

        Raises:
            InputError: A value is no PyTorch tensor, or `device` is a dtype.
        """
        for key, value in self.data.items():
            if kind_of_tensor(value) != "pt":
                raise InputError(
                    f"{key} is a {type(value).__name__}, and only PyTorch tensors move to a device. "
                    'Ask the tokenizer for them with return_tensors="pt".'
                )
        if not isinstance(device, str | int) and type(device).__name__ != "device":
            raise InputError(
                f"{device!r} is no device; token ids stay whole numbers. Pass a device such as 'cpu'."
            )
        self.data = {key: value.to(device=device) for key, value in self.data.items()}
        return self


def as_list(value: Any) -> Any:
    """Turn a tensor of any framework into plain lists or a number; everything else stays as it is."""
    if isinstance(value, list | tuple) and len(value) and not isinstance(value[0], int | str):
        return [as_list(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy, PyTorch, JAX
        return value.tolist()
    if hasattr(value, "numpy"):  # TensorFlow
        return value.numpy().tolist()
    return value


def kind_of_tensor(value: Any) -> str | None:
    """Return "pt", "tf", "np" or "jax" for a tensor, None for anything else; imports no framework."""
    if isinstance(value, np.ndarray):
        return "np"
    home = type(value).__module__.split(".")[0]
    return {"torch": "pt", "tensorflow": "tf", "jax": "jax", "jaxlib": "jax"}.get(home)


def _batch_and_index(first: int, second: int | None) -> tuple[int, int]:
    """Read (index) as (0, index), and (batch, index) as it is."""
    return (0, first) if second is None else (first, second)


def _from_start(index: int, length: int) -> int:
    """Count a negative index from the end."""
    return index + length if index < 0 else index


def _rectangle(value: Any) -> np.ndarray:
    """Return nested lists of whole numbers as an array, or raise ValueError where rows differ in length."""
    array = np.asarray(as_list(value))
    if array.dtype == object:
        raise ValueError("rows of different lengths")
    # An empty text has no ids, and no ids are still whole numbers.
    return array.astype(np.int64) if array.size == 0 else array


def _tensor_maker(framework: str) -> tuple[Callable[[np.ndarray], Any], Callable[[Any], bool]]:
    """Return how a framework makes a tensor of an array, and how to know one."""
    if framework not in _FRAMEWORKS:
        raise InputError(f"return_tensors={framework!r} is unknown. Choose one of {', '.join(_FRAMEWORKS)}.")

    def is_tensor(value: Any) -> bool:
        return kind_of_tensor(value) == framework

    if framework == "np":
        return (lambda array: array), is_tensor
    try:
        if framework == "pt":
            import torch

            return torch.from_numpy, is_tensor
        if framework == "tf":
            import tensorflow

            # TensorFlow's whole numbers are 32 bits wide by default, as 4.34's were.
            return (lambda array: tensorflow.constant(array.astype(np.int32))), is_tensor
        import jax.numpy

        return jax.numpy.asarray, is_tensor
    except ImportError as error:
        raise MissingDependencyError(
            f"return_tensors={framework!r} needs {_FRAMEWORKS[framework]}, which is not installed: "
            f"pip install 'gpt2kit[{_EXTRAS[framework]}]'. return_tensors='np' needs nothing."
        ) from error


def _describe_ragged(key: str) -> str:
    """Say why a value cannot be a tensor."""
    if key == "overflowing_tokens":
        return (
            "The overflowing tokens of the texts differ in number, so they make no tensor. "
            "The fast tokenizer returns them as rows of their own."
        )
    return (
        f"Unable to create a tensor of {key!r}: its rows differ in length. "
        "Activate padding=True and truncation=True, or leave return_tensors out."
    )
