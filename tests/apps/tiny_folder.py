"""A model folder that is quick to make: prime sizes, random weights, one token for each byte."""

from __future__ import annotations

import json
from pathlib import Path

from gpt2kit.tokenization.bytes import BYTE_TO_CHAR

EOS = 256
SIZES = {"vocab_size": 257, "n_positions": 61, "n_embd": 33, "n_layer": 3, "n_head": 3}


def make_folder(folder: Path, **config_values) -> Path:
    """Write config, weights, generation config and tokenizer into a folder."""
    import torch

    from gpt2kit import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(**{**SIZES, "bos_token_id": EOS, "eos_token_id": EOS, **config_values})
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            else:
                parameter.mul_(5.0)  # far from uniform, so that greedy choices are clear
    model.save_pretrained(folder)
    vocabulary = {
        **{character: number for number, character in enumerate(BYTE_TO_CHAR.values())},
        "<|endoftext|>": EOS,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return folder
