"""A model folder made quickly and without a framework: prime sizes, random weights, a token for each byte."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from gpt2kit.checkpoint import save_safetensors, tensor_specs
from gpt2kit.config import GPT2Config
from gpt2kit.generation import GenerationConfig
from gpt2kit.tokenization.bytes import BYTE_TO_CHAR

EOS = 256
SIZES = {"vocab_size": 257, "n_positions": 61, "n_embd": 33, "n_layer": 3, "n_head": 3}


def make_folder(folder: Path, **config_values: Any) -> Path:
    """Write config, weights, generation config and tokenizer into a folder."""
    config = GPT2Config(**{**SIZES, "bos_token_id": EOS, "eos_token_id": EOS, **config_values})
    config.architectures, config.torch_dtype = ["GPT2LMHeadModel"], "float32"
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    save_safetensors(folder, weights_of(config))
    vocabulary = {
        **{character: number for number, character in enumerate(BYTE_TO_CHAR.values())},
        "<|endoftext|>": EOS,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return folder


def weights_of(config: GPT2Config) -> dict[str, np.ndarray[Any, Any]]:
    """Draw weights five times as large as fresh ones, far from uniform, so that greedy choices are clear."""
    generator = np.random.default_rng(10)
    tensors = {}
    for spec in tensor_specs(config, head="lm"):
        if spec.tied_to is not None:
            continue
        scale = math.sqrt(2 * config.n_layer) if spec.name.endswith("c_proj.weight") else 1.0
        noise = generator.normal(scale=0.1 / scale, size=spec.shape)
        values = np.full(spec.shape, 5.0) if spec.role == "norm_weight" else noise
        tensors[spec.name] = values.astype(np.float32)
    return tensors
