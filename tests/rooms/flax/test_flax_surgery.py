"""Another number of tokens for a finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cases import make_inputs, random_checkpoint, tiny_config
from gpt2kit.checkpoint import save_safetensors
from gpt2kit.config import GPT2Config
from gpt2kit.errors import InputError
from gpt2kit.flax import FlaxGPT2LMHeadModel, FlaxGPT2Model
from gpt2kit.flax.surgery import resize_token_embeddings
from gpt2kit.flax.tree import flatten

TIED, UNTIED = tiny_config(n_layer=1), tiny_config("untied", n_layer=1)


def load(place: Path, config: GPT2Config, cls: Any = FlaxGPT2LMHeadModel, **options: Any) -> Any:
    config.save_pretrained(place)
    save_safetensors(place, random_checkpoint(config))
    return cls.from_pretrained(place, **options)


def test_a_model_grows_and_says_the_same_of_the_tokens_that_it_had(tmp_path: Path) -> None:
    model = load(tmp_path, TIED)
    ids = make_inputs(TIED).input_ids
    before, old, config = model(ids).logits, model.params, model.config
    params = resize_token_embeddings(model, 107)
    assert model.config.vocab_size == model.module.config.vocab_size == 107
    assert config.vocab_size == 101  # whoever shares the old one is not disturbed
    assert old["transformer"]["wte"]["embedding"].shape == (101, 33)
    table = params["transformer"]["wte"]["embedding"]
    assert table is model.params["transformer"]["wte"]["embedding"]
    np.testing.assert_array_equal(table[:101], old["transformer"]["wte"]["embedding"])
    assert 0.01 < float(table[101:].std()) < 0.03
    after = model(np.where(ids == 3, 106, ids)).logits  # [B, T, 107]
    assert after.shape == (2, 5, 107)
    np.testing.assert_allclose(model(ids).logits[..., :101], before, rtol=1e-6, atol=1e-6)
    model.save_pretrained(tmp_path / "grown")
    again = FlaxGPT2LMHeadModel.from_pretrained(tmp_path / "grown")
    np.testing.assert_array_equal(again.params["transformer"]["wte"]["embedding"], table)


def test_an_untied_head_is_resized_along_its_own_axis(tmp_path: Path) -> None:
    model = load(tmp_path, UNTIED)
    old = flatten(model.params)
    larger = flatten(resize_token_embeddings(model, pad_to_multiple_of=64))
    assert larger["lm_head", "kernel"].shape == (33, 128)
    assert larger["transformer", "wte", "embedding"].shape == (128, 33)
    np.testing.assert_array_equal(larger["lm_head", "kernel"][:, :101], old["lm_head", "kernel"])
    drawn = larger["lm_head", "kernel"][:, 101:]
    assert not np.array_equal(drawn, larger["transformer", "wte", "embedding"][101:].T)
    smaller = flatten(resize_token_embeddings(model, 97))
    for path, leaf in smaller.items():
        first = old[path][:97] if path[-1] == "embedding" and path[-2] == "wte" else old[path]
        first = first[:, :97] if path == ("lm_head", "kernel") else first
        np.testing.assert_array_equal(leaf, first)
    assert model.config.vocab_size == 97


def test_the_dtype_stays_and_a_key_decides_what_is_drawn(tmp_path: Path) -> None:
    tables = []
    for key in (None, jax.random.PRNGKey(0), jax.random.PRNGKey(3)):
        model = load(tmp_path, TIED, FlaxGPT2Model)
        model.params = model.to_bf16(model.params)
        table = resize_token_embeddings(model, 103, rng=key)["wte"]["embedding"]
        assert table.dtype == jnp.bfloat16
        tables.append(np.asarray(table[101:], np.float32))
    np.testing.assert_array_equal(tables[0], tables[1])  # the model's own key is that of seed 0
    assert not np.array_equal(tables[0], tables[2])


def test_a_model_without_parameters_takes_them_and_gives_them_back(tmp_path: Path) -> None:
    model, params = load(tmp_path, TIED, _do_init=False)
    larger = resize_token_embeddings(model, 103, params=params)
    assert model.params_shape_tree["transformer"]["wte"]["embedding"].shape == (103, 33)
    assert model(jnp.array([[102]]), params=larger).logits.shape == (1, 1, 103)
    with pytest.raises(InputError, match=r"wte/embedding is \[101, 33\] and should be \[103, 33\]"):
        model(jnp.array([[2]]), params=params)
    with pytest.raises(InputError, match="holds no parameters"):
        resize_token_embeddings(model, 107)


def test_what_asks_for_nothing_changes_nothing(tmp_path: Path) -> None:
    model = load(tmp_path, TIED, FlaxGPT2Model)
    config, module, params = model.config, model.module, model.params
    for sizes in ((), (101,), (None, 101), (100, 101)):
        assert resize_token_embeddings(model, *sizes) is params
    assert (model.config, model.module) == (config, module)


WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "nothing": ((0,), "new_num_tokens should be a positive whole number, but it is 0"),
    "a fraction": ((7.0,), "new_num_tokens should be a positive whole number"),
    "a truth value": ((True,), "new_num_tokens should be a positive whole number"),
    "a multiple": ((None, -8), "pad_to_multiple_of should be a positive whole number, but it is -8"),
    "parameters of its own": ((7, None, {}), "holds parameters of its own"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_sizes_that_are_none_are_refused(tmp_path: Path, fault: str) -> None:
    arguments, message = WRONG[fault]
    with pytest.raises(InputError, match=message):
        resize_token_embeddings(load(tmp_path, TIED, FlaxGPT2Model), *arguments)
