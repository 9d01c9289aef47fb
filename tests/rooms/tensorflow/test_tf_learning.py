"""A step of training in TensorFlow: loss, gradient, clipping, AdamW, checkpointing, replicas."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import keras
import tensorflow as tf

from gpt2kit import GPT2Config, TFGPT2LMHeadModel
from gpt2kit.errors import InputError, LengthError
from gpt2kit.tensorflow.loss import next_token_loss
from gpt2kit.tensorflow.optimizer import AdamW, make_optimizer
from gpt2kit.tensorflow.training import gradient_norm, make_sum_of_losses, make_train_step
from gpt2kit.training import TrainingConfig

SIZES = {"vocab_size": 101, "n_positions": 13, "n_embd": 33, "n_layer": 1, "n_head": 3}
STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
RATE = 0.125  # a number of every dtype
# Float64 sums in another order: 4e-16 was the largest difference, times 10 and a little.
EXACT = 1e-14
IDS = np.random.default_rng(7).integers(0, 101, (6, 12))  # [B, T + 1]
INPUTS, TARGETS = IDS[None, :, :-1], IDS[None, :, 1:]  # [1, B, T] both


def build(dtype: str = "float64", **settings: Any) -> Any:
    """Make a model of random weights, biases included, that are the same each time."""
    config = GPT2Config(**{**SIZES, **STILL, **settings})
    model, generator = TFGPT2LMHeadModel(config, dtype=dtype), np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(0, 0.2, variable.shape) + ("/ln_" in variable.path))
    return model


def weights(model: Any) -> list[Any]:
    return [variable.numpy() for variable in model.trainable_variables]


def step_once(model: Any, inputs: Any, targets: Any, optimizer: Any = None, **settings: Any) -> Any:
    """Take one step; by plain descent, so that the weights tell the gradient."""
    step = make_train_step(model, optimizer or keras.optimizers.SGD(RATE), **settings)
    return step(tf.constant(inputs), tf.constant(targets))


def equal(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=EXACT)


@pytest.fixture(scope="module")
def expected() -> Any:
    """Loss and gradient of the model's own call, and what they are gradients of."""
    model = build()
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        loss = next_token_loss(model(IDS).logits, tf.constant(IDS))[0]
    gradient = [tf.convert_to_tensor(leaf).numpy() for leaf in tape.gradient(loss, variables)]
    return float(loss), gradient, weights(model)


def descended(expected: Any, scale: float = 1.0) -> list[Any]:
    return [leaf - RATE * scale * slope for leaf, slope in zip(expected[2], expected[1], strict=True)]


def norm_of(leaves: list[Any]) -> float:
    return float(np.sqrt(sum((leaf**2).sum() for leaf in leaves)))


