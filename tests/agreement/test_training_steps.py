"""Five steps from the same weights on the same tokens: every framework learns the same as PyTorch."""

from __future__ import annotations

import importlib
import importlib.util

import numpy as np
import pytest

pytest.importorskip("torch", reason="the steps of PyTorch are those that the others are held to")

import torch
from safetensors.numpy import load_file

from compiled import compiled_once
from gpt2kit.torch.training import Trainer as TorchTrainer
from gpt2kit.training import Metrics, Observer, TrainingConfig, learning_rate, start

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
LIBRARY = {"flax": "jax", "tensorflow": "tensorflow"}
OTHERS = [
    pytest.param(
        framework,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(library) is None, reason=f"{library} is not installed"
        ),
    )
    for framework, library in LIBRARY.items()
]


@pytest.fixture(scope="module", autouse=True)
def keep_programs(tmp_path_factory):
    if importlib.util.find_spec("jax") is None:
        yield
        return
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


@pytest.fixture(scope="module")
def in_float32(folder):
    """The folder of a run in PyTorch."""
    assert TorchTrainer(make(folder, "torch")).fit()
    return folder / "torch"


@pytest.fixture(scope="module")
def in_float64(folder):
    """What PyTorch does in each step: the record, and the weights after it."""
    steps = []

    class Keep(Observer):
        def stepped(self, record):
            weights = trainer.model.state_dict().items()
            steps.append((record, {name: tensor.numpy().copy() for name, tensor in weights}))

    trainer = TorchTrainer(make(folder, "torch-float64"), Keep())
    trainer.model.double()
    assert trainer.fit()
    return steps


def numbers(folder):
    """Losses and norms of a run, in their order."""
    names = ("loss", "gradient_norm", "learning_rate", "eval_loss", "eval_bits_per_byte")
    return [
        record[name] for record in Metrics.read(folder / "metrics.jsonl") for name in names if name in record
    ]


@pytest.mark.parametrize("framework", OTHERS)
def test_the_trainers_agree_in_float32(folder, in_float32, framework):
    trainer = importlib.import_module(f"gpt2kit.{framework}.training").Trainer
    assert trainer(make(folder, framework, framework=framework)).fit()
    found, expected = numbers(folder / framework), numbers(in_float32)
    assert len(expected) == 5 * 3 + 3 * 2
    norms = [r["gradient_norm"] for r in Metrics.read(in_float32 / "metrics.jsonl") if "loss" in r]
    assert max(norms) > SETTINGS["clip"]  # so that it counts
    np.testing.assert_allclose(found, expected, rtol=CLOSE)
    for name in ("last", "best"):
        weights = load_file(in_float32 / name / "model.safetensors")
        others = load_file(folder / framework / name / "model.safetensors")
        assert weights.keys() == others.keys()
        for key, tensor in weights.items():
            if key.endswith("attn.c_attn.bias"):
                tensor, others[key] = np.delete(tensor, KEYS), np.delete(others[key], KEYS)
            np.testing.assert_allclose(others[key], tensor, atol=CLOSE_WEIGHTS, err_msg=key)


def flax_steps(run, folder):
    """Do the steps of a run in float64; yield loss, norm and weights after each."""
    import jax
    import jax.numpy as jnp

    from gpt2kit import FlaxGPT2LMHeadModel
    from gpt2kit.flax.training import TrainState, make_optimizer, make_train_step

    with jax.enable_x64(True):
        model, drawn = FlaxGPT2LMHeadModel.from_pretrained(
            folder, dtype=jnp.float64, _do_init=False, **run.config.dropouts()
        )
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), drawn)
        optimizer = make_optimizer(run.config)
        state = TrainState(params, optimizer.init(params), jax.random.PRNGKey(0))
        settings = {"loss_chunk_size": SETTINGS["loss_chunk_size"]}
        step = jax.jit(make_train_step(model, optimizer, clip=SETTINGS["clip"], **settings), donate_argnums=0)
        for inputs, targets, rate in batches(run):
            state.optimizer.hyperparams["learning_rate"] = jnp.asarray(rate)
            state, measures = step(state, inputs, targets)
            model.save_pretrained(folder / "flax-float64", params=state.params)
            yield *map(float, measures), load_file(folder / "flax-float64" / "model.safetensors")


def tensorflow_steps(run, folder):
    """Do the steps of a run in float64; yield loss, norm and weights after each."""
    import keras
    import tensorflow as tf

    from gpt2kit import TFGPT2LMHeadModel
    from gpt2kit.tensorflow.optimizer import make_optimizer
    from gpt2kit.tensorflow.training import make_train_step
    from gpt2kit.tensorflow.weights import table_of

    keras.config.set_floatx("float64")  # of the learning rate
    try:
        model = TFGPT2LMHeadModel.from_pretrained(folder, dtype="float64", **run.config.dropouts())
        optimizer = make_optimizer(run.config)
        settings = {"loss_chunk_size": SETTINGS["loss_chunk_size"]}
        step = tf.function(
            make_train_step(model, optimizer, clip=SETTINGS["clip"], **settings), autograph=False
        )
        for inputs, targets, rate in batches(run):
            optimizer.learning_rate = rate
            measures = step(tf.constant(inputs), tf.constant(targets))
            weights = {name: variable.numpy() for name, variable in table_of(model)[1].items()}
            yield *map(float, measures), weights
    finally:
        keras.config.set_floatx("float32")


def batches(run):
    """The arrays of each step, [A, B, T], and its learning rate."""
    for number in range(run.steps):
        portions = [run.data.train.blocks(run.order.starts(number, micro), 11) for micro in range(2)]
        yield *map(np.stack, zip(*portions, strict=True)), learning_rate(run.config, number, run.steps)


@pytest.mark.parametrize("framework", OTHERS)
def test_the_steps_agree_in_float64(folder, in_float64, framework):
    steps = {"flax": flax_steps, "tensorflow": tensorflow_steps}[framework]
    found = steps(make(folder, f"{framework}-float64"), folder)
    for (record, expected), (loss, norm, weights) in zip(in_float64, found, strict=True):
        np.testing.assert_allclose(loss, record["loss"], rtol=EXACT)
        np.testing.assert_allclose(norm, record["gradient_norm"], rtol=EXACT)
        assert weights.keys() == expected.keys() - {"lm_head.weight"}
        for key, tensor in weights.items():
            np.testing.assert_allclose(tensor, expected[key], atol=EXACT, rtol=0, err_msg=key)
