"""From rows of a data set to batches that `fit` learns from.

Rows are read, batched and put together in Python, while the model computes; order, batches and what is
fetched ahead are tf.data's.

Dimensions: B batch (docs/shapes.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2kit.errors import InputError

__all__ = ["DatasetMixin"]

# Columns that data sets have for labels -> what the models call them.
LABELS = {"label": "labels", "label_ids": "labels"}

Collate = Callable[..., Mapping[str, Any]]


class DatasetMixin:
    """Make a tf.data.Dataset of the columns that a model takes."""

    def prepare_tf_dataset(
        self: Any,
        dataset: Any,
        batch_size: int = 8,
        shuffle: bool = True,
        tokenizer: Any = None,
        collate_fn: Collate | None = None,
        collate_fn_args: Mapping[str, Any] | None = None,
        drop_remainder: bool | None = None,
        prefetch: bool = True,
    ) -> tf.data.Dataset:
        """Make batches for `fit`, `evaluate` and `predict`.

        Columns that are no argument of the model are left out; `label` and `label_ids` are its `labels`.

        Args:
            dataset: A datasets.Dataset, or anything else that has a length and, by number, rows with names.
            batch_size: Rows of a batch.
            shuffle: Bring the rows into another order in each epoch.
            tokenizer: Pads the rows of a batch to one length, if there is no collate_fn.
            collate_fn: Makes of a list of rows a mapping of names to arrays, in place of the usual way.
            collate_fn_args: More keywords for it.
            drop_remainder: Leave out a last batch that is not full; by default if the rows are shuffled.
            prefetch: Make batches ahead, while the model computes.

        Returns:
            Batches of inputs or, where there are labels, of inputs and labels. Inputs are a dictionary, or
            ids alone; labels are an array, or a dictionary for a model that has several.

        Raises:
            InputError: No such data set, no column that the model takes, a batch size that is none, and
                keywords for no function.
        """
        rows = _rows_of(dataset, self.argument_names())
        _check(rows, batch_size, collate_fn, collate_fn_args)
        collate = _stacked if tokenizer is None else _padded_by(tokenizer)
        make = _Batches(rows, collate_fn or collate, dict(collate_fn_args or {}), self.argument_names())
        drop = shuffle if drop_remainder is None else drop_remainder
        order = tf.data.Dataset.range(len(rows))
        order = order.shuffle(len(rows)) if shuffle else order
        batches = order.batch(batch_size, drop_remainder=drop).map(make.in_graph)
        parted = batches.map(lambda batch: _parted(batch, self.label_names))
        return parted.prefetch(tf.data.AUTOTUNE) if prefetch else parted


class _Batches:
    """What turns numbers of rows into arrays; names, ranks and dtypes are those of the first rows."""

    def __init__(
        self, rows: Sequence[Any], collate: Collate, more: dict[str, Any], wanted: Sequence[str]
    ) -> None:
        self.rows, self.collate, self.more, self.wanted = rows, collate, more, wanted
        first = self.arrays(np.arange(min(2, len(rows))))
        self.names = tuple(first)
        self.ranks = [array.ndim for array in first.values()]
        self.dtypes = [tf.as_dtype(array.dtype) for array in first.values()]
        if not first:
            raise InputError(
                f"No column of the data set is an argument of the model. They are {', '.join(wanted)}."
            )

    def arrays(self, places: Any) -> dict[str, Any]:
        """Return the batch of some rows, names to arrays [B, ...]."""
        several = getattr(self.rows, "__getitems__", None)
        numbers = [int(place) for place in places]
        rows = several(numbers) if several else [self.rows[number] for number in numbers]
        batch = self.collate([dict(row) for row in rows], **self.more)
        named = {LABELS.get(name, name): value for name, value in batch.items()}
        return {name: _array(value) for name, value in named.items() if name in self.wanted}

    def in_graph(self, places: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the same as tensors, from within a graph."""
        found = tf.numpy_function(self._values, [places], self.dtypes, stateful=True)
        size = places.shape[0]
        for tensor, rank in zip(found, self.ranks, strict=True):
            tensor.set_shape([size, *[None] * (rank - 1)])  # [B, ...]
        return dict(zip(self.names, found, strict=True))

    def _values(self, places: Any) -> list[Any]:
        """Return the arrays of a batch in their order."""
        found = self.arrays(places)
        if tuple(found) != self.names:
            raise InputError(f"A batch has the columns {list(found)}, and the first had {list(self.names)}.")
        return [
            found[name].astype(dtype.as_numpy_dtype) for name, dtype in zip(found, self.dtypes, strict=True)
        ]