@pytest.mark.parametrize(("A", "size"), [(1, 0), (1, 29), (3, 1), (2, 12)])
def test_portions_and_chunks_give_the_loss_and_gradient_of_the_model(
    expected: Any, A: int, size: int
) -> None:
    model, shape = build(), (A, 6 // A, 11)
    inputs, targets = INPUTS.reshape(shape), TARGETS.reshape(shape)  # [A, B, T]
    measures = step_once(model, inputs, targets, loss_chunk_size=size)
    np.testing.assert_allclose(measures.loss, expected[0], rtol=EXACT)
    np.testing.assert_allclose(measures.gradient_norm, norm_of(expected[1]), rtol=EXACT)
    equal(weights(model), descended(expected))


def test_a_traced_step_of_any_number_of_portions_is_the_eager_one(expected: Any) -> None:
    model = build()
    step = make_train_step(model, keras.optimizers.SGD(RATE), loss_chunk_size=12)
    kind = tf.TensorSpec([None, None, None], tf.int64)
    traced = tf.function(step, autograph=False, input_signature=[kind, kind])
    measures = traced(INPUTS.reshape(3, 2, 11), TARGETS.reshape(3, 2, 11))
    np.testing.assert_allclose(measures.loss, expected[0], rtol=EXACT)
    equal(weights(model), descended(expected))
    assert np.isfinite(traced(INPUTS, TARGETS).loss)
    assert traced.experimental_get_tracing_count() == 1


def test_the_gradient_is_clipped_and_its_norm_before_is_told(expected: Any) -> None:
    model, norm = build(), norm_of(expected[1])
    assert norm > 0.3
    measures = step_once(model, INPUTS, TARGETS, clip=0.25)
    np.testing.assert_allclose(measures.gradient_norm, norm, rtol=EXACT)
    equal(weights(model), descended(expected, 0.25 / (norm + 1e-6)))


def test_targets_that_are_ignored_count_nowhere() -> None:
    model, targets = build(), TARGETS.reshape(2, 3, 11).copy()  # [A, B, T]
    targets[1, 1:], targets[0, 2, 4:] = -100, -100
    logits = model(INPUTS[0]).logits  # [A*B, T, V]
    log_p = tf.nn.log_softmax(logits).numpy().reshape(2, 3, 11, 101)  # [A, B, T, V]
    counted = [log_p[place][target] for place, target in np.ndenumerate(targets) if target != -100]
    measures = step_once(model, INPUTS.reshape(2, 3, 11), targets, loss_chunk_size=12)
    np.testing.assert_allclose(measures.loss, -np.mean(counted), rtol=EXACT)


def test_a_step_that_is_no_number_changes_nothing() -> None:
    model = build()
    before = weights(model)
    for wrong in (-100, None):
        if wrong is None:
            model.transformer.ln_f.weight.assign(np.full(33, np.inf))
            before = weights(model)
        optimizer = make_optimizer(TrainingConfig())
        targets = TARGETS if wrong is None else np.full_like(TARGETS, wrong)
        measures = step_once(model, INPUTS, targets, optimizer, clip=1.0)
        assert not np.isfinite(measures.loss)
        for one, other in zip(weights(model), before, strict=True):
            np.testing.assert_array_equal(one, other)
        assert int(optimizer.iterations) == 0
        assert not any(np.any(average) for each in optimizer.averages.values() for average in each)


def test_dropout_draws_anew_in_every_portion_and_step() -> None:
    model = build(resid_pdrop=0.3)
    twice = np.concatenate([INPUTS] * 2), np.concatenate([TARGETS] * 2)  # [A, B, T] both
    step = make_train_step(model, keras.optimizers.SGD(0.0))
    seeds = [each for each in model.variables if each.path.endswith("seed_generator_state")]
    before = [each.numpy() for each in seeds]
    losses = [float(step(*map(tf.constant, twice)).loss) for _ in range(2)]
    assert losses[0] != losses[1]
    for each, value in zip(seeds, before, strict=True):
        each.assign(value)
    single = make_sum_of_losses(model)
    parts = [float(single(INPUTS[0], TARGETS[0], training=True)) for _ in range(2)]
    assert parts[0] != parts[1]
    np.testing.assert_allclose(losses[0], sum(parts) / (2 * 66), rtol=EXACT)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_no_number(dropout: float, traced: bool) -> None:
    found = []
    for saving in (False, True):
        model = build(resid_pdrop=dropout, attn_pdrop=dropout, embd_pdrop=dropout, n_layer=2)
        for each in model.variables:
            if each.path.endswith("seed_generator_state"):
                each.assign(np.array([11, 0], each.dtype))
        if saving:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        step = make_train_step(model, keras.optimizers.SGD(RATE))
        step = tf.function(step, autograph=False) if traced else step
        measures = [step(tf.constant(INPUTS), tf.constant(TARGETS)) for _ in range(2)]
        found.append([*(float(number) for pair in measures for number in pair), *weights(model)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=EXACT)


def test_adamw_is_its_formula_in_float64() -> None:
    config = TrainingConfig(weight_decay=0.3, beta1=0.83, beta2=0.91, epsilon=1e-3)
    optimizer, generator = make_optimizer(config), np.random.default_rng(3)
    x = [generator.normal(size=(3, 5)), generator.normal(size=7)]
    variables = [keras.Variable(each, dtype="float64") for each in x]
    optimizer.build(variables)
    optimizer.learning_rate = RATE
    m, v = ([np.zeros_like(each) for each in x] for _ in range(2))
    for t in range(1, 6):
        slopes = [generator.normal(size=each.shape) for each in x]
        optimizer.apply([tf.constant(slope) for slope in slopes])
        for at, slope in enumerate(slopes):
            x[at] = x[at] * (1 - RATE * 0.3) if x[at].ndim == 2 else x[at]
            m[at], v[at] = 0.83 * m[at] + 0.17 * slope, 0.91 * v[at] + 0.09 * slope**2
            x[at] = x[at] - RATE * (m[at] / (1 - 0.83**t)) / (np.sqrt(v[at] / (1 - 0.91**t)) + 1e-3)
            np.testing.assert_allclose(variables[at], x[at], rtol=0, atol=EXACT)


def test_adamw_comes_back_from_its_configuration() -> None:
    optimizer = AdamW(0.25, weight_decay=0.5, beta_1=0.75, epsilon=0.125, clipnorm=2.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is AdamW
    assert again.get_config() == optimizer.get_config()


def test_weight_decay_is_on_matrices_that_texts_can_teach() -> None:
    model = build("float32", add_cross_attention=True)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer = make_optimizer(TrainingConfig(learning_rate=0.5, weight_decay=0.5))
    step_once(model, INPUTS, TARGETS, optimizer)
    for variable in model.trainable_variables:
        taught = "crossattention" not in variable.path and "ln_cross" not in variable.path
        moved = variable.numpy() != 1
        assert taught or not moved.any(), variable.path
    other = build("float32", add_cross_attention=True)
    optimizer = make_optimizer(TrainingConfig(learning_rate=0.5, weight_decay=0.5))
    optimizer.build(other.trainable_variables)
    before = weights(other)
    optimizer.apply([tf.zeros(each.shape) for each in other.trainable_variables])
    for variable, value in zip(other.trainable_variables, before, strict=True):
        scale = 0.75 if len(variable.shape) == 2 else 1.0
        np.testing.assert_allclose(variable, value * scale, rtol=1e-6, err_msg=variable.path)


def test_a_new_learning_rate_traces_nothing() -> None:
    model, optimizer = build(), make_optimizer(TrainingConfig(epsilon=1e-3))
    step = tf.function(make_train_step(model, optimizer), autograph=False)
    seen = weights(model)
    for rate in (0.0, RATE):
        optimizer.learning_rate = rate
        step(tf.constant(INPUTS), tf.constant(TARGETS))
        same = all(np.array_equal(one, other) for one, other in zip(weights(model), seen, strict=True))
        assert same == (rate == 0)
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("dtype", "size", "value"),
    [(tf.float16, 1000, 10.0), (tf.float16, 1000, 1e-4), (tf.bfloat16, 7, 0.3), (tf.float32, 7, 0.3)],
)
def test_the_norm_of_a_gradient_of_any_dtype_is_that_of_float32(dtype: Any, size: int, value: float) -> None:
    leaves = [tf.fill([size], tf.constant(value, dtype)) for _ in range(300)]
    found = gradient_norm(leaves)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, np.sqrt(300 * size) * float(leaves[0][0]), rtol=1e-6)


def test_what_no_step_can_compute_is_refused() -> None:
    model = build()
    with pytest.raises(InputError, match=r"one shape \[A, B, T\], got \(6, 11\) and \(6, 11\).*ids\[None\]"):
        step_once(model, INPUTS[0], TARGETS[0])
    with pytest.raises(InputError, match="should be whole numbers, but they are float32 and int64"):
        step_once(model, INPUTS.astype(np.float32), TARGETS)
    long = np.zeros((1, 2, 14), int)
    with pytest.raises(LengthError, match=r"14.*n_positions.*13"):
        step_once(model, long, long)
    for name in ("clip", "loss_chunk_size"):
        with pytest.raises(InputError, match=f"{name} should be 0 or more, but it is -1"):
            make_train_step(model, keras.optimizers.SGD(RATE), **{name: -1})
    model.trainable = False
    with pytest.raises(InputError, match="nothing to train"):
        make_train_step(model, keras.optimizers.SGD(RATE))
    with pytest.raises(InputError, match="knows no amsgrad"):
        AdamW(amsgrad=True)
    with pytest.raises(InputError, match=r"float32 or float64, but .* is bfloat16.*mixed_bfloat16"):
        make_train_step(build("bfloat16"), make_optimizer(TrainingConfig()))


ON_TWO_DEVICES = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from gpt2kit import GPT2Config, TFGPT2LMHeadModel
from gpt2kit.errors import InputError
from gpt2kit.tensorflow.optimizer import make_optimizer
from gpt2kit.tensorflow.training import make_train_step
from gpt2kit.training import TrainingConfig

config = GPT2Config(
    vocab_size=101, n_positions=13, n_embd=33, n_layer=1, n_head=3, bos_token_id=0, eos_token_id=0,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)
settings = TrainingConfig(learning_rate=0.03125, weight_decay=0.5, epsilon=1e-3)
given = {"clip": 0.5, "loss_chunk_size": 7}
ids = np.random.default_rng(3).integers(0, 101, (2, 6, 12))  # [A, B, T + 1]
inputs, targets = ids[..., :-1], ids[..., 1:].copy()
targets[0, :4] = -100  # so that the replicas count different numbers of tokens
single, alone = TFGPT2LMHeadModel(config, dtype="float64"), make_optimizer(settings)
one = tf.function(make_train_step(single, alone, **given), autograph=False)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    both = TFGPT2LMHeadModel(config, dtype="float64")
    shared = make_optimizer(settings)
    step = make_train_step(both, shared, **given)
    try:
        step(tf.constant(inputs), tf.constant(targets))
    except InputError as error:
        print(error)
both.set_weights(single.get_weights())
run = tf.function(lambda inputs, targets: strategy.run(step, args=(inputs, targets)), autograph=False)
def share(whole):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(whole, 2, axis=1)[context.replica_id_in_sync_group])
    )
for number in range(4):
    if number == 3:
        targets = np.full_like(targets, -100)  # no number: nothing is updated
    expected, found = one(tf.constant(inputs), tf.constant(targets)), run(share(inputs), share(targets))
    for wanted, told in zip(expected, found):
        for each in strategy.experimental_local_results(told):
            np.testing.assert_allclose(each, wanted, rtol=1e-13)
    assert np.isfinite(expected.loss) == (number < 3)
for mine, other in zip(single.trainable_variables, both.trainable_variables, strict=True):
    for each in strategy.experimental_local_results(other.value):
        np.testing.assert_allclose(each, mine, rtol=0, atol=1e-12, err_msg=mine.path)
assert int(alone.iterations.numpy()) == int(shared.iterations.numpy()) == 3
print(strategy.num_replicas_in_sync, "replicas agree")
"""


def test_the_step_of_two_replicas_is_that_of_one_device() -> None:
    done = subprocess.run([sys.executable, "-c", ON_TWO_DEVICES], capture_output=True, text=True, check=False)
    refused = "A step within strategy.scope() is run by the strategy: strategy.run(step, ...)."
    assert done.stdout == f"{refused}\n2 replicas agree\n", done.stderr
