"""The cache of the Flax models: steps equal one call, with every mask, and never past its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from cases import B, E, T, make_inputs, random_checkpoint, tiny_config
from compiled import compiled_once
from flax_builder import build_flax
from gpt2kit.errors import InputError, LengthError
from gpt2kit.flax import FlaxGPT2LMHeadModel, FlaxGPT2Model

CONFIG = tiny_config(n_layer=2)
IDS = make_inputs(CONFIG).input_ids  # [B, T]
PLACES = 7
PADDED = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])  # [B, T]
SHOWN = PADDED == 1  # what stands before sees nothing, and then mixes whatever a call happens to hold
CLOSE = 1e-4  # float32: |a - b| / (1 + |b|) was 7.1e-6 at most in all tests here, times more than ten


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile quickly, and the same program once."""
    with compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def model() -> FlaxGPT2LMHeadModel:
    """Make the model that most tests call."""
    return build_flax(CONFIG, random_checkpoint(CONFIG))


def is_close(mine: Any, other: Any) -> None:
    """See that two trees of numbers are the same but for rounding."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=CLOSE, atol=CLOSE), mine, other)


def attn(cache: Any, layer: int = 1) -> Any:
    """Return the leaves of a layer."""
    return cache["transformer"]["h"][str(layer)]["attn"]


def in_steps(model: FlaxGPT2LMHeadModel, sizes: tuple[int, ...], masks: Any = None, **inputs: Any) -> Array:
    """Return the logits of a text that is read in steps, [B, T, V]; `masks` makes the mask of each."""
    cache, logits, past = model.init_cache(B, PLACES), [], 0
    for size in sizes:
        given = {} if masks is None else {"attention_mask": masks(past + size)}
        output = model(IDS[:, past : past + size], past_key_values=cache, **given, **inputs)
        cache, past = output.past_key_values, past + size
        logits.append(output.logits)
        assert all(attn(cache, layer)["cache_index"] == past for layer in range(2))
    return jnp.concatenate(logits, 1)  # [B, T, V]


# --------------------------------------------------------------------------- what it is


def test_a_cache_is_the_tree_of_4_34_and_empty(model: FlaxGPT2LMHeadModel) -> None:
    cache = model.init_cache(B, PLACES)
    assert list(cache) == ["transformer"]
    assert list(cache["transformer"]) == ["h"]
    assert list(cache["transformer"]["h"]) == ["0", "1"]
    for layer in range(2):
        leaves = attn(cache, layer)
        assert list(leaves) == ["cached_key", "cached_value", "cache_index"]
        for name in ("cached_key", "cached_value"):
            assert leaves[name].shape == (B, PLACES, 3, 11)
            assert leaves[name].dtype == jnp.float32
            assert not leaves[name].any()
        assert leaves["cache_index"].shape == ()
        assert leaves["cache_index"].dtype == jnp.int32
    body = FlaxGPT2Model(CONFIG, _do_init=False, dtype=jnp.bfloat16)
    assert jax.tree.structure(body.init_cache(B, 3)) == jax.tree.structure(cache["transformer"])
    assert body.init_cache(B, 3)["h"]["0"]["attn"]["cached_value"].dtype == jnp.bfloat16


@pytest.mark.parametrize("sizes", [(0, 7), (2, 0), (2, -1), (2.0, 7), (True, 7), (None, 7), ("2", 7)])
def test_sizes_that_are_none_are_refused(model: FlaxGPT2LMHeadModel, sizes: Any) -> None:
    with pytest.raises(InputError, match=r"(batch_size|max_length) should be a whole number of at least 1"):
        model.init_cache(*sizes)


def test_a_call_fills_a_cache_of_its_own_and_leaves_the_rest_empty(model: FlaxGPT2LMHeadModel) -> None:
    given = model.init_cache(B, PLACES)
    found = model(IDS, past_key_values=given).past_key_values
    assert jax.tree.structure(found) == jax.tree.structure(given)
    for layer in range(2):
        for name in ("cached_key", "cached_value"):
            assert not attn(given, layer)[name].any()
            assert jnp.abs(attn(found, layer)[name][:, :T]).min() > 0
            assert not attn(found, layer)[name][:, T:].any()
    assert attn(found)["cache_index"] == T
    assert "past_key_values" not in model(IDS)


# --------------------------------------------------------------------------- steps


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (2, 1, 2)])
def test_steps_of_any_size_are_one_call(model: FlaxGPT2LMHeadModel, sizes: tuple[int, ...]) -> None:
    is_close(in_steps(model, sizes), model(IDS).logits)


def test_an_array_of_any_room_serves(model: FlaxGPT2LMHeadModel) -> None:
    wanted = model(IDS).logits
    for places in (T, 17):  # more than the model has positions, too: padding takes places
        is_close(model(IDS, past_key_values=model.init_cache(B, places)).logits, wanted)


@pytest.mark.parametrize("length", ["so far", "between", "all places"])
@pytest.mark.parametrize("sizes", [(2, 3), (2, 1, 2)])
def test_a_mask_may_have_any_length_from_what_is_read_to_all_places(
    model: FlaxGPT2LMHeadModel, length: str, sizes: tuple[int, ...]
) -> None:
    def mask(S: int) -> Any:
        S = {"so far": S, "between": S + 1, "all places": PLACES}[length]
        ones = np.ones((B, PLACES - T), np.int64)  # [B, PLACES - T]
        return np.concatenate([PADDED, ones], 1)[:, :S]  # [B, S]

    wanted = model(IDS, attention_mask=PADDED).logits
    is_close(in_steps(model, sizes, mask)[SHOWN], wanted[SHOWN])


def test_a_mask_for_each_query_serves_a_cache_too(model: FlaxGPT2LMHeadModel) -> None:
    whole = np.tri(T, dtype=np.int64)[None].repeat(B, 0)  # [B, T, S]
    whole[0, 3:, 1] = 0
    wanted = model(IDS, attention_mask=whole).logits
    cache, logits = model.init_cache(B, PLACES), []
    for first, last in ((0, 2), (2, 5)):
        mask = np.zeros((B, last - first, PLACES), np.int64)  # [B, T, S]
        mask[:, :, :T] = whole[:, first:last]
        output = model(IDS[:, first:last], attention_mask=mask, past_key_values=cache)
        cache = output.past_key_values
        logits.append(output.logits)
    is_close(jnp.concatenate(logits, 1), wanted)


def test_positions_are_counted_on_from_the_cache_and_its_mask(model: FlaxGPT2LMHeadModel) -> None:
    cache = model(IDS[:, :3], past_key_values=model.init_cache(B, PLACES)).past_key_values
    derived = model(IDS[:, 3:], past_key_values=cache).logits
    given = model(IDS[:, 3:], past_key_values=cache, position_ids=np.array([[3, 4]])).logits
    assert jnp.array_equal(derived, given)
    cache = model(IDS[:, :3], attention_mask=PADDED[:, :3], past_key_values=model.init_cache(B, PLACES))
    mask = np.concatenate([PADDED, np.ones((B, 2))], 1)  # [B, PLACES]
    past = {"past_key_values": cache.past_key_values, "attention_mask": mask}
    derived = model(IDS[:, 3:], **past).logits
    for position_ids in (np.array([[1, 2], [2, 3]]), jnp.array([[1, 2], [2, 3]])):
        assert jnp.array_equal(derived, model(IDS[:, 3:], **past, position_ids=position_ids).logits)
    other = model(IDS[:, 3:], **past, position_ids=np.array([[3, 4]])).logits
    assert jnp.abs(other - derived).max() > 1e-2


def test_code_for_4_34_that_gives_positions_and_one_long_mask_reads_what_one_call_reads(
    model: FlaxGPT2LMHeadModel,
) -> None:
    for mask in (None, PADDED):
        wanted = model(IDS, attention_mask=mask).logits
        prompt = None if mask is None else mask[:, :3]
        given = model.prepare_inputs_for_generation(jnp.asarray(IDS[:, :3]), PLACES, prompt)
        assert list(given) == ["past_key_values", "attention_mask", "position_ids"]
        assert given["attention_mask"].shape == (B, PLACES)
        assert given["position_ids"].shape == (B, 3)
        logits, column = [], 0
        for ids in (IDS[:, :3], IDS[:, 3:4], IDS[:, 4:]):
            output = model(ids, **given)
            given = model.update_inputs_for_generation(output, given)
            logits.append(output.logits)
            column += ids.shape[1]
        found = jnp.concatenate(logits, 1)  # [B, T, V]
        shown = np.ones((B, T), bool) if mask is None else SHOWN
        is_close(found[shown], wanted[shown])
        assert attn(given["past_key_values"])["cache_index"] == column == T


def test_what_cannot_be_prepared_is_refused(model: FlaxGPT2LMHeadModel) -> None:
    for mask in (None, PADDED):
        with pytest.raises(
            InputError, match=r"prompt has 5 tokens, and a cache of max_length=3 is too short"
        ):
            model.prepare_inputs_for_generation(IDS, 3, mask)
    with pytest.raises(
        InputError, match=r"attention_mask should have the shape \[2, 5\], but it is \[2, 3\]"
    ):
        model.prepare_inputs_for_generation(IDS, PLACES, PADDED[:, :3])


def test_one_compiled_step_serves_every_place(model: FlaxGPT2LMHeadModel) -> None:
    @jax.jit
    def step(token: Array, cache: Any, mask: Array) -> Any:
        return model(token, past_key_values=cache, attention_mask=mask)

    cache, logits = model.init_cache(B, PLACES), []
    mask = jnp.asarray(np.concatenate([PADDED, np.ones((B, 2), int)], 1))  # [B, PLACES]
    for t in range(T):
        output = step(IDS[:, t : t + 1], cache, mask)
        cache = output.past_key_values
        logits.append(output.logits)
    assert step._cache_size() == 1
    wanted = model(IDS, attention_mask=PADDED).logits
    is_close(jnp.concatenate(logits, 1)[SHOWN], wanted[SHOWN])


def test_caches_filled_to_different_places_can_be_mapped_over(model: FlaxGPT2LMHeadModel) -> None:
    caches = [
        model(IDS[:, :size], past_key_values=model.init_cache(B, PLACES)).past_key_values for size in (2, 3)
    ]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches)
    tokens = jnp.stack([IDS[:, 2:3], IDS[:, 3:4]])  # [2, B, 1]
    step = jax.jit(jax.vmap(lambda ids, cache: model(ids, past_key_values=cache).logits[:, 0]))
    wanted = model(IDS).logits  # [B, T, V]
    is_close(step(tokens, both), jnp.stack([wanted[:, 2], wanted[:, 3]]))


def test_gradients_go_through_a_cache() -> None:
    config = tiny_config(n_layer=1)
    model = build_flax(config, random_checkpoint(config))

    def last(params: Any) -> Array:
        cache = model.init_cache(B, PLACES)
        cache = model(IDS[:, :3], params=params, past_key_values=cache).past_key_values
        return model(IDS[:, 3:], params=params, past_key_values=cache).logits.sum()  # []

    def whole(params: Any) -> Array:
        return model(IDS, params=params).logits[:, 3:].sum()  # []

    found, wanted = jax.jit(lambda params: (jax.grad(last)(params), jax.grad(whole)(params)))(model.params)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a / scale, b / scale, atol=1e-5), found, wanted)


def test_cross_attention_keeps_nothing_and_head_masks_reach_every_place() -> None:
    config = tiny_config("cross_attention", n_layer=2)
    crossed = build_flax(config, random_checkpoint(config))
    inputs = {
        "encoder_hidden_states": np.linspace(-1, 1, B * E * 33, dtype=np.float32).reshape(B, E, 33),
        "head_mask": np.array([[0.5, 0, 1.5], [1, 0.3, 2]], np.float32),
    }
    is_close(in_steps(crossed, (2, 3), **inputs), crossed(IDS, **inputs).logits)
    assert list(crossed.init_cache(B, PLACES)["transformer"]["h"]["0"]) == ["attn"]


def test_a_cache_of_another_dtype_is_filled_in_its_own(model: FlaxGPT2LMHeadModel) -> None:
    half = build_flax(CONFIG, random_checkpoint(CONFIG), dtype=jnp.bfloat16)
    output = model(IDS, past_key_values=half.init_cache(B, PLACES))
    assert attn(output.past_key_values)["cached_key"].dtype == jnp.bfloat16
    assert output.logits.dtype == jnp.float32
    wanted = model(IDS).logits
    assert jnp.abs(output.logits - wanted).max() < 0.02 * jnp.abs(wanted).max()  # 8 bits


# --------------------------------------------------------------------------- what does not fit


def test_a_cache_without_room_is_refused_with_its_numbers(model: FlaxGPT2LMHeadModel) -> None:
    with pytest.raises(InputError, match=r"has 3 places and 0 are filled, and 5 new .* init_cache\(batch"):
        model(IDS, past_key_values=model.init_cache(B, 3))
    cache = model(IDS, past_key_values=model.init_cache(B, PLACES)).past_key_values
    with pytest.raises(InputError, match=r"has 7 places and 5 are filled, and 3 new positions came"):
        model(IDS[:, :3], past_key_values=cache)
    with pytest.raises(InputError, match=r"has 3 places, and 5 new"):  # shapes are seen in a trace too
        jax.jit(lambda cache: model(IDS, past_key_values=cache))(model.init_cache(B, 3))


def test_in_a_program_a_cache_written_past_its_end_gives_nan_from_then_on(model: FlaxGPT2LMHeadModel) -> None:
    step = jax.jit(lambda ids, cache: model(ids, past_key_values=cache))
    cache = step(IDS[:, :3], model.init_cache(B, PLACES)).past_key_values
    output = step(IDS[:, :3], cache)
    assert jnp.isfinite(output.logits).all()
    for _ in range(2):
        output = step(IDS[:, :3], output.past_key_values)
        assert jnp.isnan(output.logits).all()


def test_in_a_program_a_mask_that_does_not_reach_the_new_token_gives_nan(model: FlaxGPT2LMHeadModel) -> None:
    step = jax.jit(lambda ids, cache, mask: model(ids, past_key_values=cache, attention_mask=mask).logits)
    cache = model(IDS[:, :3], past_key_values=model.init_cache(B, PLACES)).past_key_values
    assert jnp.isnan(step(IDS[:, 3:], cache, np.ones((B, 4)))).all()
    assert jnp.isfinite(step(IDS[:, 3:], cache, np.ones((B, 5)))).all()


def test_in_a_program_positions_beyond_the_model_give_nan(model: FlaxGPT2LMHeadModel) -> None:
    empty = model.init_cache(B, 17)
    cache = jax.tree.map(lambda leaf: leaf if leaf.ndim else jnp.array(12, jnp.int32), empty)
    step = jax.jit(lambda ids, cache: model(ids, past_key_values=cache).logits)
    assert jnp.isfinite(step(IDS[:, :1], cache)).all()
    assert jnp.isnan(step(IDS[:, :2], cache)).all()  # the first too: a hidden NaN times 0 is NaN
    with pytest.raises(LengthError, match=r"14 positions were given \(12 in past_key_values and 2 new\)"):
        model(IDS[:, :2], past_key_values=cache)


def test_a_mask_without_the_past_is_refused_with_the_way_out(model: FlaxGPT2LMHeadModel) -> None:
    cache = model(IDS[:, :3], past_key_values=model.init_cache(B, PLACES)).past_key_values
    wanted = r"\[2, 5 to 7\] or \[2, 2, 5 to 7\] \(3 in past_key_values and 2 new: give ones for the past"
    for S in (2, 4, 8):
        with pytest.raises(InputError, match=wanted):
            model(IDS[:, 3:], past_key_values=cache, attention_mask=np.ones((B, S)))


def tree_of(key: Any, index: Any = jnp.zeros((), jnp.int32), layers: int = 2) -> Any:  # noqa: B008
    """Return a cache of given leaves."""
    leaves = {"cached_key": key, "cached_value": key, "cache_index": index}
    return {"transformer": {"h": {str(layer): {"attn": leaves} for layer in range(layers)}}}


STRANGERS: dict[str, tuple[Any, str]] = {
    "a tuple of PyTorch": (((1, 2),) * 2, "past_key_values has no 'transformer'; give what init_cache"),
    "the body's": ({"h": {}}, "past_key_values has no 'transformer'"),
    "nothing": ({"transformer": {}}, "past_key_values has no h/0/attn with the arrays cached_key"),
    "fewer layers": (tree_of(np.zeros((B, 7, 3, 11)), layers=1), "past_key_values has no h/1/attn"),
    "more layers": (tree_of(np.zeros((B, 7, 3, 11)), layers=3), "has 3 layers and the model has 2"),
    "numbers": (tree_of(1), "past_key_values has no h/0/attn with the arrays"),
    "an index that is a number": (tree_of(np.zeros((B, 7, 3, 11)), 0), "no h/0/attn with the arrays"),
    "an index for each row": (
        tree_of(np.zeros((B, 7, 3, 11)), np.zeros(B)),
        r"cache_index should have the shape \[\], but it is \[2\]",
    ),
    "another batch": (
        tree_of(np.zeros((3, 7, 3, 11))),
        r"h/0/attn/cached_key should have the shape \[2, 'max_length', 3, 11\], but it is \[3, 7, 3, 11\]",
    ),
    "other heads": (tree_of(np.zeros((B, 7, 1, 33))), r"but it is \[2, 7, 1, 33\]"),
    "heads before places": (tree_of(np.zeros((B, 3, 7, 11))), r"but it is \[2, 3, 7, 11\]"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_something_else_than_a_cache_of_the_model_is_refused_by_name(
    model: FlaxGPT2LMHeadModel, name: str
) -> None:
    cache, sentence = STRANGERS[name]
    with pytest.raises(InputError, match=sentence):
        model(IDS, past_key_values=cache)
