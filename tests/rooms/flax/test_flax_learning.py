"""A step of training in JAX, as a function of arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compiled import compiled_once
from gpt2kit import FlaxGPT2LMHeadModel, GPT2Config
from gpt2kit.errors import InputError, LengthError
from gpt2kit.flax.loss import next_token_loss
from gpt2kit.flax.training import (
    TrainState,
    gradient_norm,
    make_optimizer,
    make_sum_of_losses,
    make_train_step,
)
from gpt2kit.training import TrainingConfig

SIZES = {"vocab_size": 101, "n_positions": 13, "n_embd": 33, "n_layer": 1, "n_head": 3}
RATE = 0.1
# Float64 sums in another order: 3e-16 was the largest difference, times 10 and a little.
EXACT = 1e-14


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    with compiled_once(tmp_path_factory.mktemp("programs")), jax.enable_x64(True):
        yield


def make_model(**settings):
    config = GPT2Config(**SIZES, initializer_range=0.2, **settings)
    return FlaxGPT2LMHeadModel(config, dtype=jnp.float64, _do_init=False)


@pytest.fixture(scope="module")
def model():
    return make_model(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


@pytest.fixture(scope="module")
def params(model):
    drawn = jax.jit(model.init_weights, static_argnums=1)(jax.random.PRNGKey(3), (1, 1))
    generator = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + generator.normal(0, 0.1, leaf.shape), drawn)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(7).integers(0, 101, (6, 12))  # [B, T + 1]


def step_once(model, params, inputs, targets, optimizer=None, key=0, **settings):
    """Take one step; by plain descent, so that the weights tell the gradient."""
    optimizer = optimizer or optax.sgd(RATE)
    state = TrainState(params, optimizer.init(params), jax.random.PRNGKey(key))
    return jax.jit(make_train_step(model, optimizer, **settings))(state, inputs, targets)


@pytest.fixture(scope="module")
def expected(model, params, ids):
    """Loss and gradient of the model's own call."""

    def loss(params):
        return next_token_loss(model(ids, params=params).logits, ids)  # []

    return jax.jit(jax.value_and_grad(loss))(params)


def descended(params, gradient):
    return jax.tree.map(lambda leaf, slope: leaf - RATE * slope, params, gradient)


def equal(found, expected):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=EXACT), found, expected)


