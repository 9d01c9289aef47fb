"""Weights on disk, without a framework: the table of tensors, reading, checking and writing."""

from __future__ import annotations

from gpt2kit.checkpoint.check import (
    LoadReport,
    check_tied,
    compare,
    match_names,
    refuse_missing,
    take_tied,
)
from gpt2kit.checkpoint.formats import RawTensor, StoredTensor, copy_transposed
from gpt2kit.checkpoint.layout import HEADS, Head, TensorSpec, head_of, parameter_counts, tensor_specs
from gpt2kit.checkpoint.read import Checkpoint, open_checkpoint
from gpt2kit.checkpoint.write import save_flax, save_safetensors, save_shards, save_tf

__all__ = [
    "HEADS",
    "Checkpoint",
    "Head",
    "LoadReport",
    "RawTensor",
    "StoredTensor",
    "TensorSpec",
    "check_tied",
    "compare",
    "copy_transposed",
    "head_of",
    "match_names",
    "open_checkpoint",
    "parameter_counts",
    "refuse_missing",
    "save_flax",
    "save_safetensors",
    "save_shards",
    "save_tf",
    "take_tied",
    "tensor_specs",
]
