"""Five steps from the same weights on the same tokens: PyTorch and Flax learn the same."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is one of the two")
pytest.importorskip("jax", reason="Flax is the other")

import jax
import jax.numpy as jnp
import torch
from safetensors.numpy import load_file

from compiled import compiled_once
from gpt2kit import FlaxGPT2LMHeadModel
from gpt2kit.flax.training import Trainer as FlaxTrainer
from gpt2kit.flax.training import TrainState, make_optimizer, make_train_step
from gpt2kit.torch.training import Trainer as TorchTrainer
from gpt2kit.training import Metrics, TrainingConfig, learning_rate, start

TEXT = "".join(
    f"Line {number} of the play: thou art number {number * number}, my lord.\n" for number in range(53)
)
SETTINGS = {
    "steps": 5,
    "batch_size": 3,
    "accumulation": 2,
    "block_size": 11,
    "dropout": 0.0,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "weight_decay": 0.3,
    "clip": 0.7,
    "loss_chunk_size": 7,
    "eval_every": 3,
}
# The biases of keys change no attention weight, so that their gradient is nothing but rounding, which AdamW
# makes larger: in float64 2e-12 was the largest difference, times 10; in float32 their digits say nothing.
EXACT = 2e-11
# Float32, times 10: 2e-7 of a loss or norm; 1e-5 of a weight, where five steps have changed it by 0.03.
CLOSE, CLOSE_WEIGHTS = 2e-6, 1e-4
KEYS = slice(33, 66)


@pytest.fixture(scope="module", autouse=True)
def keep_programs(tmp_path_factory):
    with compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts, and a model with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "play.txt").write_text(TEXT)
    sizes = {"vocab_size": 283, "n_layer": 2, "n_head": 3, "n_embd": 33, "n_positions": 13}
    drawn = TorchTrainer(start([folder / "play.txt"], folder / "run", TrainingConfig(**sizes, steps=1)))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in drawn.model.parameters():
            parameter.normal_(0, 0.2)
    drawn.model.save_pretrained(folder)
    drawn.tokenizer.save_pretrained(folder)
    return folder


def make(folder, name, **settings):
    config = TrainingConfig(model=str(folder), **{**SETTINGS, **settings})
    return start([folder / "play.txt"], folder / name, config)


def numbers(folder):
    """Losses and norms of a run, in their order."""
    names = ("loss", "gradient_norm", "learning_rate", "eval_loss", "eval_bits_per_byte")
    return [
        record[name] for record in Metrics.read(folder / "metrics.jsonl") for name in names if name in record
    ]


def test_the_trainers_agree_in_float32(folder):
    assert TorchTrainer(make(folder, "torch")).fit()
    assert FlaxTrainer(make(folder, "flax", framework="flax")).fit()
    found, expected = numbers(folder / "flax"), numbers(folder / "torch")
    assert len(expected) == 5 * 3 + 3 * 2
    norms = [r["gradient_norm"] for r in Metrics.read(folder / "torch" / "metrics.jsonl") if "loss" in r]
    assert max(norms) > SETTINGS["clip"]  # so that it counts
    np.testing.assert_allclose(found, expected, rtol=CLOSE)
    for name in ("last", "best"):
        weights = load_file(folder / "torch" / name / "model.safetensors")
        others = load_file(folder / "flax" / name / "model.safetensors")
        assert weights.keys() == others.keys()
        for key, tensor in weights.items():
            if key.endswith("attn.c_attn.bias"):
                tensor, others[key] = np.delete(tensor, KEYS), np.delete(others[key], KEYS)
            np.testing.assert_allclose(others[key], tensor, atol=CLOSE_WEIGHTS, err_msg=key)


def test_the_steps_agree_in_float64(folder):
    run = make(folder, "torch-float64")
    trainer = TorchTrainer(run)
    trainer.model.double()
    assert trainer.fit()
    expected = [record for record in Metrics.read(run.folder.metrics) if "loss" in record]
    with jax.enable_x64(True):
        model, drawn = FlaxGPT2LMHeadModel.from_pretrained(
            folder, dtype=jnp.float64, _do_init=False, **run.config.dropouts()
        )
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), drawn)
        optimizer = make_optimizer(run.config)
        state = TrainState(params, optimizer.init(params), jax.random.PRNGKey(0))
        settings = {"loss_chunk_size": SETTINGS["loss_chunk_size"]}
        step = jax.jit(make_train_step(model, optimizer, clip=SETTINGS["clip"], **settings), donate_argnums=0)
        for number, record in enumerate(expected):
            rate = learning_rate(run.config, number, run.steps)
            state.optimizer.hyperparams["learning_rate"] = jnp.asarray(rate)
            portions = [run.data.train.blocks(run.order.starts(number, micro), 11) for micro in range(2)]
            state, measures = step(state, *map(np.stack, zip(*portions, strict=True)))
            np.testing.assert_allclose(measures.loss, record["loss"], rtol=EXACT)
            np.testing.assert_allclose(measures.gradient_norm, record["gradient_norm"], rtol=EXACT)
        model.save_pretrained(folder / "flax-float64", params=state.params)
    weights = {name: tensor.numpy() for name, tensor in trainer.model.state_dict().items()}
    others = load_file(folder / "flax-float64" / "model.safetensors")
    for key, tensor in others.items():
        np.testing.assert_allclose(tensor, weights[key], atol=EXACT, err_msg=key)