def _rows_of(dataset: Any, wanted: Sequence[str]) -> Sequence[Any]:
    """Return the rows of a data set, without the columns that no one asks for."""
    if isinstance(dataset, tf.data.Dataset) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Mapping)
    ):
        raise InputError(
            f"dataset should be a datasets.Dataset or a sequence of rows, but it is a "
            f"{type(dataset).__name__}. A tf.data.Dataset is given to fit() as it is."
        )
    columns = getattr(dataset, "column_names", None)
    if columns is None:
        return _Narrowed(dataset, wanted)
    unwanted = [name for name in columns if name not in wanted and name not in LABELS]
    narrowed: Sequence[Any] = dataset.remove_columns(unwanted) if unwanted else dataset
    return narrowed


class _Narrowed(Sequence[Any]):
    """Rows of a plain sequence, without the columns that no one asks for."""

    def __init__(self, rows: Any, wanted: Sequence[str]) -> None:
        self.rows, self.wanted = rows, {*wanted, *LABELS}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        row = self.rows[place]
        if not isinstance(row, Mapping):
            raise InputError(f"A row should have names and values, but it is a {type(row).__name__}.")
        return {name: value for name, value in row.items() if name in self.wanted}


def _check(rows: Sequence[Any], batch_size: Any, collate: Any, more: Any) -> None:
    """Refuse what makes no batches."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size should be a positive whole number, but it is {batch_size!r}.")
    if len(rows) == 0:
        raise InputError("The data set has no rows.")
    if more and collate is None:
        raise InputError("collate_fn_args are keywords of a collate_fn, and there is none.")


def _stacked(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Put rows of equal lengths on top of each other."""
    found = {}
    for name in rows[0]:
        values = [np.asarray(row[name]) for row in rows]
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            raise InputError(
                f"The rows of {name} have different shapes ({', '.join(map(str, sorted(shapes)))}). Give the "
                "tokenizer, which pads them, or a collate_fn."
            )
        found[name] = np.stack(values)  # [B, ...]
    return found


def _padded_by(tokenizer: Any) -> Collate:
    """Return what has a tokenizer pad rows."""

    def padded(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return dict(tokenizer.pad(rows, return_tensors="np"))  # [B, T] each

    return padded


def _array(value: Any) -> Any:
    """Return an array of 64-bit integers or 32-bit numbers, or of what else it holds."""
    if hasattr(value, "detach"):
        value = value.detach()  # of PyTorch
    array = np.asarray(value)
    kind = {"i": np.int64, "u": np.int64, "b": np.int64, "f": np.float32}.get(array.dtype.kind)
    return array if kind is None else array.astype(kind)


def _parted(batch: dict[str, tf.Tensor], label_names: Sequence[str]) -> Any:
    """Return inputs, or inputs and labels, in the form that Keras takes."""
    labels: Any = {name: value for name, value in batch.items() if name in label_names}
    inputs: Any = {name: value for name, value in batch.items() if name not in label_names}
    if list(inputs) == ["input_ids"]:
        inputs = inputs["input_ids"]  # [B, T]
    if not labels:
        return inputs
    return inputs, labels[label_names[0]] if len(label_names) == 1 else labels
