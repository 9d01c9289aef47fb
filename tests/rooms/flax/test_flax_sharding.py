"""Training over eight devices: a table says where each parameter lies, and the numbers are those of one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import PartitionSpec as P

from compiled import compiled_once
from gpt2kit import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.flax.heads import FlaxGPT2LMHeadModel
from gpt2kit.flax.sharding import PARTITION, make_mesh, partition_specs, place, place_batch, shardings
from gpt2kit.flax.training import TrainState, make_optimizer, make_train_step
from gpt2kit.training import TrainingConfig

# Eight times a prime, where an axis is split over up to eight devices; a prime elsewhere.
SIZES = {
    "vocab_size": 8 * 13,
    "n_positions": 11,
    "n_embd": 8 * 5,
    "n_inner": 8 * 7,
    "n_head": 8,
    "n_layer": 1,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
TRAINING = TrainingConfig(learning_rate=0.01, weight_decay=0.3)
A, B, T = 2, 8, 7
STEPS = 2
# Float64 sums in another order: 6e-12 was the largest difference, times 10. It is that of the biases of keys,
# whose gradient is 0 but for rounding, 1e-17; AdamW divides that by 1e-8 and makes it a part of the rate.
EXACT = 6e-11


@pytest.fixture(scope="module", autouse=True)
def keep_programs(tmp_path_factory):
    with compiled_once(tmp_path_factory.mktemp("programs")), jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def model():
    return FlaxGPT2LMHeadModel(GPT2Config(**SIZES), dtype=jnp.float64, _do_init=False)


@pytest.fixture(scope="module")
def params(model):
    """Float64 parameters, biases too: [*]."""
    drawn = jax.jit(model.init_weights, static_argnums=1)(jax.random.PRNGKey(3), (1, 1))
    generator = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: np.asarray(leaf) + generator.normal(0, 0.1, leaf.shape), drawn)


@pytest.fixture(scope="module")
def batches():
    ids = np.random.default_rng(7).integers(
        0, SIZES["vocab_size"], (STEPS, A, B, T + 1)
    )  # [STEPS, A, B, T + 1]
    targets = ids[..., 1:].copy()  # [STEPS, A, B, T]
    targets[:, 0, 3, 2:] = -100
    return list(zip(ids[..., :-1], targets, strict=True))


@pytest.fixture(scope="module")
def alone(model, params, batches):
    """The state and the measures after the steps on one device."""
    optimizer = make_optimizer(TRAINING)
    state = TrainState(params, optimizer.init(params), jax.random.PRNGKey(11))
    step = jax.jit(make_train_step(model, optimizer, clip=0.5, loss_chunk_size=24))
    found = []
    for batch in batches:
        state, measures = step(state, *batch)
        found.append(measures)
    return state, found


def equal(found, expected):
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=EXACT, atol=EXACT, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("data", "tensor", "remat"),
    [(8, 1, False), (1, 8, False), (2, 4, True)],
    ids=["data", "tensor", "both-with-remat"],
)
def test_a_sharded_step_equals_that_of_one_device(model, params, batches, alone, data, tensor, remat):
    if remat:
        model = FlaxGPT2LMHeadModel(model.config, dtype=jnp.float64, _do_init=False)
        model.enable_gradient_checkpointing()
    mesh = make_mesh(data, tensor)
    optimizer = make_optimizer(TRAINING)
    state = TrainState(params, optimizer.init(params), jax.random.PRNGKey(11))
    state = place(state, mesh)
    there = shardings(state, mesh)
    step = jax.jit(
        make_train_step(model, optimizer, clip=0.5, loss_chunk_size=24),
        donate_argnums=0,
        out_shardings=(there, None),
    )
    for batch, expected in zip(batches, alone[1], strict=True):
        before = state
        state, measures = step(state, *place_batch(batch, mesh))
        equal(measures, expected)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.optimizer.inner_state))
        assert all(jax.tree.leaves(jax.tree.map(lambda leaf, its: leaf.sharding == its, state, there)))
    equal(state, alone[0])
    assert step._cache_size() == 1
    kernel = state.optimizer.inner_state[0].mu["transformer"]["h"]["0"]["mlp"]["c_fc"]["kernel"]  # [M, D]
    assert kernel.addressable_shards[0].data.shape == (SIZES["n_inner"] // tensor, SIZES["n_embd"])


def test_a_placed_model_answers_as_before(model, params):
    ids = np.random.default_rng(13).integers(0, SIZES["vocab_size"], (2, T))  # [2, T]
    mesh = make_mesh(2, 4)
    call = jax.jit(lambda params, ids: model(ids, params=params).logits)
    found = call(place(params, mesh), place_batch(ids, mesh))  # [2, T, V]
    equal(found, call(params, ids))


def test_the_table_has_one_row_for_every_parameter():
    config = GPT2Config(**SIZES, add_cross_attention=True)
    tree = FlaxGPT2LMHeadModel(config, _do_init=False).params_shape_tree
    specs = partition_specs(tree)
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=lambda leaf: isinstance(leaf, P))
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
    ends = {
        "/".join("ln_*" if part.startswith("ln_") else part for part in name.split("/"))
        .removeprefix("transformer/")
        .removeprefix("h/0/")
        for name in names
    }
    assert ends == set(PARTITION)
    # What is split by rows is summed by columns: every kernel of a block is split once.
    assert all(
        ("model" in spec) == name.endswith("kernel") for name, spec in PARTITION.items() if "c_proj" in name
    )


def test_a_parameter_of_ones_own_needs_a_row():
    tree = {"adapter": {"kernel": jax.ShapeDtypeStruct((4, 6), jnp.float32)}}
    with pytest.raises(InputError, match=r'no row for the parameter adapter/kernel.*"adapter/kernel"'):
        partition_specs(tree)
    table = {**PARTITION, "adapter/kernel": P(("data", "model"), None)}
    assert partition_specs(tree, table) == {"adapter": {"kernel": P(("data", "model"), None)}}
    shardings(tree, make_mesh(2, 2), table)
    with pytest.raises(InputError, match=r"adapter/kernel of shape \(4, 6\) cannot be split 8 ways"):
        shardings(tree, make_mesh(2, 4), table)


@pytest.mark.parametrize("name", ["adafactor", "sm3", "muon", "lion", "multi"])
def test_what_other_optimizers_keep_has_a_place(model, params, name):
    """Averages of a parameter's shape lie as it does; those of its rows or columns, and counts, are whole."""
    optimizer = {
        "adafactor": optax.adafactor(0.01, min_dim_size_to_factor=8),
        "sm3": optax.sm3(0.01),
        "muon": optax.contrib.muon(0.01),
        "lion": optax.lion(0.01),
        "multi": optax.MultiSteps(optax.adam(0.01), 2),
    }[name]
    kept = jax.eval_shape(optimizer.init, params)
    found = jax.tree.leaves(partition_specs(kept), is_leaf=lambda leaf: isinstance(leaf, P))
    places = list(zip([leaf.shape for leaf in jax.tree.leaves(kept)], found, strict=True))
    assert all(len(spec) <= len(shape) for shape, spec in places)
    averages = {spec for shape, spec in places if shape == (SIZES["vocab_size"], SIZES["n_embd"])}
    assert averages == (set() if name == "adafactor" else {P("model", None)})
    shardings(kept, make_mesh(2, 4))


