"""The configuration of a model: `GPT2Config`, what it may hold, and `AutoConfig`, which finds it."""

from __future__ import annotations

from gpt2kit.config.auto import AutoConfig
from gpt2kit.config.base import CONFIG_NAME
from gpt2kit.config.checks import ACTIVATIONS, DTYPES
from gpt2kit.config.gpt2 import GPT2Config

__all__ = ["ACTIVATIONS", "CONFIG_NAME", "DTYPES", "AutoConfig", "GPT2Config"]
