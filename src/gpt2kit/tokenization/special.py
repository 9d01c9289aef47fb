"""Special tokens: the names that a tokenizer knows them by, and the tokens behind the names.

A special token is an added token with a role. `eos_token` is its text, `eos_token_id` its id, and both can be
set. What the text of an added token does to the white space around it is told by its flags (`AddedToken`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from tokenizers import AddedToken

from gpt2kit.errors import InputError

__all__ = ["NAMED", "AddedToken", "SpecialTokens", "as_token", "copy_token"]

# The roles, in the order in which 4.34 adds and lists them; `additional_special_tokens` comes after them.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def as_token(value: Any, **flags: bool) -> AddedToken:
    """Return an AddedToken for a text, a saved dictionary, or an AddedToken (a copy of it).

    Raises:
        InputError: Neither of these.
    """
    if isinstance(value, AddedToken):
        return copy_token(value)
    if isinstance(value, Mapping):
        saved = {key: item for key, item in value.items() if key != "__type"}
        return AddedToken(**saved)
    if isinstance(value, str):
        return AddedToken(value, **flags)
    raise InputError(f"A token is a text or an AddedToken, not {value!r}. Pass one of these.")


def copy_token(token: AddedToken, **changes: Any) -> AddedToken:
    """Return an AddedToken with the same flags but for the changes."""
    return AddedToken(**{**token.__getstate__(), **changes})


class _Role:
    """The text behind a role: `tokenizer.eos_token`, None where there is none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, tokenizer: None, owner: type) -> _Role: ...
    @overload
    def __get__(self, tokenizer: SpecialTokens, owner: type) -> str | None: ...
    def __get__(self, tokenizer: SpecialTokens | None, owner: type) -> _Role | str | None:
        if tokenizer is None:
            return self
        token = getattr(tokenizer, "_" + self.name)
        return None if token is None else str(token.content)

    def __set__(self, tokenizer: SpecialTokens, value: str | AddedToken | None) -> None:
        tokenizer._assign(self.name, value)


