"""How probable texts are to a model: log-probabilities of tokens by the sliding window, in bounded memory.

Every window of every text becomes a row; rows of like length go through the body together, padded on the
right, where a causal model does not look. Logits are made for scored positions only, so many at a time.

Dimensions: B rows, T positions, D n_embd, V vocabulary (docs/shapes.md); "scored" and "part" are positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt2kit.errors import InputError
from gpt2kit.evaluation.likelihood import TextScore
from gpt2kit.evaluation.pair import Pair, encode_pair
from gpt2kit.evaluation.window import Window, batches, check_count, check_window, plan_windows

__all__ = ["Progress", "ScoringMixin", "score_pairs"]

Progress = Callable[[int, int], None]  # tokens scored, tokens in all
Ids = NDArray[np.int64]

# Positions that go through the body at once where nobody says how many rows. 124M parameters on one core take
# the same time for 1,024 and 2,048 and 7% more for 4,096; an accelerator has more arms than that.
POSITIONS_AT_ONCE = {"cpu": 2048}
POSITIONS_ON_ACCELERATORS = 16384
# Logits that are held at once: 64 MB in float32, and as much again for their softmax.
LOGITS_AT_ONCE = 2**24


class ScoringMixin:
    """Give a language model `score`."""

    config: Any
    transformer: nn.Module
    lm_head: nn.Module
    device: torch.device

    def score(
        self,
        texts: Any,
        *,
        tokenizer: Any = None,
        attention_mask: Any = None,
        context: Any = None,
        prefix_token_id: int | None = None,
        window: int | None = None,
        stride: int | None = None,
        batch_size: int | None = None,
        greedy: bool = False,
        progress: Progress | None = None,
    ) -> TextScore | list[TextScore]:
        """Compute how probable texts are: log p of each token, their sum, and perplexities.

        Texts of any length are scored by the sliding window (gpt2kit/evaluation/window.py). What comes out
        for a text does not depend on the others of the batch, but for the last digits of a float.

        Args:
            texts: A text or a list of texts, with `tokenizer`; or ids: a list, a list of lists, a tensor or
                array [T] or [B, T].
            tokenizer: Turns texts into ids without adding any. Beside ids, it only counts words and bytes.
            attention_mask: 1 for the tokens and 0 for the padding of ids that came as [B, T].
            context: What stands before each text and is not scored itself: of the same form as `texts`, or
                one for all of them; without padding. Strings are tokenized together with what follows.
            prefix_token_id: Stands before each text (or context), so that its first token is scored too;
                usually `config.bos_token_id`. A context that begins with it gets no second one. Without it a
                text of N tokens has N - 1 scores.
            window: How many tokens the model sees at once; by default n_positions.
            stride: How many tokens each window after the first scores; by default half the window.
            batch_size: Rows that go through the model at once; by default as many as hold 2,048
                positions, or 16,384 on an accelerator.
            greedy: Also tell which tokens are the ones that the model finds most probable.
            progress: Called with the number of tokens scored so far, and of all.

        Returns:
            A `TextScore` for one text, a list of them for several.

        Raises:
            InputError: Texts without a tokenizer, ids outside the vocabulary, arguments that fit nothing; a
                model in training mode with dropout, whose scores would be random; scores that are NaN.
            LengthError: The window is larger than n_positions.

        Example:
            >>> from gpt2kit import AutoTokenizer, GPT2LMHeadModel
            >>> model = GPT2LMHeadModel.from_pretrained("pocket")
            >>> score = model.score("To be, or not to be", tokenizer=AutoTokenizer.from_pretrained("pocket"))
            >>> score.tokens, len(score.log_probs)
            (6, 6)
        """
        _check_prefix(prefix_token_id)
        if tokenizer is not None and not callable(tokenizer):
            raise InputError(f"tokenizer should be a tokenizer, not its name or folder: {tokenizer!r} came.")
        is_single, rows, strings = _rows(texts, tokenizer, attention_mask)
        if context is None:
            pairs = [Pair(ids, 0) for ids in rows]
        else:
            pairs = _behind(context, rows, strings, tokenizer, prefix_token_id)
        if prefix_token_id is not None:
            pairs = [_prefixed(pair, prefix_token_id) for pair in pairs]
        found = score_pairs(
            self, pairs, window=window, stride=stride, batch_size=batch_size, greedy=greedy, progress=progress
        )
        if strings is None and tokenizer is not None:
            strings = [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in rows]
        if strings is not None:
            found = [
                TextScore.of(score.ids, score.log_probs, score.greedy, text)
                for score, text in zip(found, strings, strict=True)
            ]
        return found[0] if is_single else found


def score_pairs(
    model: Any,
    pairs: Sequence[Pair],
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    greedy: bool = False,
    barred_ids: Sequence[int] = (),
    progress: Progress | None = None,
) -> list[TextScore]:
    """Score each pair's tokens from `first` on; those before are their context.

    Args:
        model: With a body `transformer` and a head `lm_head`.
        pairs: Ids, and where scoring begins.
        window: As in `ScoringMixin.score`, like all that is not listed here.
        stride: See there.
        batch_size: See there.
        greedy: See there.
        barred_ids: Tokens that do not count as the most probable one; their probabilities stay as they are.
        progress: See there.

    Raises:
        InputError: As in `ScoringMixin.score`; `barred_ids` without `greedy`.
    """
    window, stride = check_window(window, stride, model.config.n_positions)
    check_count("batch_size", batch_size)
    if barred_ids and not greedy:
        raise InputError("barred_ids change which token is the most probable one; give greedy=True too.")
    _check_ids(pairs, model.config.vocab_size)
    _check_mode(model)
    plans = [
        (number, each)
        for number, pair in enumerate(pairs)
        for each in plan_windows(len(pair.ids), first=pair.first, window=window, stride=stride)
    ]
    firsts = [min(max(pair.first, 1), len(pair.ids)) for pair in pairs]
    log_probs = [np.empty(len(pair.ids) - first) for pair, first in zip(pairs, firsts, strict=True)]
    hits = [np.empty(len(each), bool) for each in log_probs] if greedy else None
    barred = torch.tensor(list(barred_ids), dtype=torch.long, device=model.device)  # [barred]
    done, total = 0, sum(map(len, log_probs))
    most = POSITIONS_AT_ONCE.get(model.device.type, POSITIONS_ON_ACCELERATORS)
    lengths = [each.inputs for _, each in plans]
    for batch in batches(lengths, rows=batch_size, positions=most if batch_size is None else None):
        chosen = [(pairs[plans[place][0]].ids, plans[place][1]) for place in batch]
        values, matches = _score_batch(model, chosen, greedy, barred)
        _check_values(model, values)
        start = 0
        for place in batch:
            number, each = plans[place]
            into = slice(each.first - firsts[number], each.stop - firsts[number])
            log_probs[number][into] = values[start : start + each.scored]
            if hits is not None and matches is not None:
                hits[number][into] = matches[start : start + each.scored]
            start += each.scored
        done += start
        if progress is not None:
            progress(done, total)
    return [
        TextScore.of(pair.ids[first:], log_probs[number], None if hits is None else hits[number])
        for number, (pair, first) in enumerate(zip(pairs, firsts, strict=True))
    ]


@torch.no_grad()
def _score_batch(
    model: Any, rows: Sequence[tuple[Ids, Window]], greedy: bool, barred: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Score one batch of windows; the scored positions of all rows come one after the other.

    Padding repeats a row's last token: what stands behind changes nothing in a causal model, and without a
    mask the fast kernel serves.
    """
    T = max(each.inputs for _, each in rows)
    inputs = np.empty((len(rows), T), np.int64)  # [B, T]
    places: list[Ids] = []
    targets: list[Ids] = []
    for row, (ids, each) in enumerate(rows):
        inputs[row, : each.inputs] = ids[each.start : each.stop - 1]
        inputs[row, each.inputs :] = ids[each.stop - 2]
        places.append(np.arange(each.first, each.stop) - each.start - 1 + row * T)
        targets.append(ids[each.first : each.stop])
    input_ids = torch.from_numpy(inputs).to(model.device)  # [B, T]
    # On a CPU, a mask of ones is looked at and dropped; without one, end-of-text tokens look like padding.
    mask = torch.ones_like(input_ids) if input_ids.device.type == "cpu" else None  # [B, T]
    body = model.transformer(
        input_ids,
        attention_mask=mask,
        use_cache=False,
        output_attentions=False,
        output_hidden_states=False,
        return_dict=True,
    )
    position = torch.from_numpy(np.concatenate(places)).to(input_ids.device)  # [scored]
    target = torch.from_numpy(np.concatenate(targets)).to(input_ids.device)  # [scored]
    states = body.last_hidden_state.flatten(0, 1)[position]  # [scored, D]
    found = list(_head_in_parts(model, states, target, greedy, barred))
    values = torch.cat([log_probs for log_probs, _ in found]).double().cpu().numpy()  # [scored]
    if not greedy:
        return values, None
    return values, torch.cat([matches for _, matches in found]).cpu().numpy()  # [scored]


