"""Let JAX compile quickly while a module of tests runs, and nothing twice.

Every new `jax.jit` compiles anew, however equal what it compiles, and a step of training takes seconds each
time. So programs are kept on disk, and LLVM is told not to look for the fastest machine code; what XLA makes
of the arithmetic stays the same. Tests of the command compile as users do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """Keep what is compiled inside this block in a folder."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    quick = {"jax_persistent_cache_min_compile_time_secs": 0.1, "jax_disable_most_optimizations": True}
    before = {name: jax.config.values[name] for name in quick}
    for name, value in quick.items():
        jax.config.update(name, value)
    compilation_cache.set_cache_dir(str(folder))
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.set_cache_dir(None)
        compilation_cache.reset_cache()
