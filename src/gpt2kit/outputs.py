"""What a model returns: a dataclass that is also an ordered dictionary and a tuple.

Fields that are None are not there: not in the keys, not in the tuple. So `output["logits"]`,
`output.logits`, `output[0]`, `output[:2]` and `output.to_tuple()` all speak of the same values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field
from typing import Any, ClassVar, NoReturn

__all__ = ["ModelOutput"]


class ModelOutput(OrderedDict[str, Any]):
    """Base of every output; a subclass is a dataclass whose fields default to None.

    Source:
        transformers v4.34.0, utils/generic.py, ModelOutput. Unlike there, a key is always a field.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Pair(ModelOutput):
        ...     first: int | None = None
        ...     second: int | None = None
        >>> pair = Pair(second=2)
        >>> pair.second, pair["second"], pair[0], pair.to_tuple(), list(pair)
        (2, 2, 2, (2,), ['second'])
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # by name; what @dataclass makes of a subclass

    def __post_init__(self) -> None:
        """Enter the fields that are not None into the dictionary, in their order.

        A dictionary, or pairs, given alone in the first place hold the fields themselves: that is how
        torch's DataParallel and accelerate rebuild an output.
        """
        first, *others = self.__dataclass_fields__
        given = getattr(self, first)
        if all(getattr(self, name) is None for name in others) and isinstance(given, Mapping | Iterator):
            values = dict(given)
            setattr(self, first, None)  # out of the dictionary too
            for name, value in values.items():
                setattr(self, name, value)
            return
        for name in (first, *others):
            if getattr(self, name) is not None:
                super().__setitem__(name, getattr(self, name))

    def __new__(cls, *args: Any, **kwargs: Any) -> ModelOutput:
        """Refuse a subclass that forgot the decorator: it would have no fields."""
        if "__dataclass_fields__" not in cls.__dict__:
            raise TypeError(f"{cls.__name__} must be decorated with @dataclass to be a ModelOutput.")
        return super().__new__(cls)

    def __getitem__(self, key: str | int | slice) -> Any:
        """Return a field by its name, or one or several by their place among those that are not None."""
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a field under its name; an unknown name is refused, and None takes the field away."""
        setattr(self, key, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field as an attribute and in the dictionary, at its place in the order of the fields."""
        names = list(self.__dataclass_fields__)
        if name not in names:
            raise AttributeError(
                f"{type(self).__name__} has no field {name!r}. Its fields are {', '.join(names)}."
            )
        super().__setattr__(name, value)
        if value is None:
            super().pop(name, None)
            return
        is_new = name not in self
        super().__setitem__(name, value)
        if is_new:
            for later in names[names.index(name) + 1 :]:
                if later in self:
                    self.move_to_end(later)

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values that are not None, in the order of the fields."""
        return tuple(self.values())

    def __delitem__(self, key: str) -> NoReturn:
        """Refuse: an output has the fields it has."""
        raise self._refusal("deleted")

    def pop(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: an output has the fields it has."""
        raise self._refusal("popped")

    def setdefault(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: an output has the fields it has."""
        raise self._refusal("given a default")

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: an output has the fields it has."""
        raise self._refusal("updated")

    def _refusal(self, verb: str) -> TypeError:
        return TypeError(
            f"The items of a {type(self).__name__} cannot be {verb}. Set a field, or use dict(output)."
        )

    def __reduce__(self) -> tuple[Callable[..., ModelOutput], tuple[Any, ...]]:
        """Pickle and copy by the values of the fields."""
        return type(self), tuple(getattr(self, name) for name in self.__dataclass_fields__)
