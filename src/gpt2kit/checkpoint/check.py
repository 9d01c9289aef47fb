"""Hold the tensors of a file against the table, before any framework is touched.

Files spell the official names in several ways, and all are understood: with or without the "transformer."
of the base model, with or without `lm_head.weight` when it is tied, and with the buffers `attn.bias` and
`attn.masked_bias` that older versions saved.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gpt2kit.checkpoint.layout import BASE_PREFIX, TensorSpec, tensor_specs
from gpt2kit.checkpoint.read import Checkpoint
from gpt2kit.config import GPT2Config
from gpt2kit.errors import CheckpointError, ShapeMismatchError

__all__ = ["LoadReport", "check_tied", "compare", "match_names", "refuse_missing", "take_tied"]

_BUFFERS = re.compile(r"(transformer\.)?h\.\d+\.(attn|crossattention)\.(bias|masked_bias)")

# Tensors that a body may lack: an encoder-decoder starts from a decoder without cross-attention.
_MAY_START_FRESH = re.compile(r"\bh\.\d+\.(crossattention|ln_cross_attn)\.")

_PIECE = 2**22  # bytes compared at a time

_logger = logging.getLogger(__name__)


class _HasShape(Protocol):
    @property
    def shape(self) -> Sequence[int]: ...


@dataclass
class LoadReport:
    """What a file has, measured by what a model wants.

    Attributes:
        found: Official name -> the file's spelling, for all that will be loaded.
        missing: Official names that the file does not have; a tied one is not missing.
        unexpected: Names in the file that the model does not have.
        mismatched: (official name, shape in the file, shape in the model).
        ignored: Names in the file that are known and not needed: old buffers.
        tied: Official name of a tied tensor -> its spelling in a file that has it nevertheless.
        error_msgs: Other errors, as 4.34 lists them.
    """

    found: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)
    error_msgs: list[str] = field(default_factory=list)

    def info(self) -> dict[str, list[Any]]:
        """Return what from_pretrained(output_loading_info=True) gives in 4.34."""
        return {
            "missing_keys": list(self.missing),
            "unexpected_keys": list(self.unexpected),
            "mismatched_keys": list(self.mismatched),
            "error_msgs": list(self.error_msgs),
        }

    def raise_if_mismatched(self, class_name: str) -> None:
        """Refuse tensors of other shapes than the model's.

        Raises:
            ShapeMismatchError: With the first shapes of both sides, and the ways out.
        """
        if not self.mismatched:
            return
        shown = "; ".join(
            f"{name} is {list(stored)} in the file and {list(wanted)} in the model"
            for name, stored, wanted in self.mismatched[:3]
        )
        more = f"; and {len(self.mismatched) - 3} more" if len(self.mismatched) > 3 else ""
        raise ShapeMismatchError(
            f"The file does not fit this {class_name}, size mismatch for {len(self.mismatched)} tensors: "
            f"{shown}{more}. Use the configuration that was saved with it, "
            "or pass ignore_mismatched_sizes=True to start those afresh."
        )

    def log(self, class_name: str, source: str, architectures: Sequence[str] | None = None) -> None:
        """Log what was left out of the file and what starts afresh; 4.34's words, which people search for.

        Args:
            class_name: The class of the model.
            source: Where the file is.
            architectures: Classes that the file was saved by. Where the model is of another one, what is left
                out is what was not asked for, such as the head, and no warning.
        """
        if self.unexpected:
            _logger.log(
                logging.INFO if architectures and class_name not in architectures else logging.WARNING,
                "Some weights of the model checkpoint at %s were not used when initializing %s: %s",
                source,
                class_name,
                self.unexpected,
            )
        if self.missing:
            _logger.warning(
                "Some weights of %s were not initialized from the model checkpoint at %s "
                "and are newly initialized: %s. Train the model before you use it.",
                class_name,
                source,
                self.missing,
            )
        if self.mismatched:
            _logger.warning(
                "Some weights of %s were not initialized from the model checkpoint at %s "
                "and are newly initialized because the shapes did not match: %s",
                class_name,
                source,
                "; ".join(
                    f"{name}: {stored} in the file, {wanted} in the model"
                    for name, stored, wanted in self.mismatched
                ),
            )


def match_names(specs: Iterable[TensorSpec], names: Iterable[str]) -> LoadReport:
    """Find the spelling of each official name in a file, by names alone.

    Args:
        specs: The model's tensors, from `layout.tensor_specs`.
        names: The names in the file.

    Returns:
        The report, without shapes.

    Raises:
        CheckpointError: The file has one tensor under two spellings.
    """
    report = LoadReport()
    spelling: dict[str, str] = {}
    for name in names:
        plain = name.removeprefix(BASE_PREFIX)
        if plain in spelling:
            raise CheckpointError(
                f"The file has one tensor under two names, {spelling[plain]} and {name}. Remove one of them."
            )
        spelling[plain] = name
    for spec in specs:
        stored = spelling.pop(spec.name.removeprefix(BASE_PREFIX), None)
        if spec.tied_to is not None:
            if stored is not None:
                report.tied[spec.name] = stored
        elif stored is None:
            report.missing.append(spec.name)
        else:
            report.found[spec.name] = stored
    for name in spelling.values():
        (report.ignored if _BUFFERS.fullmatch(name) else report.unexpected).append(name)
    return report


def compare(specs: Iterable[TensorSpec], stored: Mapping[str, _HasShape]) -> LoadReport:
    """Hold names and shapes of a file, or of a state dict, against the table.

    Args:
        specs: The model's tensors, from `layout.tensor_specs`.
        stored: Name -> anything with a shape.

    Returns:
        The report; what has another shape is under `mismatched` and not under `found`.
    """
    specs = list(specs)
    report = match_names(specs, stored)
    for spec in specs:
        if spec.name in report.found:
            shape = tuple(stored[report.found[spec.name]].shape)
            if shape != spec.shape:
                report.mismatched.append((spec.name, shape, spec.shape))
                del report.found[spec.name]
    return report


def take_tied(specs: Sequence[TensorSpec], report: LoadReport, stored: Mapping[str, _HasShape]) -> None:
    """Use the head of a file for the embeddings where the file has only the head."""
    shapes = {spec.name: spec.shape for spec in specs}
    for spec in specs:
        if spec.name not in report.tied or spec.tied_to not in report.missing:
            continue
        if tuple(stored[report.tied[spec.name]].shape) == shapes[spec.tied_to]:
            report.missing.remove(spec.tied_to)
            report.found[spec.tied_to] = report.tied.pop(spec.name)


def refuse_missing(
    class_name: str, missing: Iterable[str], config: GPT2Config, *, prefix: str, way_out: str
) -> None:
    """Refuse a file that lacks weights of the body: random ones in their place would be silently wrong.

    Args:
        class_name: The class of the model.
        missing: Names that the file does not have; heads and cross-attention may be among them.
        config: The model's configuration.
        prefix: What the model puts before the names of its body.
        way_out: How to get random weights nevertheless.

    Raises:
        CheckpointError: A weight of the body is missing.
    """
    body = {prefix + spec.name for spec in tensor_specs(config, head="none")}
    lacking = [name for name in missing if name in body and not _MAY_START_FRESH.search(name)]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise CheckpointError(
            f"The weights lack {lacking[0]}{more}, without which {class_name} computes nothing sensible. Use "
            f"a complete file and its own configuration; {way_out}."
        )


def check_tied(specs: Iterable[TensorSpec], checkpoint: Checkpoint, report: LoadReport) -> None:
    """Refuse a file whose tied tensors differ: loading one for both would be silently wrong.

    Raises:
        CheckpointError: The configuration ties what the file holds as two.
    """
    for spec in specs:
        if spec.name not in report.tied or spec.tied_to not in report.found:
            continue
        if not _are_equal(checkpoint, report.tied[spec.name], report.found[spec.tied_to]):
            raise CheckpointError(
                f"The configuration ties {spec.name} to {spec.tied_to}, but in the file the two differ. "
                "Pass tie_word_embeddings=False to keep both."
            )


def _are_equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Compare two tensors piece by piece, so that a large one is never in memory whole."""
    if checkpoint[first].shape != checkpoint[second].shape:
        return False
    if checkpoint[first].dtype != checkpoint[second].dtype:
        return np.array_equal(checkpoint.numpy(first), checkpoint.numpy(second), equal_nan=True)
    size = checkpoint[first].nbytes
    for offset in range(0, size, _PIECE):
        piece, other = (np.empty(min(_PIECE, size - offset), np.uint8) for _ in range(2))
        checkpoint.read_into(first, piece, offset)
        checkpoint.read_into(second, other, offset)
        if not np.array_equal(piece, other):
            return False
    return True
