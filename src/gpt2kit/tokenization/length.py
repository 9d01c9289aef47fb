"""How long an encoding gets: truncation and padding, decided once and applied to plain lists."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

from gpt2kit.errors import InputError, LengthError

__all__ = ["NO_LIMIT", "Lengths", "check_room", "pad_one", "plan_lengths", "truncate_pair"]

NO_LIMIT = int(1e30)  # model_max_length of a tokenizer that knows none, as 4.34 writes it
_LIMITED = int(1e20)  # lengths above this count as no limit; 1e30 does not survive every JSON exactly

_UNKNOWN = (
    "Asking to {} to max_length but no maximum length is provided and the model has no predefined maximum "
    "length."
)
_PADDINGS = ("longest", "max_length", "do_not_pad")
_TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lengths:
    """What to do about lengths.

    Attributes:
        padding: "longest", "max_length" or "do_not_pad".
        truncation: "longest_first", "only_first", "only_second" or "do_not_truncate".
        max_length: Longest encoding, special tokens included; None is no limit.
        stride: Tokens that an overflowing window shares with the one before.
        multiple: Padded lengths become a multiple of this.
    """

    padding: str = "do_not_pad"
    truncation: str = "do_not_truncate"
    max_length: int | None = None
    stride: int = 0
    multiple: int | None = None


def plan_lengths(
    padding: Any = False,
    truncation: Any = None,
    max_length: int | None = None,
    stride: int = 0,
    pad_to_multiple_of: int | None = None,
    *,
    model_max_length: int = NO_LIMIT,
    pad_token: str | None = None,
    said: dict[str, bool] | None = None,
) -> Lengths:
    """Read the arguments of a call as 4.34 does.

    Args:
        padding: True or "longest", "max_length", False or "do_not_pad".
        truncation: True or "longest_first", "only_first", "only_second", False, "do_not_truncate" or None.
        max_length: Longest encoding; None is the model's.
        stride: Tokens that an overflowing window shares with the one before.
        pad_to_multiple_of: Padded lengths become a multiple of this.
        model_max_length: What the model takes.
        pad_token: The token to pad with.
        said: Hints that have been logged already; None to log none.

    Raises:
        InputError: An unknown strategy, a negative number, padding without a token, or lengths that clash.
    """
    max_length = _whole("max_length", max_length)
    stride = _whole("stride", stride) or 0
    pad_to_multiple_of = _whole("pad_to_multiple_of", pad_to_multiple_of)
    if pad_to_multiple_of == 0:
        raise InputError("pad_to_multiple_of is 0. Pass 1 or more, or leave it out.")
    if max_length is not None and padding is False and truncation is None:
        _say_once(
            said,
            "Truncation-not-explicitly-activated",
            "Truncation was not explicitly activated, but max_length is given: truncating the longest first. "
            "Pass truncation=True to say so.",
        )
        truncation = "longest_first"
    if max_length is not None and max_length > _LIMITED:
        model_max_length, max_length = max_length, None
    pad = _read("padding", padding, {True: "longest", False: "do_not_pad"}, _PADDINGS)
    cut = _read(
        "truncation",
        truncation,
        {True: "longest_first", False: "do_not_truncate", None: "do_not_truncate"},
        _TRUNCATIONS,
    )
    if padding is True and max_length is not None and cut == "do_not_truncate" and said is not None:
        warnings.warn(
            "`max_length` is ignored when `padding=True` and nothing is truncated. "
            "To pad to max_length, pass padding='max_length'.",
            UserWarning,
            stacklevel=4,
        )
    if max_length is None:
        if pad == "max_length" and model_max_length > _LIMITED:
            _say_once(said, "Asking-to-pad-to-max_length", f"{_UNKNOWN.format('pad')} Default to no padding.")
            pad = "do_not_pad"
        if cut != "do_not_truncate" and model_max_length > _LIMITED:
            _say_once(
                said,
                "Asking-to-truncate-to-max_length",
                f"{_UNKNOWN.format('truncate')} Default to no truncation.",
            )
            cut = "do_not_truncate"
        if pad == "max_length" or cut != "do_not_truncate":
            max_length = int(model_max_length)
    if pad != "do_not_pad" and pad_token is None:
        raise InputError(
            "Asking to pad but the tokenizer does not have a padding token. Please select a token to use as "
            "`pad_token` `(tokenizer.pad_token = tokenizer.eos_token e.g.)` or add a new pad token via "
            "`tokenizer.add_special_tokens({'pad_token': '[PAD]'})`."
        )
    clash = cut != "do_not_truncate" and pad != "do_not_pad" and pad_to_multiple_of and max_length
    if clash and max_length and pad_to_multiple_of and max_length % pad_to_multiple_of:
        raise InputError(
            f"Truncation to {max_length} and padding to a multiple of {pad_to_multiple_of} cannot both hold. "
            "Pass a max_length that is such a multiple."
        )
    return Lengths(pad, cut, max_length, stride, pad_to_multiple_of)


def check_room(lengths: Lengths, special: int) -> None:
    """Refuse a max_length below the special tokens, and windows that would not move on.

    Raises:
        LengthError: The special tokens alone are more than max_length.
        InputError: The stride is not below the room for tokens, the special ones left out.
    """
    if lengths.truncation == "do_not_truncate" or lengths.max_length is None:
        return
    room = lengths.max_length - special
    if room < 0:
        raise LengthError(
            f"max_length={lengths.max_length} is less than the {special} special tokens of an encoding. "
            "Pass more, or add_special_tokens=False."
        )
    if lengths.stride and lengths.stride >= room:
        raise InputError(
            f"stride={lengths.stride} must be less than the room for tokens, {room} (max_length "
            f"{lengths.max_length} less {special} special tokens), or the windows would not move on."
        )


def truncate_pair(
    ids: list[int],
    pair: list[int] | None,
    excess: int,
    strategy: str,
    stride: int = 0,
    side: str = "right",
) -> tuple[list[int], list[int] | None, list[int]]:
    """Take `excess` ids away from a text or a pair of texts.

    Args:
        ids: The first text.
        pair: The second, or None.
        excess: How many to take away.
        strategy: "longest_first", "only_first" or "only_second".
        stride: How many of the ids that stay to repeat in the overflow.
        side: "right" or "left": where to take them away.

    Returns:
        Both texts, and the overflow: what was taken away and `stride` ids beside it. The overflow of a pair
        cut longest first is empty: it would be of two texts.

    Raises:
        LengthError: The strategy's text is too short for that.
    """
    if excess <= 0:
        return ids, pair, []
    if strategy == "longest_first" and pair is not None:
        first, second = _share(len(ids), len(pair), len(ids) + len(pair) - excess)
        return _keep(ids, first, side), _keep(pair, second, side), []
    if excess == len(ids) + len(pair or ()):  # no room for any token, so it does not matter whose go
        return [], None if pair is None else [], ids if pair is None else []
    target = pair if strategy == "only_second" else ids
    if target is None:
        raise LengthError(
            "truncation='only_second' needs a second text, and there is none. Use 'only_first' or True."
        )
    too_short = len(target) < excess if strategy == "longest_first" else len(target) <= excess
    if too_short:
        raise LengthError(
            f"{excess} tokens have to go, and truncation={strategy!r} may take them from a text of "
            f"{len(target)} only. Use truncation='longest_first' or a larger max_length."
        )
    window = min(len(target), stride + excess)
    overflow = target[len(target) - window :] if side == "right" else target[:window]
    kept = _keep(target, len(target) - excess, side)
    return (ids, kept, overflow) if strategy == "only_second" else (kept, pair, overflow)


def pad_one(
    row: dict[str, Any], lengths: Lengths, *, main: str, side: str, pad_id: int, pad_type_id: int, mask: bool
) -> dict[str, Any]:
    """Pad the lists of one text, and give it an attention mask if asked.

    Args:
        row: Name -> list.
        lengths: The padding to do; "longest" is the row's own length.
        main: Which list counts the tokens, "input_ids".
        side: "right" or "left".
        pad_id: Id of the padding token.
        pad_type_id: Type of the padding token.
        mask: Whether to add the attention mask: 1 for a token, 0 for padding.

    Returns:
        A new dictionary.
    """
    row = dict(row)
    length = len(row[main])
    if mask and "attention_mask" not in row:
        row["attention_mask"] = [1] * length
    if lengths.padding == "do_not_pad":
        return row
    wanted = length if lengths.padding == "longest" else lengths.max_length or 0
    if lengths.multiple:
        wanted = -(-wanted // lengths.multiple) * lengths.multiple
    fill = {main: pad_id, "attention_mask": 0, "token_type_ids": pad_type_id, "special_tokens_mask": 1}
    missing = max(wanted - length, 0)
    for name, value in fill.items():
        if name in row:
            extra = [value] * missing
            row[name] = list(row[name]) + extra if side == "right" else extra + list(row[name])
    return row


def _whole(name: str, number: Any) -> int | None:
    """Return a number of tokens as an int, None as it is."""
    if number is None:
        return None
    try:
        whole = int(number)
    except (TypeError, ValueError, OverflowError):  # no number, or infinite
        whole = -1
    if type(number) is bool or whole != number or whole < 0:
        raise InputError(f"{name} is {number!r}, and it must be a whole number, 0 or more.")
    return whole


def _read(name: str, value: Any, short: dict[Any, str], known: tuple[str, ...]) -> str:
    """Return the strategy that an argument stands for."""
    if value is None or isinstance(value, bool):
        strategy = short.get(value)
    else:
        strategy = str(getattr(value, "value", value))  # also an enumeration, as 4.34 has
    if strategy not in known:
        choices = ", ".join(repr(item) for item in known)
        raise InputError(f"{name}={value!r} is unknown. Choose True, False or one of {choices}.")
    return strategy


def _say_once(said: dict[str, bool] | None, key: str, text: str) -> None:
    """Log a hint the first time."""
    if said is not None and not said.get(key):
        said[key] = True
        _logger.warning(text)


def _share(first: int, second: int, total: int) -> tuple[int, int]:
    """Divide `total` places between two texts so that the longer gives up its tokens first.

    At equal lengths the second text gets the odd place, as in the tokenizers library.
    """
    short, long = sorted((first, second))
    long = max(short, total - short)
    if short + long > total:
        short, long = total // 2, total - total // 2
    return (short, long) if first <= second else (long, short)


def _keep(ids: list[int], number: int, side: str) -> list[int]:
    """Keep the first `number` ids, or the last if the left side is cut."""
    return ids[:number] if side == "right" else ids[len(ids) - number :]
