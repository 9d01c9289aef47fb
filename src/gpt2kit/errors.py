"""Every error that gpt2kit raises on purpose.

```
GPT2KitError
├── ConfigError          ValueError     a configuration that cannot work
├── InputError           ValueError     an argument of a call that cannot be honoured
│   └── LengthError                     more positions than the model has
├── TokenizerError       ValueError     vocabulary, merges or text that cannot be tokenized
├── HubError             OSError        a name that leads to no file
│   ├── RepositoryNotFoundError         no such repository or folder
│   ├── FileNotInRepositoryError        the repository is there, the file is not
│   └── OfflineError                    not on this disk, and the network may not be asked or does not answer
├── CheckpointError      OSError        a file of weights that is truncated, tampered with or unsafe
│   └── ShapeMismatchError RuntimeError tensors of other shapes than the configuration asks for
├── StorageError         OSError        a file that cannot be written; what was there before is untouched
├── TrainingError        RuntimeError   a run that cannot start or go on
└── MissingDependencyError ImportError  an optional library that is not installed
```

Each message says what was wanted, what came, and what to do. The second base class of each kind is the one
that transformers 4.34 raises in the same place, so that existing `except` clauses go on catching.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = [
    "CheckpointError",
    "ConfigError",
    "FileNotInRepositoryError",
    "GPT2KitError",
    "HubError",
    "InputError",
    "LengthError",
    "MissingDependencyError",
    "OfflineError",
    "RepositoryNotFoundError",
    "ShapeMismatchError",
    "StorageError",
    "TokenizerError",
    "TrainingError",
]


class GPT2KitError(Exception):
    """Anything that gpt2kit refuses to do; the message says why and what to do instead."""


class ConfigError(GPT2KitError, ValueError):
    """A configuration that cannot work."""


class InputError(GPT2KitError, ValueError):
    """An argument of a call that cannot be honoured."""

    if not TYPE_CHECKING:  # with it a function of TensorFlow raises this class, else one of its own
        __init__ = Exception.__init__


class LengthError(InputError):
    """More positions than the model has."""


class TokenizerError(GPT2KitError, ValueError):
    """Vocabulary, merges or text that cannot be tokenized."""


class HubError(GPT2KitError, OSError):
    """A name that leads to no file."""


class RepositoryNotFoundError(HubError):
    """Neither a folder on this disk nor a repository on the hub."""


class FileNotInRepositoryError(HubError):
    """The folder or repository is there; the file is not."""


class OfflineError(HubError):
    """Not on this disk, and the network may not be asked or does not answer."""


class CheckpointError(GPT2KitError, OSError):
    """A file of weights that is truncated, tampered with or unsafe to read."""


class ShapeMismatchError(CheckpointError, RuntimeError):
    """Tensors of other shapes than the configuration asks for."""


class StorageError(GPT2KitError, OSError):
    """A file that cannot be written; what was there before is untouched."""


class TrainingError(GPT2KitError, RuntimeError):
    """A training run that cannot start or go on."""


class MissingDependencyError(GPT2KitError, ImportError):
    """An optional library that is not installed; the message names the extra that brings it."""
