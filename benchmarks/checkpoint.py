"""A random GPT-2 of the size of the released one, for measuring; made once and kept under build/, out of git.

The weights are drawn, not trained: how long a product takes does not depend on its numbers, and nothing has
to be downloaded. The files are those of a released checkpoint, so that every library reads them.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "benchmarks"

SIZES = {
    "124M": {"n_embd": 768, "n_head": 12, "n_layer": 12},
    "355M": {"n_embd": 1024, "n_head": 16, "n_layer": 24},
    "1M": {"n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 8192},  # to try a benchmark out
}


def random_checkpoint(size: str = "124M") -> Path:
    """Return the folder of a random checkpoint, made first if it is not there."""
    folder = FOLDER / f"gpt2-{size}-random"
    if not (folder / "config.json").exists():
        print(f"Drawing {folder.relative_to(ROOT)} ...", file=sys.stderr)
        folder.mkdir(parents=True, exist_ok=True)
        config = config_of(size)
        aside = folder / f"model.{os.getpid()}.safetensors"
        save_file(draw_weights(config), aside, metadata={"format": "pt"})
        aside.replace(folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def config_of(size: str) -> dict[str, object]:
    """Return config.json. No end-of-text token, so that a generation has the length that was asked for."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_ctx": 1024,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
        **SIZES[size],
    }


def draw_weights(config: dict[str, object]) -> dict[str, np.ndarray]:
    """Draw every tensor under the name and in the shape of the released file."""
    width, layers, vocabulary, positions = (
        int(str(config[key])) for key in ("n_embd", "n_layer", "vocab_size", "n_positions")
    )
    generator = np.random.default_rng(2019)

    def normal(*shape: int, deviation: float = 0.02) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32) * np.float32(deviation)

    # Larger than GPT-2's own, or each token would only repeat itself, and equal tokens would prove little.
    residual = 0.4 / math.sqrt(2 * layers)
    weights = {"wte.weight": normal(vocabulary, width), "wpe.weight": normal(positions, width)}
    for layer in range(layers):
        block = f"h.{layer}."
        for norm in ("ln_1", "ln_2"):
            weights[f"{block}{norm}.weight"] = 1 + normal(width)
            weights[f"{block}{norm}.bias"] = normal(width)
        for name, inner, outer, deviation in (
            ("attn.c_attn", width, 3 * width, 0.02),
            ("attn.c_proj", width, width, residual),
            ("mlp.c_fc", width, 4 * width, 0.02),
            ("mlp.c_proj", 4 * width, width, residual),
        ):
            weights[f"{block}{name}.weight"] = normal(inner, outer, deviation=deviation)
            weights[f"{block}{name}.bias"] = normal(outer)
    weights["ln_f.weight"] = 1 + normal(width)
    weights["ln_f.bias"] = normal(width)
    return weights


if __name__ == "__main__":
    print(random_checkpoint(*sys.argv[1:]))