class _RoleId:
    """The id behind a role: `tokenizer.eos_token_id`, None where there is none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    @overload
    def __get__(self, tokenizer: None, owner: type) -> _RoleId: ...
    @overload
    def __get__(self, tokenizer: SpecialTokens, owner: type) -> int | None: ...
    def __get__(self, tokenizer: SpecialTokens | None, owner: type) -> _RoleId | int | None:
        if tokenizer is None:
            return self
        token = getattr(tokenizer, self.name)
        index: int | None = None if token is None else tokenizer.convert_tokens_to_ids(token)
        return index

    def __set__(self, tokenizer: SpecialTokens, value: int | None) -> None:
        token = None if value is None else tokenizer.convert_ids_to_tokens(value)
        if value is not None and token is None:
            raise InputError(f"No token has the id {value}, so it cannot be the {self.name}.")
        tokenizer._assign(self.name, token)


class SpecialTokens:
    """The part of a tokenizer that knows which tokens are special."""

    SPECIAL_TOKENS_ATTRIBUTES = (*NAMED, "additional_special_tokens")

    bos_token, eos_token, unk_token, sep_token = _Role(), _Role(), _Role(), _Role()
    pad_token, cls_token, mask_token = _Role(), _Role(), _Role()
    bos_token_id, eos_token_id, unk_token_id, sep_token_id = _RoleId(), _RoleId(), _RoleId(), _RoleId()
    pad_token_id, cls_token_id, mask_token_id = _RoleId(), _RoleId(), _RoleId()

    pad_token_type_id: int = 0
    _additional_special_tokens: list[AddedToken]

    # What the tokenizer itself brings.
    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or of each of several."""
        raise NotImplementedError

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or of each of several."""
        raise NotImplementedError

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id -> added token, by id."""
        raise NotImplementedError

    def _knows(self, token: str) -> bool:
        """Tell whether the vocabulary or the added tokens have this very token."""
        raise NotImplementedError

    def _insert(self, tokens: Sequence[AddedToken]) -> None:
        """Add tokens, in this order; a token of the vocabulary keeps its id."""
        raise NotImplementedError

    def _special_tokens_changed(self) -> None:
        """Take note that a role has a new token."""

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Text of an added token -> id, by id."""
        return {token.content: index for index, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """Return text of an added token -> id, by id."""
        return self.added_tokens_encoder

    def _start_special_tokens(self, roles: Mapping[str, str | AddedToken | None]) -> None:
        """Fill the roles from the constructor's arguments; the tokens are added afterwards."""
        self.pad_token_type_id = 0
        for name in NAMED:
            value = roles.get(name)
            token = None if value is None else as_token(value, special=True, normalized=False)
            setattr(self, "_" + name, token if token and token.content else None)
        additional: Any = roles.get("additional_special_tokens") or []
        self._additional_special_tokens = [self._stripping(token) for token in _listed(additional)]

    def _stripping(self, value: str | AddedToken) -> AddedToken:
        """Return the token for a text that comes without flags: 4.34's default takes the spaces around it.

        A text that is an added token already keeps that token's flags.
        """
        if isinstance(value, str):
            for token in self.added_tokens_decoder.values():
                if token.content == value:
                    return copy_token(token, special=True)
        token = as_token(value, special=True, normalized=False, lstrip=True, rstrip=True)
        if not token.content:
            raise InputError("A special token is empty. Give it a text, such as <|pad|>.")
        return token

    def _assign(self, name: str, value: str | AddedToken | None) -> None:
        """Give a role to a token that the tokenizer has."""
        if value is None or value == "":
            setattr(self, "_" + name, None)
        else:
            token = self._stripping(value)
            if not self._knows(token.content):
                raise InputError(
                    f"{token.content!r} is not in the vocabulary, so it has no id to serve as {name}. "
                    f"Add it with tokenizer.add_special_tokens({{{name!r}: {token.content!r}}}), "
                    "and resize the model's embeddings."
                )
            setattr(self, "_" + name, token)
        self._special_tokens_changed()

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens that are found in a text before it is cut into words.

        A new token gets the next free id; resize the model's embeddings to `len(tokenizer)` then. A token
        that the vocabulary has keeps its id; a special token stays special. A text without flags leaves the
        white space around it alone.

        Args:
            new_tokens: One token or several.
            special_tokens: Whether to mark them as special, so that `skip_special_tokens` leaves them out.

        Returns:
            How many new ids there are.
        """
        before = len(self)
        flags = {"special": True, "normalized": False} if special_tokens else {}
        tokens = [as_token(token, **flags) for token in _listed(new_tokens)]
        already = {token.content for token in self.added_tokens_decoder.values() if token.special}
        tokens = [
            copy_token(token, special=special_tokens or token.special or token.content in already)
            for token in tokens
            if token.content
        ]
        self._insert(tokens)
        known = set(self.all_special_tokens)
        self._additional_special_tokens += [
            token for token in tokens if token.special and token.content not in known
        ]
        return len(self) - before

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, str | AddedToken | Sequence[str | AddedToken]],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Give roles to tokens, and add those that the vocabulary lacks.

        As in 4.34, a text without flags becomes a token that takes the white space around it; pass an
        AddedToken to say otherwise.

        Args:
            special_tokens_dict: Role -> token, and "additional_special_tokens" -> list of tokens.
            replace_additional_special_tokens: Whether the list replaces the one that is there, or extends it.

        Returns:
            How many new ids there are.

        Example:
            >>> from gpt2kit import GPT2Tokenizer
            >>> tokenizer = GPT2Tokenizer.from_pretrained("gpt2")
            >>> tokenizer.add_special_tokens({"pad_token": "<|pad|>"}), tokenizer.pad_token_id
            (1, 50257)
        """
        unknown = [key for key in special_tokens_dict if key not in self.SPECIAL_TOKENS_ATTRIBUTES]
        if unknown:
            roles = ", ".join(self.SPECIAL_TOKENS_ATTRIBUTES)
            raise InputError(f"{unknown[0]!r} is no role of a special token. The roles are {roles}.")
        before = len(self)
        for key, value in special_tokens_dict.items():
            if key == "additional_special_tokens":
                tokens = [self._stripping(token) for token in _listed(value)]
                self._insert(tokens)
                kept = [] if replace_additional_special_tokens else self._additional_special_tokens
                by_content: dict[str, AddedToken] = {}
                for token in (*kept, *tokens):
                    by_content.setdefault(token.content, token)  # of two equal ones the first stays
                self._additional_special_tokens = list(by_content.values())
            else:
                if not isinstance(value, str | AddedToken):
                    raise InputError(f"The {key} must be a text or an AddedToken, not {value!r}.")
                token = self._stripping(value)
                self._insert([token])
                setattr(self, "_" + key, token)
        self._special_tokens_changed()
        return len(self) - before

    @property
    def additional_special_tokens(self) -> list[str]:
        """The texts of the special tokens that have no role of their own."""
        return [token.content for token in self._additional_special_tokens]

    @additional_special_tokens.setter
    def additional_special_tokens(self, values: Sequence[str | AddedToken] | None) -> None:
        tokens = [self._stripping(value) for value in _listed(values or [])]
        for token in tokens:
            if not self._knows(token.content):
                raise InputError(
                    f"{token.content!r} is not in the vocabulary. Add it with "
                    "tokenizer.add_special_tokens({'additional_special_tokens': [...]})."
                )
        self._additional_special_tokens = tokens

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """The ids of the special tokens that have no role of their own."""
        return [self.convert_tokens_to_ids(token) for token in self.additional_special_tokens]

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self, values: Iterable[int]) -> None:
        self.additional_special_tokens = [self.convert_ids_to_tokens(value) for value in values]

    @property
    def special_tokens_map_extended(self) -> dict[str, AddedToken | list[AddedToken]]:
        """Role -> token with its flags, for the roles that are filled."""
        filled: dict[str, AddedToken | list[AddedToken]] = {
            name: token for name in NAMED if (token := getattr(self, "_" + name)) is not None
        }
        if self._additional_special_tokens:
            filled["additional_special_tokens"] = list(self._additional_special_tokens)
        return filled

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """Role -> text, for the roles that are filled."""
        return {
            name: [token.content for token in value] if isinstance(value, list) else value.content
            for name, value in self.special_tokens_map_extended.items()
        }

    @property
    def all_special_tokens_extended(self) -> list[AddedToken]:
        """Every special token once, with its flags, in the order of the roles."""
        tokens = [getattr(self, "_" + name) for name in NAMED] + self._additional_special_tokens
        once: dict[str, AddedToken] = {}
        for token in tokens:
            if token is not None:
                once.setdefault(token.content, token)
        return list(once.values())

    @property
    def all_special_tokens(self) -> list[str]:
        """The text of every special token once, in the order of the roles."""
        return [token.content for token in self.all_special_tokens_extended]

    @property
    def all_special_ids(self) -> list[int]:
        """The id of every special token once, in the order of the roles."""
        return [self.convert_tokens_to_ids(token) for token in self.all_special_tokens]


def _listed(value: Any) -> list[str | AddedToken]:
    """Return one token or several as a list."""
    if isinstance(value, str | AddedToken):
        return [value]
    if not isinstance(value, Sequence):
        raise InputError(f"Tokens come as a text, an AddedToken or a list of these, not {value!r}.")
    return list(value)