def _head_in_parts(
    model: Any, states: Tensor, target: Tensor, greedy: bool, barred: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield log p(target) and whether it is the most probable, so many positions at a time."""
    part = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    for start in range(0, len(target), part):
        wanted = target[start : start + part, None]  # [part, 1]
        logits = model.lm_head(states[start : start + part])  # [part, V]
        logits = logits if logits.dtype == torch.float64 else logits.float()  # [part, V]
        log_probs = logits.log_softmax(-1).gather(-1, wanted)[:, 0]  # [part]
        matches = torch.empty(0, dtype=torch.bool)  # [0], where nobody asks
        if greedy:
            logits[:, barred] = -torch.inf
            matches = logits.argmax(-1) == wanted[:, 0]  # [part]
        yield log_probs, matches


def _rows(texts: Any, tokenizer: Any, attention_mask: Any) -> tuple[bool, list[Ids], list[str] | None]:
    """Read `texts` in any form: whether it is a single one, the ids of each, and the strings if any."""
    is_single, items = _items(texts)
    if not items or not isinstance(items[0], str):
        rows = [_ids(row) for row in items]
        return is_single, _without_padding(rows, attention_mask, is_single), None
    if attention_mask is not None:
        raise InputError("attention_mask belongs to padded ids, and texts came; leave it out.")
    if tokenizer is None:
        raise InputError("Texts need a tokenizer to become ids: score(texts, tokenizer=...).")
    if other := next((each for each in items if not isinstance(each, str)), None):
        raise InputError(f"The texts are strings, but one of them is {type(other).__name__}.")
    encoded = tokenizer(list(items), add_special_tokens=False, verbose=False)["input_ids"]
    return is_single, [_ids(row) for row in encoded], list(items)


def _items(texts: Any) -> tuple[bool, Sequence[Any]]:
    """Tell one text from several, and return them as a sequence of strings or of ids."""
    if isinstance(texts, str):
        return True, [texts]
    if isinstance(texts, Mapping):
        raise InputError(
            "A mapping came as texts: give encoding['input_ids'], with attention_mask= if it is padded."
        )
    if isinstance(texts, Tensor):
        texts = texts.detach().cpu().numpy()
    if isinstance(texts, np.ndarray):
        if texts.ndim not in (1, 2):
            raise InputError(f"ids should have the shape [T] or [B, T], but it is {list(texts.shape)}.")
        return (True, [texts]) if texts.ndim == 1 else (False, list(texts))
    if not isinstance(texts, Sequence):
        raise InputError(f"Texts or ids should come, but {type(texts).__name__} came.")
    is_single = bool(texts) and isinstance(texts[0], int | np.integer)
    return (True, [texts]) if is_single else (False, texts)


def _ids(row: Any) -> Ids:
    """Return ids as an array [T]."""
    try:
        array = row.detach().cpu().numpy() if isinstance(row, Tensor) else np.asarray(row)
    except ValueError:  # rows of several lengths inside
        array = np.array(row, object)
    if array.size == 0:
        array = np.empty(0, np.int64)  # [0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"The ids of a text should be whole numbers in one row, but {array.dtype} of the shape "
            f"{list(array.shape)} came."
        )
    return array.astype(np.int64)  # [T]


def _without_padding(rows: list[Ids], attention_mask: Any, is_single: bool) -> list[Ids]:
    """Return the tokens that the mask shows; they have to be one stretch."""
    if attention_mask is None:
        return rows
    masks = [np.asarray(row) for row in _items(attention_mask)[1]]
    if [mask.shape for mask in masks] != [ids.shape for ids in rows]:
        wanted = [len(ids) for ids in rows]
        raise InputError(
            f"attention_mask should be as long as the ids, {wanted}, but it is {[len(m) for m in masks]}."
        )
    kept = []
    for number, (ids, mask) in enumerate(zip(rows, masks, strict=True)):
        if len(other := mask[(mask != 0) & (mask != 1)]):
            raise InputError(
                f"attention_mask should hold 1 for tokens and 0 for padding, and holds {other[0]}."
            )
        shown = np.flatnonzero(mask)
        if len(shown) and shown[-1] - shown[0] + 1 != len(shown):
            where = "attention_mask" if is_single else f"attention_mask of row {number}"
            raise InputError(f"The {where} has zeros between ones; only padding at the ends can be left out.")
        kept.append(ids[shown])
    return kept


def _behind(
    context: Any, rows: list[Ids], strings: list[str] | None, tokenizer: Any, prefix_token_id: int | None
) -> list[Pair]:
    """Put each text behind its context."""
    is_single, contexts = _items(context)
    if is_single or len(contexts) == 0:  # an empty list is an empty context
        contexts = [contexts[0] if is_single else contexts] * len(rows)
    if len(contexts) != len(rows):
        raise InputError(
            f"{len(contexts)} contexts came with {len(rows)} texts; give one for each, or a single one "
            "that is not in a list."
        )
    if any(isinstance(each, str) != (strings is not None) for each in contexts):
        raise InputError(
            "context should be of the same form as the texts: strings with strings, or ids with ids."
        )
    if strings is not None:
        return [
            encode_pair(tokenizer, *each, prefix_token_id) for each in zip(contexts, strings, strict=True)
        ]
    heads = [_ids(each) for each in contexts]
    return [Pair(np.concatenate(each), len(each[0])) for each in zip(heads, rows, strict=True)]


def _prefixed(pair: Pair, prefix_token_id: int) -> Pair:
    """Put the prefix before a text, unless it begins with it as its context already."""
    if pair.first and len(pair.ids) and pair.ids[0] == prefix_token_id:
        return pair
    return Pair(np.concatenate(([prefix_token_id], pair.ids)), pair.first + 1)


def _check_prefix(prefix_token_id: Any) -> None:
    """Refuse what is not one token's number; whether it is in the vocabulary is seen with all other ids."""
    is_number = isinstance(prefix_token_id, int | np.integer) and not isinstance(prefix_token_id, bool)
    if prefix_token_id is not None and not is_number:
        raise InputError(
            "prefix_token_id must be the number of one token, such as config.bos_token_id, got "
            f"{prefix_token_id!r}."
        )


def _check_ids(pairs: Sequence[Pair], V: int) -> None:
    """Refuse ids outside the vocabulary: a text's last one is never looked up, and would not be noticed."""
    for number, pair in enumerate(pairs):
        outside = pair.ids[(pair.ids < 0) | (pair.ids >= V)]
        if len(outside):
            raise InputError(
                f"Text {number} holds the id {outside[0]}, outside 0 to {V - 1} (vocab_size={V}). Use this "
                "model's tokenizer."
            )


def _check_values(model: Any, values: NDArray[np.float64]) -> None:
    """Refuse NaN, which would win every comparison of choices, and be no answer to any question."""
    if np.isnan(values).any():
        raise InputError(
            f"The model's probabilities are no numbers (NaN): its weights hold NaN, or {model.dtype} is too "
            "small for its activations; try float32 or bfloat16."
        )


def _check_mode(model: Any) -> None:
    """Refuse a model that would give other numbers at every call."""
    if any(module.training and isinstance(module, nn.Dropout) and module.p for module in model.modules()):
        raise InputError(
            "The model is in training mode, where dropout makes every score random; call model.eval() first."
        )
