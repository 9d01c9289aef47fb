"""How far two computations of the same thing may lie apart, each with its reason.

A tolerance was measured: the largest error over the cases and seeds of the tests that use it, times ten.
It is taken absolutely and relatively at once, |a - b| <= t + t |b|; tiny models compute numbers of order 1.
"""

from __future__ import annotations

__all__ = ["GOLDEN", "GRADIENT", "REFERENCE"]

# By dtype: any output against goldens of transformers 4.34.0. Measured 2.6e-12 and 9.0e-6. In float64 all of
# it comes from gelu_fast, whose sqrt(2 / pi) 4.34 writes with ten digits; the other cases agree to 8e-15.
GOLDEN = {"float64": 3e-11, "float32": 1e-4}
# By dtype: products of each gradient with random vectors, relative to the largest of its parameter, against
# goldens of transformers 4.34.0. Measured 8.8e-13 (gelu_fast again) and 7.5e-6.
GRADIENT = {"float64": 1e-11, "float32": 1e-4}
# By dtype: any output on random configurations, against gpt2kit/reference.py in float64. Measured over 1,200
# of them 4.1e-12 (gelu_fast) and 6.1e-5: layer norms of three numbers enlarge what is left of float32.
REFERENCE = {"float64": 5e-11, "float32": 6e-4}
