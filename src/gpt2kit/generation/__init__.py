"""Decisions of a generation as data: options, rules, plan and streamers. No tensors, no framework."""

from __future__ import annotations

from gpt2kit.generation.config import GENERATION_CONFIG_NAME, GenerationConfig
from gpt2kit.generation.constraints import (
    Constraint,
    ConstraintListState,
    DisjunctiveConstraint,
    PhrasalConstraint,
)
from gpt2kit.generation.mode import GenerationMode
from gpt2kit.generation.plan import GenerationPlan, make_plan
from gpt2kit.generation.streamers import (
    AsyncTextIteratorStreamer,
    BaseStreamer,
    TextIteratorStreamer,
    TextStreamer,
)

__all__ = [
    "GENERATION_CONFIG_NAME",
    "AsyncTextIteratorStreamer",
    "BaseStreamer",
    "Constraint",
    "ConstraintListState",
    "DisjunctiveConstraint",
    "GenerationConfig",
    "GenerationMode",
    "GenerationPlan",
    "PhrasalConstraint",
    "TextIteratorStreamer",
    "TextStreamer",
    "make_plan",
]
