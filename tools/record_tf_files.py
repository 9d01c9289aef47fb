"""Record what transformers 4.34.0's TensorFlow models save, for tests of who reads and writes tf_model.h5.

    python tools/record_tf_files.py tests/golden      where transformers 4.34.0 and its TensorFlow are

Written are, below tf_files/, folders as `save_pretrained` leaves them, and the numbers that the models
compute of `input_ids`:

    whole     TFGPT2LMHeadModel, one file
    shards    the same class with another n_inner, several files with an index
    body      TFGPT2Model with cross-attention, one file
    double    TFGPT2DoubleHeadsModel, one file
    labels    TFGPT2ForSequenceClassification, several files with an index
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import transformers
from transformers import (
    GPT2Config,
    TFGPT2DoubleHeadsModel,
    TFGPT2ForSequenceClassification,
    TFGPT2LMHeadModel,
    TFGPT2Model,
)

assert transformers.__version__ == "4.34.0", transformers.__version__

SIZES = {"vocab_size": 29, "n_positions": 11, "n_embd": 10, "n_layer": 2, "n_head": 2}
TOKENS = {"bos_token_id": 23, "eos_token_id": 23, "pad_token_id": 0}
IDS = np.array([[2, 3, 5, 7, 11], [13, 17, 19, 22, 28]], np.int32)
STATES = np.random.default_rng(3).normal(size=(2, 7, 10)).astype(np.float32)  # [B, E, D]


def main(folder: Path) -> None:
    """Write the folders and what their models compute."""
    whole = model_of(TFGPT2LMHeadModel, seed=5)
    whole.save_pretrained(folder / "whole")
    shards = model_of(TFGPT2LMHeadModel, seed=7, n_inner=13)
    shards.save_pretrained(folder / "shards", max_shard_size="3KB")
    body = model_of(TFGPT2Model, seed=11, add_cross_attention=True, n_layer=1)
    body.save_pretrained(folder / "body")
    double = model_of(TFGPT2DoubleHeadsModel, seed=13, n_layer=1)
    double.save_pretrained(folder / "double")
    labels = model_of(TFGPT2ForSequenceClassification, seed=17, n_layer=1, num_labels=3)
    labels.save_pretrained(folder / "labels", max_shard_size="3KB")
    two = double(IDS[:, None], mc_token_ids=tf.constant([[4], [2]]))
    np.savez(
        folder / "computed.npz",
        input_ids=IDS,
        encoder_hidden_states=STATES,
        whole=whole(IDS).logits,
        shards=shards(IDS).logits,
        body=body(IDS, encoder_hidden_states=STATES).last_hidden_state,
        double=two.logits,
        double_mc=two.mc_logits,
        labels=labels(IDS).logits,
    )


def model_of(cls: type, seed: int, **changes: object) -> object:
    """Make a model whose biases are away from 0 and whose norms are away from 1."""
    model = cls(GPT2Config(**{**SIZES, **TOKENS, **changes}))
    model.build()
    generator = np.random.default_rng(seed)
    for weight in sorted(model.weights, key=lambda weight: weight.name.split("/", 1)[1]):
        drawn = 0.3 * generator.normal(size=weight.shape) + weight.name.endswith("gamma:0")
        weight.assign(drawn.astype(np.float32))
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "tf_files")
