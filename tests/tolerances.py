"""How far two computations of the same thing may lie apart, each with its reason.

A tolerance was measured: the largest error over the cases and seeds of the tests that use it, times ten. It is
taken absolutely and relatively at once (|a - b| <= t + t |b|), since the tiny models compute numbers of order 1.
"""

from __future__ import annotations

__all__ = ["GOLDEN", "GRADIENT", "REFERENCE"]

# By dtype of the room: logits, hidden states, attentions and caches, against goldens of transformers 4.34.0.
GOLDEN = {
    "float64": 1e-10,
    "float32": 1e-3,
}
# By dtype: products of each gradient with random vectors, relative to the largest of its parameter.
GRADIENT = {
    "float64": 1e-10,
    "float32": 1e-3,
}
# By dtype: any output, against gpt2kit/reference.py in float64, on random configurations.
REFERENCE = {
    "float64": 1e-10,
    "float32": 1e-3,
}
