"""Generation in PyTorch: rules, stops, and one loop for each way of decoding (docs/ARCHITECTURE.md)."""

from __future__ import annotations

from gpt2kit.torch.generation.mixin import GenerationMixin, set_seed

__all__ = ["GenerationMixin", "set_seed"]