@pytest.mark.parametrize(("A", "size"), [(1, 0), (1, 29), (3, 1), (2, 12)])
def test_portions_and_chunks_give_the_loss_and_gradient_of_the_model(model, params, ids, expected, A, size):
    shape = (A, 6 // A, 11)
    inputs, targets = ids[:, :-1].reshape(shape), ids[:, 1:].reshape(shape)  # [A, B, T]
    state, measures = step_once(model, params, inputs, targets, loss_chunk_size=size)
    loss, gradient = expected
    np.testing.assert_allclose(measures.loss, loss, rtol=EXACT)
    np.testing.assert_allclose(measures.gradient_norm, optax.tree.norm(gradient), rtol=EXACT)
    equal(state.params, descended(params, gradient))


def test_the_gradient_is_clipped_and_its_norm_before_is_told(model, params, ids, expected):
    inputs, targets = ids[None, :, :-1], ids[None, :, 1:]  # [1, B, T]
    norm = optax.tree.norm(expected[1])
    assert norm > 0.3
    state, measures = step_once(model, params, inputs, targets, clip=0.25)
    np.testing.assert_allclose(measures.gradient_norm, norm, rtol=EXACT)
    scaled = jax.tree.map(lambda slope: slope * 0.25 / (norm + 1e-6), expected[1])
    equal(state.params, descended(params, scaled))


def test_targets_that_are_ignored_count_nowhere(model, params, ids):
    inputs, targets = ids[:, :-1].reshape(2, 3, 11), ids[:, 1:].reshape(2, 3, 11).copy()  # [A, B, T]
    targets[1, 1:], targets[0, 2, 4:] = -100, -100
    _, measures = step_once(model, params, inputs, targets, loss_chunk_size=12)
    logits = model(inputs.reshape(6, 11), params=params).logits  # [A*B, T, V]
    log_p = np.asarray(jax.nn.log_softmax(logits)).reshape(2, 3, 11, 101)  # [A, B, T, V]
    counted = [log_p[place][target] for place, target in np.ndenumerate(targets) if target != -100]
    np.testing.assert_allclose(measures.loss, -np.mean(counted), rtol=EXACT)


def test_a_step_that_is_no_number_changes_nothing(model, params, ids):
    inputs, targets = ids[None, :, :-1], ids[None, :, 1:].copy()  # [1, B, T]
    targets[0, 3, 5] = 101  # names no token
    for wrong in (targets, np.full_like(targets, -100)):
        optimizer = optax.adam(0.1)
        state, measures = step_once(model, params, inputs, wrong, optimizer, key=3, clip=1.0)
        assert not np.isfinite(measures.loss)
        before = TrainState(params, optimizer.init(params), jax.random.PRNGKey(3))
        jax.tree.map(np.testing.assert_array_equal, state, before)


def test_dropout_draws_anew_in_every_portion_and_step(params, ids):
    model = make_model(resid_pdrop=0.3)
    inputs = np.stack([ids[:, :-1]] * 2)  # [A, B, T], twice the same
    targets = np.stack([ids[:, 1:]] * 2)  # [A, B, T]
    optimizer = optax.sgd(0.0)
    state = TrainState(params, optimizer.init(params), jax.random.PRNGKey(0))
    step = jax.jit(make_train_step(model, optimizer))
    losses = []
    for _ in range(2):
        state, measures = step(state, inputs, targets)
        losses.append(float(measures.loss))
    assert losses[0] != losses[1]
    single = jax.jit(make_sum_of_losses(model))
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    parts = [float(single(params, inputs[0], targets[0], key)) for key in keys[1:]]
    assert parts[0] != parts[1]
    np.testing.assert_allclose(losses[0], sum(parts) / (2 * 66), rtol=EXACT)


def test_gradient_checkpointing_changes_no_number(model, params, ids, expected):
    saving = make_model(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    saving.enable_gradient_checkpointing()
    inputs, targets = ids[None, :, :-1], ids[None, :, 1:]  # [1, B, T]
    assert "remat" in str(jax.make_jaxpr(make_sum_of_losses(saving))(params, inputs[0], targets[0]))
    state, _ = step_once(saving, params, inputs, targets)
    equal(state.params, descended(params, expected[1]))


def test_a_new_learning_rate_compiles_nothing(model, params, ids):
    inputs, targets = ids[None, :, :-1], ids[None, :, 1:]  # [1, B, T]
    optimizer = make_optimizer(TrainingConfig(epsilon=1e-3))
    state = TrainState(params, optimizer.init(params), jax.random.PRNGKey(0))
    step = jax.jit(make_train_step(model, optimizer))
    moved = []
    for rate in (0.0, 1e-3, 2e-3):
        state.optimizer.hyperparams["learning_rate"] = jnp.asarray(rate)
        after, _ = step(state, inputs, targets)
        moved.append(optax.tree.norm(optax.tree.sub(after.params, state.params)))
    assert moved[0] == 0
    np.testing.assert_allclose(moved[2], 2 * moved[1], rtol=1e-10)
    assert step._cache_size() == 1


def test_weight_decay_is_on_matrices_that_texts_can_teach():
    config = GPT2Config(**SIZES, add_cross_attention=True)
    tree = FlaxGPT2LMHeadModel(config, _do_init=False).params_shape_tree
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), tree)
    optimizer = make_optimizer(TrainingConfig(learning_rate=0.5, weight_decay=0.3))
    nothing = jax.tree.map(np.zeros_like, ones)
    updates = jax.jit(lambda ones: optimizer.update(nothing, optimizer.init(ones), ones)[0])(ones)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        decays = name.endswith(("kernel", "embedding")) and "crossattention" not in name
        np.testing.assert_allclose(update, -0.15 if decays else 0.0, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "size", "value"),
    [(jnp.float16, 1000, 10.0), (jnp.float16, 1000, 1e-4), (jnp.bfloat16, 7, 0.3), (jnp.float32, 7, 0.3)],
)
def test_the_norm_of_parameters_of_any_dtype_is_that_of_float32(dtype, size, value):
    """Squares in float16 end at 65504 and begin at 6e-8; in bfloat16 a sum of 300 parts was 5% too high."""
    tree = {str(number): jnp.full(size, value, dtype) for number in range(300)}
    exact = np.sqrt(300 * size) * float(tree["0"][0])
    found = gradient_norm(tree)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_a_step_tells_the_norm_of_narrow_parameters_in_float32(model, params, ids):
    narrow = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), params)
    state = TrainState(narrow, optax.sgd(RATE).init(narrow), jax.random.PRNGKey(0))
    inputs, targets = ids[None, :, :-1], ids[None, :, 1:]  # [1, B, T]
    step = make_train_step(model, optax.sgd(RATE), clip=1.0)
    after, measures = jax.eval_shape(step, state, inputs, targets)
    assert measures.gradient_norm.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype(jnp.bfloat16)}


def test_what_no_step_can_compute_is_refused(model, params, ids):
    inputs, targets = ids[None, :, :-1], ids[None, :, 1:]  # [1, B, T]
    with pytest.raises(InputError, match=r"one shape \[A, B, T\], got \(6, 11\) and \(6, 11\).*ids\[None\]"):
        step_once(model, params, inputs[0], targets[0])
    with pytest.raises(InputError, match="should be whole numbers, but they are float32 and int"):
        step_once(model, params, inputs.astype(np.float32), targets)
    long = np.zeros((1, 2, 14), int)
    with pytest.raises(LengthError, match=r"14 positions.*n_positions=13"):
        step_once(model, params, long, long)
    for name in ("clip", "loss_chunk_size"):
        with pytest.raises(InputError, match=f"{name} should be 0 or more, but it is -1"):
            make_train_step(model, optax.sgd(RATE), **{name: -1})
