"""The tree of parameters: what is expected, set, drawn and cast, and which trees are refused."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from cases import make_inputs, tiny_config
from flax_files import SAVED
from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.flax import FlaxGPT2LMHeadModel, FlaxGPT2Model
from gpt2kit.flax.tree import Path as TreePath
from gpt2kit.flax.tree import flatten, unflatten

CONFIG = tiny_config(n_layer=2, initializer_range=0.05)
IDS = make_inputs(CONFIG).input_ids


@pytest.fixture(scope="module")
def model() -> FlaxGPT2LMHeadModel:
    return FlaxGPT2LMHeadModel(CONFIG, seed=5)


@pytest.fixture(scope="module")
def bare() -> FlaxGPT2LMHeadModel:
    """Without parameters: nothing is drawn, so it costs little."""
    return FlaxGPT2LMHeadModel(CONFIG, _do_init=False)


def changed(params: Any, path: str, leaf: Any = None) -> dict[str, Any]:
    """Return the tree with one leaf in place of another, or without it."""
    leaves = flatten(params)
    key: TreePath = tuple(path.split("/"))
    if leaf is None:
        del leaves[key]
    else:
        leaves[key] = leaf
    return unflatten(leaves)


def zeros(model: Any) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), model.params_shape_tree)


# --------------------------------------------------------------------------- the tree


def test_the_tree_is_that_of_4_34() -> None:
    recorded = json.loads((SAVED.parent / "flax_signatures.json").read_text())["parameters"]
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "untied": {"tie_word_embeddings": False},
        "cross-attention and n_inner": {"add_cross_attention": True, "n_inner": 47},
    }
    for cls in (FlaxGPT2Model, FlaxGPT2LMHeadModel):
        for variant, change in changes.items():
            shapes = flatten(cls(tiny_config(n_layer=2, **change), _do_init=False).params_shape_tree)
            ours = {"/".join(path): [list(leaf.shape), str(leaf.dtype)] for path, leaf in shapes.items()}
            assert ours == recorded[f"{cls.__name__}/{variant}"]


def test_required_params_are_the_paths_of_the_tree(model: FlaxGPT2LMHeadModel) -> None:
    assert model.required_params == set(flatten(model.params)) == set(flatten(model.params_shape_tree))
    assert ("transformer", "h", "1", "attn", "c_attn", "kernel") in model.required_params
    assert not any(path[0] == "lm_head" for path in model.required_params)


def test_a_model_tells_what_it_is(model: FlaxGPT2LMHeadModel) -> None:
    assert model.framework == "flax"
    assert model.base_model_prefix == "transformer"
    assert model.config is CONFIG
    assert model.module.config is CONFIG
    assert type(model.module).__name__ == "FlaxGPT2LMHeadModule"
    assert model.input_shape == (1, 1)
    assert not FlaxGPT2Model.can_generate()
    made = FlaxGPT2LMHeadModel._from_config(CONFIG, dtype=jnp.bfloat16, _do_init=False)
    assert made.dtype == jnp.bfloat16


# --------------------------------------------------------------------------- drawn


def test_fresh_weights_are_drawn_as_gpt2_draws_them(model: FlaxGPT2LMHeadModel) -> None:
    for path, leaf in flatten(model.params).items():
        if path[-1] == "bias":
            assert not leaf.any()
        elif path[-1] == "scale":
            assert (leaf == 1).all()
        else:
            deviation = 0.05 / (math.sqrt(2 * 2) if path[-2] == "c_proj" else 1)
            error = 4 * deviation / math.sqrt(2 * leaf.size)  # four deviations of that estimate
            assert abs(float(leaf.std()) - deviation) < error, path
            assert abs(float(leaf.mean())) < 4 * deviation / math.sqrt(leaf.size), path


def test_a_seed_decides_what_is_drawn(model: FlaxGPT2LMHeadModel, bare: FlaxGPT2LMHeadModel) -> None:
    same = bare.init_weights(jax.random.PRNGKey(5), (1, 1))
    other = bare.init_weights(jax.random.PRNGKey(7), (1, 1))
    for path, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(leaf, flatten(same)[path])
        if path[-1] in ("kernel", "embedding"):
            assert not np.array_equal(leaf, flatten(other)[path])


def test_only_what_is_missing_is_drawn(bare: FlaxGPT2LMHeadModel) -> None:
    whole = zeros(bare)
    part = changed(changed(whole, "transformer/wte/embedding"), "transformer/h/0/ln_1/scale")
    filled = flatten(bare.init_weights(jax.random.PRNGKey(2), (2, 3), freeze(part)))
    assert set(filled) == bare.required_params
    assert 0.04 < filled["transformer", "wte", "embedding"].std() < 0.06
    assert (filled["transformer", "h", "0", "ln_1", "scale"] == 1).all()
    for path, leaf in flatten(part).items():
        assert filled[path] is leaf
    with pytest.raises(InputError, match=r"transformer/wte/embedding is \[3, 33\] and should be \[101, 33\]"):
        bare.init_weights(bare.key, (1, 1), {"transformer": {"wte": {"embedding": np.zeros((3, 33))}}})


@pytest.mark.parametrize("shape", [(1,), (1, 2, 3), (0, 5), (1, 2.0), (True, 1), 7, "12"])
def test_an_input_shape_that_is_none_is_refused(shape: Any) -> None:
    with pytest.raises(InputError, match=r"input_shape should be \(batch, positions\)"):
        FlaxGPT2Model(CONFIG, shape, _do_init=False)


def test_something_else_than_a_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a GPT2Config, but a str came"):
        FlaxGPT2Model("gpt2")
    with pytest.raises(TypeError, match="prescision"):
        FlaxGPT2Model(CONFIG, prescision=3)


# --------------------------------------------------------------------------- set


def test_parameters_can_be_set_and_are_plain_dictionaries(bare: FlaxGPT2LMHeadModel) -> None:
    model = FlaxGPT2LMHeadModel(GPT2Config(**CONFIG.to_dict()), _do_init=False)
    model._is_initialized = True
    params = zeros(bare)
    for given in (params, freeze(params)):
        model.params = given
        assert type(model.params["transformer"]["h"]) is dict
        assert flatten(model.params).keys() == flatten(params).keys()
    model.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    assert model.params["transformer"]["wpe"]["embedding"].dtype == jnp.bfloat16


WRONG: dict[str, tuple[Any, str]] = {
    "missing": (
        ("transformer/ln_f/scale", None),
        "params do not fit the model: transformer/ln_f/scale is missing",
    ),
    "extra": (("lm_head/kernel", np.zeros((33, 101))), "lm_head/kernel is unknown"),
    "misshapen": (
        ("transformer/h/1/mlp/c_fc/kernel", np.zeros((33, 132), np.float32)),
        r"transformer/h/1/mlp/c_fc/kernel is \[33, 132\] and should be \[132, 33\]",
    ),
    "whole numbers": (
        ("transformer/ln_f/bias", np.zeros(33, np.int8)),
        "transformer/ln_f/bias is of dtype int8 and should hold floating-point numbers",
    ),
    "no array": (("transformer/ln_f/bias", [0.0] * 33), "transformer/ln_f/bias is a list and no array"),
    "an array of another framework": (
        ("transformer/ln_f/bias", SimpleNamespace(shape=(33,), dtype="torch.float32")),
        "transformer/ln_f/bias is a SimpleNamespace and no array",
    ),
    "a leaf for a branch": (
        ("transformer/ln_f", np.zeros(33)),
        r"scale is missing; transformer/ln_f is unknown",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_tree_that_does_not_fit_is_refused_with_path_and_shapes(
    bare: FlaxGPT2LMHeadModel, fault: str
) -> None:
    (path, leaf), message = WRONG[fault]
    params = zeros(bare)
    if fault == "a leaf for a branch":
        params["transformer"]["ln_f"] = leaf
    else:
        params = changed(params, path, leaf)
    model = FlaxGPT2LMHeadModel(CONFIG, _do_init=False)
    with pytest.raises(InputError, match=message):
        model(IDS, params=params)
    model._is_initialized = True
    with pytest.raises(InputError, match=message):
        model.params = params


def test_many_faults_are_counted_and_some_of_each_kind_named(bare: FlaxGPT2LMHeadModel) -> None:
    params = zeros(bare)["transformer"]
    with pytest.raises(
        InputError, match=r"is missing; .* is missing; .* is unknown; .* is unknown; and 52 more"
    ):
        bare(IDS, params=params)
    with pytest.raises(InputError, match="params should be a tree of dictionaries, but it is a list"):
        bare(IDS, params=[params])


def test_a_call_without_parameters_says_how_to_get_some(bare: FlaxGPT2LMHeadModel) -> None:
    with pytest.raises(InputError, match="made with _do_init=False and holds no parameters"):
        bare(IDS)


def test_parameters_of_a_call_take_the_place_of_the_models_own(model: FlaxGPT2LMHeadModel) -> None:
    scale = model.params["transformer"]["ln_f"]["scale"]
    params = changed(model.params, "transformer/ln_f/scale", 3 * scale)
    own, other = model(IDS).logits, model(IDS, params=params).logits  # [B, T, V]
    np.testing.assert_allclose(other, 3 * own, rtol=1e-5, atol=1e-6)
    frozen = model(IDS, params=freeze(params)).logits
    np.testing.assert_array_equal(frozen, other)


# --------------------------------------------------------------------------- cast


@pytest.mark.parametrize(
    ("name", "dtype"), [("to_bf16", "bfloat16"), ("to_fp16", "float16"), ("to_fp32", "float32")]
)
def test_casts_return_another_tree(bare: FlaxGPT2LMHeadModel, name: str, dtype: str) -> None:
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 1 / 3, np.float32), bare.params_shape_tree)
    params["transformer"]["ln_f"]["scale"] = jnp.full(33, 1 / 3, jnp.bfloat16)
    cast = getattr(bare, name)(params)
    assert {leaf.dtype.name for leaf in flatten(cast).values()} == {dtype}
    assert flatten(params)["transformer", "wte", "embedding"].dtype == np.float32
    assert params["transformer"]["ln_f"]["scale"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        np.asarray(cast["transformer"]["wte"]["embedding"]), np.full((101, 33), 1 / 3).astype(dtype)
    )
    assert set(getattr(bare, name)(params["transformer"]["ln_f"])) == {"scale", "bias"}  # a part will do


def test_a_mask_keeps_leaves_as_they_are(bare: FlaxGPT2LMHeadModel) -> None:
    params = zeros(bare)
    chosen = {path: path[-1] != "scale" for path in flatten(params)}
    # The mask may have another order than the tree: a leaf is found by its path.
    mask = unflatten(dict(reversed(chosen.items())))
    for given in (mask, freeze(mask)):
        cast = flatten(bare.to_bf16(params, given))
        for path, leaf in cast.items():
            assert leaf.dtype == (jnp.bfloat16 if chosen[path] else np.float32), path
    counted = flatten(bare.to_bf16({"a": np.arange(3), "b": np.ones(3)}))
    assert [leaf.dtype.name for leaf in counted.values()] == ["int64", "bfloat16"]


def test_a_mask_of_another_tree_is_refused(bare: FlaxGPT2LMHeadModel) -> None:
    params = zeros(bare)
    mask = jax.tree.map(lambda leaf: True, params)
    with pytest.raises(InputError, match="transformer/ln_f/scale is in params only"):
        bare.to_fp16(params, changed(mask, "transformer/ln_f/scale"))
    with pytest.raises(InputError, match="lm_head/kernel is in mask only"):
        bare.to_fp16(params, changed(mask, "lm_head/kernel", True))
    with pytest.raises(InputError, match=r"transformer/ln_f/scale is 1.5"):
        bare.to_fp16(params, changed(mask, "transformer/ln_f/scale", 1.5))