def test_what_does_not_divide_is_refused_by_name():
    config = GPT2Config(vocab_size=101, n_positions=11, n_embd=40, n_head=8, n_layer=1)
    tree = FlaxGPT2LMHeadModel(config, _do_init=False).params_shape_tree
    with pytest.raises(
        InputError, match=r"wte/embedding of shape \(101, 40\) cannot be split 8 ways.*axis 0 has 101"
    ):
        shardings(tree, make_mesh(1, 8))
    shardings(tree, make_mesh(1, 8), {**PARTITION, "wte/embedding": P()})
    with pytest.raises(InputError, match=r"batch\[0\] of shape \(3, 7\) cannot be split 2 ways along 'data'"):
        place_batch([np.zeros((3, 7), np.int32)], make_mesh(2, 4))
    with pytest.raises(InputError, match=r"A batch is \[B, T\] or \[A, B, T\]"):
        place_batch(np.zeros(3, np.int32), make_mesh(2, 4))


def test_a_mesh_that_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"data=3 x model=4 needs 12 devices.*there are 8"):
        make_mesh(3, 4)
    with pytest.raises(InputError, match="each number at least 1"):
        make_mesh(0, 4)
    with pytest.raises(InputError, match="lies along 'model', and the mesh has batch"):
        shardings({"lm_head": {"kernel": np.zeros((4, 6))}}, jax.make_mesh((8,), ("batch",)))
