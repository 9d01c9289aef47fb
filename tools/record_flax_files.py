"""Record what transformers 4.34.0's Flax models save, for tests of the reader and the writer of that format.

    python tools/record_flax_files.py tests/golden      where transformers 4.34.0 and its Flax are

Written are, below flax_files/, three folders as `save_pretrained` leaves them, of 20 kB each, and the numbers
that the models compute of `input_ids`:

    whole     float32, untied, one file
    shards    bfloat16 from a FrozenDict, tied, several files with an index
    body      FlaxGPT2Model with cross-attention, without a head and its prefix
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import transformers
from flax.core import freeze
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import FlaxGPT2LMHeadModel, FlaxGPT2Model, GPT2Config

assert transformers.__version__ == "4.34.0", transformers.__version__

SIZES = {"vocab_size": 29, "n_positions": 11, "n_embd": 10, "n_layer": 2, "n_head": 2}
TOKENS = {"bos_token_id": 23, "eos_token_id": 23}
IDS = np.array([[2, 3, 5, 7, 11], [13, 17, 19, 23, 28]])
STATES = np.random.default_rng(3).normal(size=(2, 7, 10)).astype(np.float32)  # [B, E, D]


def main(folder: Path) -> None:
    """Write the three folders and what their models compute."""
    whole = model_of(FlaxGPT2LMHeadModel, seed=5, tie_word_embeddings=False)
    whole.save_pretrained(folder / "whole")
    shards = model_of(FlaxGPT2LMHeadModel, seed=7)
    shards.params = shards.to_bf16(shards.params)
    shards.save_pretrained(folder / "shards", params=freeze(shards.params), max_shard_size="2KB")
    body = model_of(FlaxGPT2Model, seed=11, add_cross_attention=True)
    body.save_pretrained(folder / "body")
    np.savez(
        folder / "computed.npz",
        input_ids=IDS,
        encoder_hidden_states=STATES,
        whole=whole(IDS).logits,
        shards=shards(IDS).logits,
        body=body(IDS, encoder_hidden_states=STATES).last_hidden_state,
    )


def model_of(cls: type, seed: int, **changes: object) -> object:
    """Make a model whose biases are away from 0 and whose norms are away from 1."""
    model = cls(GPT2Config(**SIZES, **TOKENS, **changes))
    generator = np.random.default_rng(seed)
    drawn = {
        path: jnp.asarray(0.3 * generator.normal(size=leaf.shape) + (path[-1] == "scale"), jnp.float32)
        for path, leaf in sorted(flatten_dict(model.params).items())
    }
    model.params = unflatten_dict(drawn)
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "flax_files")
