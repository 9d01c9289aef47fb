"""From ids back to text, the same for both tokenizers.

Tokens are bytes, and a character may be spread over several of them, so bytes are joined first and read as
UTF-8 afterwards. Bytes that are no UTF-8 are dealt with as `errors` says: "replace" writes U+FFFD for them.
An added token is its own text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gpt2kit.errors import InputError, TokenizerError
from gpt2kit.tokenization.batch import as_list
from gpt2kit.tokenization.bytes import bytes_of
from gpt2kit.tokenization.special import NAMED, SpecialTokens

__all__ = ["CLEAN_UPS", "Decoding", "bytes_of_token"]

# Done in this order on the whole text; 4.34 does the same by default.
CLEAN_UPS = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)


class _TokenBytes(dict[int, bytes]):
    """Id -> bytes, looked up in the tokenizer once."""

    def __init__(self, tokenizer: Decoding) -> None:
        self.tokenizer = tokenizer

    def __missing__(self, index: int) -> bytes:
        token = self.tokenizer.convert_ids_to_tokens(index) if index >= 0 else None
        if token is None:
            raise TokenizerError(
                f"The id {index} has no token: ids go from 0 to {len(self.tokenizer) - 1}. "
                "Take ids of another tokenizer, padding such as -100 and ids of a padded embedding out."
            )
        self[index] = value = bytes_of_token(token, index in self.tokenizer.added_tokens_decoder)
        return value


class Decoding(SpecialTokens):
    """The part of a tokenizer that makes text of ids."""

    errors: str
    clean_up_tokenization_spaces: bool
    _token_bytes: _TokenBytes

    def _start_decoding(self) -> None:
        """Forget what is known of the bytes of tokens; the tokens may have changed."""
        self._token_bytes = _TokenBytes(self)

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = False,
    ) -> str:
        """Turn ids into text.

        Args:
            token_ids: One id, a list, or a tensor of one dimension.
            skip_special_tokens: Whether to leave special tokens out.
            clean_up_tokenization_spaces: Whether to take out the space in " ." and its like; None is the
                tokenizer's own `clean_up_tokenization_spaces`.
            spaces_between_special_tokens: Whether to write a space around each added token that has no role,
                as the slow tokenizer of 4.34 did.

        Returns:
            The text. With clean-up off and no invalid UTF-8 it is the text that was encoded.

        Raises:
            TokenizerError: An id without a token, or bytes that are no UTF-8 with errors="strict".

        Example:
            >>> from gpt2kit import GPT2Tokenizer
            >>> GPT2Tokenizer.from_pretrained("gpt2").decode([15496, 995])
            'Hello world'
        """
        ids = as_list(token_ids)
        ids = [ids] if isinstance(ids, int) else list(ids)
        if not all(type(index) is int for index in ids):
            raise InputError("decode() takes one row of whole numbers. Use batch_decode() for several rows.")
        if skip_special_tokens:
            skipped = self._skipped_ids()
            ids = [index for index in ids if index not in skipped]
        if spaces_between_special_tokens:
            text = " ".join(self._texts_between(ids))
        else:
            text = self._read(b"".join(map(self._token_bytes.__getitem__, ids)))
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def token_bytes(self, index: int) -> bytes:
        """Return the bytes that an id stands for; they may be part of a character.

        Example:
            >>> from gpt2kit import GPT2Tokenizer
            >>> GPT2Tokenizer.from_pretrained("gpt2").token_bytes(995)
            b' world'
        """
        return self._token_bytes[index]

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = False,
    ) -> list[str]:
        """Turn several rows of ids into texts; see `decode`."""
        return [
            self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, spaces_between_special_tokens)
            for row in as_list(sequences)
        ]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Join tokens into text."""
        added = {token.content for token in self.added_tokens_decoder.values()}
        return self._read(b"".join(bytes_of_token(token, token in added) for token in tokens))

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Take out the spaces that old tokenizers left before punctuation and English endings."""
        for what, instead in CLEAN_UPS:
            out_string = out_string.replace(what, instead)
        return out_string

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be made anew, so that pickles stay small."""
        return {key: value for key, value in self.__dict__.items() if key != "_token_bytes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_decoding()

    def _read(self, data: bytes) -> str:
        """Read bytes as UTF-8."""
        try:
            return data.decode("utf-8", errors=self.errors)
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"The bytes are no UTF-8 (byte {error.start}), and errors={self.errors!r} takes no other. "
                'Construct the tokenizer with errors="replace".'
            ) from error

    def _skipped_ids(self) -> set[int]:
        """Return the ids that `skip_special_tokens` leaves out."""
        special = {index for index, token in self.added_tokens_decoder.items() if token.special}
        return special.union(self.all_special_ids)

    def _texts_between(self, ids: list[int]) -> Iterator[str]:
        """Yield the texts between added tokens without a role, and those tokens."""
        roles = {getattr(self, name) for name in NAMED}
        alone = {index for index, token in self.added_tokens_decoder.items() if token.content not in roles}
        start = 0
        for place, index in enumerate([*ids, None]):
            if index is not None and index not in alone:
                continue
            if text := self._read(b"".join(map(self._token_bytes.__getitem__, ids[start:place]))):
                yield text
            if index is not None:
                yield self.added_tokens_decoder[index].content
            start = place + 1


def bytes_of_token(token: str, is_added: bool) -> bytes:
    """Return the bytes of a token: its own text if it was added or is not written in byte characters."""
    if not is_added:
        try:
            return bytes_of(token)
        except KeyError:
            pass
    return token.encode("utf-8")
