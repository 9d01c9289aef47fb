"""The forward pass of the Flax models: switches, dtypes, masks, dropout, transformations, outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from cases import ACTIVATION_CASES, B, E, T, make_inputs, random_checkpoint, tiny_config
from compiled import compiled_once
from flax_builder import build_flax, params_of
from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError, InputError
from gpt2kit.flax import (
    FlaxBaseModelOutputWithPastAndCrossAttentions,
    FlaxCausalLMOutputWithCrossAttentions,
    FlaxGPT2LMHeadModel,
    FlaxGPT2Model,
)
from gpt2kit.flax.layers import attend
from gpt2kit.flax.loss import next_token_loss

CONFIG = tiny_config()
WEIGHTS = random_checkpoint(CONFIG)
IDS = make_inputs(CONFIG).input_ids  # [B, T]
CROSS = tiny_config("cross_attention", n_layer=1)
SMALL = tiny_config(n_layer=1)
ENCODER = np.linspace(-1, 1, B * E * 33, dtype=np.float32).reshape(B, E, 33)  # [B, E, D]
# Two ways of computing the same in float32: |a - b| / (1 + |b|) was 6.1e-6 at most in all tests here, times
# more than ten.
CLOSE = 1e-4


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile quickly, and the same program once."""
    with compiled_once(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def model() -> FlaxGPT2LMHeadModel:
    """Make the model that most tests call."""
    return build_flax(CONFIG, WEIGHTS)


@pytest.fixture(scope="module")
def crossed() -> FlaxGPT2LMHeadModel:
    """Make a model with cross-attention."""
    return build_flax(CROSS, random_checkpoint(CROSS))


def is_close(mine: Any, other: Any, tolerance: float = CLOSE) -> None:
    """See that two trees of numbers are the same but for rounding."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=tolerance, atol=tolerance
        ),
        mine,
        other,
    )


def unchanged(numbers: Array) -> Array:
    """Hide nothing, and drop nothing."""
    return numbers


def differs(mine: Any, other: Any) -> bool:
    """Tell whether two arrays differ by more than rounding."""
    return float(jnp.abs(mine - other).max()) > 1e-2


def loss_of(model: FlaxGPT2LMHeadModel, params: Any, **inputs: Any) -> Array:
    """Return the loss of a text, []."""
    return next_token_loss(model(IDS, params=params, **inputs).logits, jnp.asarray(IDS))  # []


# --------------------------------------------------------------------------- switches

# Values beside those of CONFIG; the weights are the same.
SWITCHES: dict[str, dict[str, Any]] = {
    "no scale": {"scale_attn_weights": False},
    "inverse layer": {"scale_attn_by_inverse_layer_idx": True},
    "epsilon": {"layer_norm_epsilon": 0.3},
    "one head": {"n_head": 1},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_compiles_and_changes_what_is_computed(model: FlaxGPT2LMHeadModel, switch: str) -> None:
    other = build_flax(tiny_config(**SWITCHES[switch]), WEIGHTS)
    compiled = jax.jit(lambda ids, params: other(ids, params=params).logits)(IDS, other.params)
    assert jnp.isfinite(compiled).all()
    assert differs(compiled, model(IDS).logits)


@pytest.mark.parametrize("case", ["untied", "n_inner", "cross_attention"])
def test_a_switch_that_adds_weights_uses_each_of_them(case: str) -> None:
    config = tiny_config(case, n_layer=1)
    other = build_flax(config, random_checkpoint(config))
    encoder = {"encoder_hidden_states": ENCODER} if config.add_cross_attention else {}
    gradients = jax.jit(jax.grad(lambda params: loss_of(other, params, **encoder)))(other.params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.isfinite(gradient).all(), path
        assert jnp.abs(gradient).max() > 0, path


def test_upcasting_changes_nothing_because_scores_are_float32_in_any_case() -> None:
    logits = [
        build_flax(tiny_config(case), WEIGHTS, dtype=jnp.bfloat16)(IDS).logits
        for case in ("default", "upcast")
    ]
    assert jnp.array_equal(*logits)


def test_every_activation_is_computed_and_only_other_names_of_one_agree() -> None:
    logits = {
        name: build_flax(tiny_config(n_layer=1, activation_function=name), WEIGHTS)(IDS).logits
        for name in ACTIVATION_CASES
    }
    alike = [
        {"gelu", "gelu_python", "gelu_10"},  # gelu_10 is another one beyond 10 only
        {"gelu_new", "gelu_accurate", "gelu_fast", "gelu_pytorch_tanh"},
        {"silu", "swish"},
    ]
    for name, mine in logits.items():
        for other, theirs in logits.items():
            same = name == other or any({name, other} <= names for names in alike)
            assert (float(jnp.abs(mine - theirs).max()) < 1e-5) == same, (name, other)


def test_switches_of_the_configuration_return_what_arguments_return(model: FlaxGPT2LMHeadModel) -> None:
    for flag in ("output_attentions", "output_hidden_states"):
        field = flag.removeprefix("output_")
        by_config = build_flax(tiny_config(**{flag: True}), WEIGHTS)
        is_close(by_config(IDS)[field], model(IDS, **{flag: True})[field])
        assert field not in by_config(IDS, **{flag: False})
    assert type(build_flax(tiny_config(return_dict=False), WEIGHTS)(IDS)) is tuple


# --------------------------------------------------------------------------- outputs


def test_the_fields_come_in_the_order_of_4_34_with_their_shapes(crossed: FlaxGPT2LMHeadModel) -> None:
    output = crossed(
        IDS,
        encoder_hidden_states=ENCODER,
        past_key_values=crossed.init_cache(B, 7),
        output_attentions=True,
        output_hidden_states=True,
    )
    assert type(output) is FlaxCausalLMOutputWithCrossAttentions
    assert list(output) == ["logits", "past_key_values", "hidden_states", "attentions", "cross_attentions"]
    assert output.logits.shape == (B, T, 101)
    assert [states.shape for states in output.hidden_states] == [(B, T, 33)] * 2
    assert [weights.shape for weights in output.attentions] == [(B, 3, T, 7)]  # all places of the cache
    assert [weights.shape for weights in output.cross_attentions] == [(B, 3, T, E)]
    for weights in (*output.attentions, *output.cross_attentions):
        is_close(weights.sum(-1), jnp.ones((B, 3, T)))


def test_without_an_encoder_there_are_no_cross_attentions(crossed: FlaxGPT2LMHeadModel) -> None:
    assert list(crossed(IDS, output_attentions=True)) == ["logits", "attentions"]


def test_a_tuple_holds_what_the_object_holds_with_the_cache_behind_the_first(
    crossed: FlaxGPT2LMHeadModel,
) -> None:
    asked: dict[str, Any] = {
        "encoder_hidden_states": ENCODER,
        "output_attentions": True,
        "output_hidden_states": True,
    }
    cache = crossed.init_cache(B, 7)
    for past in ({}, {"past_key_values": cache}):
        wanted = crossed(IDS, **asked, **past).to_tuple()
        given = crossed(IDS, **asked, **past, return_dict=False)
        assert type(given) is tuple
        assert len(given) == len(wanted) == 4 + len(past)
        jax.tree.map(np.testing.assert_array_equal, given, wanted)
    assert given[1]["transformer"]["h"]["0"]["attn"]["cache_index"] == T


def test_the_last_hidden_states_are_those_that_the_head_reads(model: FlaxGPT2LMHeadModel) -> None:
    body = FlaxGPT2Model(CONFIG, _do_init=False)
    params = model.params["transformer"]
    output = body(IDS, params=params, output_hidden_states=True)
    assert type(output) is FlaxBaseModelOutputWithPastAndCrossAttentions
    assert list(output) == ["last_hidden_state", "hidden_states"]
    assert jnp.array_equal(output.hidden_states[-1], output.last_hidden_state)
    is_close(output.last_hidden_state @ params["wte"]["embedding"].T, model(IDS).logits)
    tables = params["wte"]["embedding"][IDS] + params["wpe"]["embedding"][:T]  # [B, T, D]
    is_close(output.hidden_states[0], tables)
    cached = body(IDS, params=params, past_key_values=body.init_cache(B, 7), return_dict=False)
    assert cached[1]["h"]["2"]["attn"]["cache_index"] == T
    assert not hasattr(body, "generate")


def test_outputs_are_trees_that_jit_and_vmap_return_and_that_can_be_changed(
    model: FlaxGPT2LMHeadModel,
) -> None:
    def call(ids: Array) -> Any:
        return model(ids, past_key_values=model.init_cache(len(ids), 7), output_attentions=True)

    wanted, compiled = call(IDS), jax.jit(call)(IDS)
    assert type(compiled) is type(wanted)
    assert list(compiled) == list(wanted)
    is_close(compiled, wanted)
    mapped = jax.vmap(lambda ids: call(ids[None]))(jnp.asarray(IDS))
    assert list(mapped) == list(wanted)
    assert mapped.logits.shape == (B, 1, T, 101)
    is_close(mapped.logits[:, 0], wanted.logits)
    is_close(mapped.attentions[2][:, 0], wanted.attentions[2])
    leaves, structure = jax.tree.flatten(wanted)
    assert type(jax.tree.unflatten(structure, leaves)) is type(wanted)
    assert "past_key_values" not in wanted.replace(past_key_values=None)
    assert "past_key_values" in wanted  # the copy was changed, not this
    with pytest.raises(AttributeError, match="no field 'logit'"):
        wanted.replace(logit=1)


# --------------------------------------------------------------------------- transformations


def test_the_gradient_of_a_batch_is_the_mean_of_those_of_its_rows() -> None:
    model = build_flax(SMALL, WEIGHTS)

    def loss(params: Any, row: Array) -> Array:
        return next_token_loss(model(row[None], params=params).logits, row[None])  # []

    rows = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(model.params, jnp.asarray(IDS))
    whole = jax.jit(jax.grad(lambda params: loss_of(model, params)))(model.params)
    is_close(jax.tree.map(lambda leaf: leaf.mean(0), rows), whole)


def test_parameters_of_any_dtype_compute_in_the_dtype_of_the_model(model: FlaxGPT2LMHeadModel) -> None:
    stored = model.to_fp16(model.params)
    is_close(model(IDS, params=stored).logits, model(IDS, params=model.to_fp32(stored)).logits, 0)
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: "ln_" not in jax.tree_util.keystr(path), model.params
    )
    mixed = model.to_bf16(model.params, mask)
    logits = model(IDS, params=jax.tree.map(np.asarray, mixed)).logits  # NumPy's arrays serve too
    assert logits.dtype == jnp.float32
    is_close(logits, model(IDS, params=model.to_fp32(mixed)).logits, 0)


def test_checkpointing_keeps_less_and_has_the_same_outputs_and_gradients() -> None:
    model = build_flax(SMALL, WEIGHTS)
    saving = copy.copy(model)
    saving.enable_gradient_checkpointing()
    held, found = [], []
    for each in (model, saving):

        def loss(params: Any, each: FlaxGPT2LMHeadModel = each) -> Array:
            output = each(IDS, params=params, past_key_values=model.init_cache(B, 7), output_attentions=True)
            return next_token_loss(output.logits, jnp.asarray(IDS))  # []

        kept = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], model.params)
        held.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)))
        found.append(jax.jit(jax.value_and_grad(loss))(model.params))
    assert held[1] < 0.8 * held[0]  # both hold the parameters
    is_close(found[1], found[0])
    assert not model.module.gradient_checkpointing


# --------------------------------------------------------------------------- dtypes


def test_half_precision_stays_near_float32(model: FlaxGPT2LMHeadModel) -> None:
    mask = np.array([[0, 1, 1, 1, 1], [1] * T])  # [B, T]
    wanted = model(IDS, attention_mask=mask).logits[mask == 1]
    scale = float(jnp.abs(wanted).max())
    # 8 and 11 bits, rounded at each of about ten steps. Measured 0.016 and 0.0022.
    for dtype, tolerance in ((jnp.bfloat16, 0.05), (jnp.float16, 0.01)):
        half = build_flax(CONFIG, WEIGHTS, dtype=dtype)
        for params in (half.params, half.to_fp16(half.params)):
            logits = half(IDS, attention_mask=mask, params=params).logits
            assert logits.dtype == dtype
            assert float(jnp.abs(logits[mask == 1] - wanted).max()) < tolerance * scale


def test_scores_beyond_float16_are_computed_in_float32() -> None:
    draw = np.random.default_rng(3)
    query, key = draw.integers(-9, 9, (2, B, T, 3, 11)) * 64.0  # [B, T, H, K]; float16 holds them
    value = draw.integers(-9, 9, (B, T, 3, 11)) * 1.0  # [B, T, H, K]
    scores = np.einsum("bthk,bshk->bhts", query, key) / 2**14  # [B, H, T, S]
    assert np.abs(scores * 2**14).max() > 3 * float(np.finfo(np.float16).max)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)  # [B, H, T, S]
    half = [jnp.asarray(each, jnp.float16) for each in (query, key, value)]
    for queries in (T, 1):
        mixed, found = attend(half[0][:, :queries], *half[1:], unchanged, 2.0**14, unchanged)
        assert mixed.dtype == found.dtype == jnp.float16
        is_close(found, weights[:, :, :queries], 1e-3)  # 11 bits
        is_close(mixed, np.einsum("bhts,bshk->bthk", weights[:, :, :queries], value), 1e-2)


def test_a_model_whose_scores_leave_float16_has_no_nan() -> None:
    weights = {
        name: values * (30 if name.endswith("attn.c_attn.weight") else 1) for name, values in WEIGHTS.items()
    }
    half = build_flax(tiny_config("unscaled"), weights, dtype=jnp.float16)
    assert jnp.isfinite(half(IDS).logits).all()


@pytest.mark.parametrize("dtype", ["int32", "float99", "complex64", None, 3])
def test_an_unknown_dtype_is_refused(dtype: Any) -> None:
    with pytest.raises(ConfigError, match=r"dtype should be one of float16, bfloat16, float32, float64, but"):
        FlaxGPT2Model(CONFIG, dtype=dtype)


def test_float64_is_refused_where_jax_would_make_it_float32() -> None:
    with pytest.raises(ConfigError, match=r"silently become float32.*jax\.enable_x64\(True\)"):
        FlaxGPT2Model(CONFIG, dtype="float64")
    with jax.enable_x64(True):
        exact = build_flax(CONFIG, WEIGHTS, dtype=jnp.float64)
        output = jax.eval_shape(lambda ids: exact(ids, output_attentions=True), IDS)
        assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {jnp.dtype("float64")}
        assert exact.init_cache(B, 7)["transformer"]["h"]["0"]["attn"]["cached_key"].dtype == jnp.float64


# --------------------------------------------------------------------------- dropout

RATE = 0.5
KEY = jax.random.PRNGKey(7)


def test_training_with_dropout_needs_a_key() -> None:
    for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
        with pytest.raises(InputError, match=rf"{name}=0\.5.*needs dropout_rng.*jax\.random\.PRNGKey"):
            build_flax(tiny_config(**{name: RATE}), WEIGHTS)(IDS, train=True)


def test_without_rates_or_without_training_nothing_is_dropped(model: FlaxGPT2LMHeadModel) -> None:
    wanted = model(IDS).logits
    dropping = build_flax(tiny_config(embd_pdrop=RATE, attn_pdrop=RATE, resid_pdrop=RATE), WEIGHTS)
    assert jnp.array_equal(model(IDS, train=True).logits, wanted)
    assert jnp.array_equal(dropping(IDS).logits, wanted)
    assert jnp.array_equal(dropping(IDS, dropout_rng=KEY).logits, wanted)


def dropped(found: Array, whole: Array) -> None:
    """See that of `whole` some numbers are 0 and the others divided by what is kept."""
    is_zero = np.asarray(found == 0)
    assert 0.2 < is_zero.mean() < 0.8
    is_close(found, jnp.where(is_zero, 0, whole / (1 - RATE)))


def test_embeddings_are_dropped(model: FlaxGPT2LMHeadModel) -> None:
    dropping = build_flax(tiny_config(embd_pdrop=RATE), WEIGHTS)
    found = dropping(IDS, train=True, dropout_rng=KEY, output_hidden_states=True)
    dropped(found.hidden_states[0], model(IDS, output_hidden_states=True).hidden_states[0])


@pytest.mark.parametrize("field", ["attentions", "cross_attentions"])
def test_attention_weights_are_dropped(crossed: FlaxGPT2LMHeadModel, field: str) -> None:
    dropping = build_flax(
        tiny_config("cross_attention", n_layer=1, attn_pdrop=RATE), random_checkpoint(CROSS)
    )
    asked = {"encoder_hidden_states": ENCODER, "output_attentions": True}
    found = dropping(IDS, **asked, train=True, dropout_rng=KEY)[field][0]
    whole = crossed(IDS, **asked)[field][0]
    if field == "attentions":
        shown = np.tri(T, dtype=bool)  # [T, S]
        dropped(found[:, :, shown], whole[:, :, shown])
    else:  # what stands before is dropped too, so that its weights are others
        assert 0.2 < float((found == 0).mean()) < 0.8


@pytest.mark.parametrize("part", ["attn", "crossattention", "mlp"])
def test_what_each_part_adds_to_the_residual_stream_is_dropped(part: str) -> None:
    config = tiny_config("cross_attention", n_layer=2)  # of one layer, the last states have been normed
    crossed = build_flax(config, random_checkpoint(config))
    params = jax.tree.map(lambda leaf: leaf, crossed.params)  # dictionaries of its own
    for other in {"attn", "crossattention", "mlp"} - {part}:
        block = params["transformer"]["h"]["0"][other]
        block["c_proj"] = jax.tree.map(jnp.zeros_like, block["c_proj"])
    dropping = build_flax(
        tiny_config("cross_attention", n_layer=2, resid_pdrop=RATE), random_checkpoint(config)
    )
    asked = {"encoder_hidden_states": ENCODER, "output_hidden_states": True, "params": params}
    found = dropping(IDS, **asked, train=True, dropout_rng=KEY).hidden_states
    whole = crossed(IDS, **asked).hidden_states
    added = jnp.where(jnp.abs(found[1] - found[0]) < 1e-5, 0, found[1] - found[0])  # [B, T, D]
    dropped(added, whole[1] - whole[0])


def test_a_key_decides_what_is_dropped_compiled_or_not(model: FlaxGPT2LMHeadModel) -> None:
    dropping = build_flax(tiny_config(embd_pdrop=RATE, attn_pdrop=RATE, resid_pdrop=RATE), WEIGHTS)

    def call(key: Array) -> Array:
        return dropping(IDS, train=True, dropout_rng=key).logits  # [B, T, V]

    found = call(KEY)
    assert jnp.array_equal(found, call(KEY))
    assert differs(found, call(jax.random.PRNGKey(8)))
    assert differs(found, model(IDS).logits)
    is_close(jax.jit(call)(KEY), found)
    is_close(call(jax.random.key(7)), found)  # a key of the new style
    with pytest.raises(InputError, match=r"dropout_rng should be a key.*but it is 7"):
        dropping(IDS, train=True, dropout_rng=7)


# --------------------------------------------------------------------------- masks

MASKS: dict[str, Any] = {
    "a row of padding": [[0] * T, [1] * T],
    "padding on the left": [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]],
    "padding inside and on the right": [[1, 0, 1, 1, 0], [1, 1, 1, 0, 0]],
    "by query, with queries that see nothing": [np.tri(T, k=-1), np.eye(T)],
}


@pytest.mark.parametrize("name", MASKS)
def test_rows_that_see_nothing_have_the_numbers_of_the_eager_kernel(
    model: FlaxGPT2LMHeadModel, name: str
) -> None:
    torch = pytest.importorskip("torch", reason="compares with the PyTorch room")
    from gpt2kit import GPT2LMHeadModel

    mask = np.array(MASKS[name])
    other = GPT2LMHeadModel.from_pretrained(
        None,
        config=CONFIG,
        state_dict={key: torch.from_numpy(values) for key, values in WEIGHTS.items()},
        attn_implementation="eager",
    )
    with torch.no_grad():
        wanted = other(torch.from_numpy(IDS), attention_mask=torch.from_numpy(mask), output_attentions=True)
    found = model(IDS, attention_mask=mask, output_attentions=True)
    is_close(found.logits, wanted.logits.numpy())
    is_close(found.attentions, tuple(weights.numpy() for weights in wanted.attentions))
    cached = model(IDS, attention_mask=mask, past_key_values=model.init_cache(B, 7))
    is_close(cached.logits, found.logits)  # places that nothing was written to have no weight


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rows_that_see_nothing_give_no_nan_in_numbers_or_gradients(dtype: Any) -> None:
    each = build_flax(CROSS, random_checkpoint(CROSS), dtype=dtype)
    asked = {
        "attention_mask": jnp.array(MASKS["a row of padding"]),
        "encoder_hidden_states": ENCODER,
        "encoder_attention_mask": jnp.array([[0] * E, [1] * E]),
    }
    found = jax.jit(jax.value_and_grad(lambda params: loss_of(each, params, **asked)))(each.params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(model: FlaxGPT2LMHeadModel, side: str) -> None:
    text = IDS[:, :3]
    padding = np.full((B, 2), 89)  # [B, 2]
    parts = [padding, text] if side == "left" else [text, padding]
    shown = np.concatenate([np.full(part.shape, part is text) for part in parts], 1)  # [B, T]
    logits = model(np.concatenate(parts, 1), attention_mask=shown).logits
    is_close(logits[shown].reshape(B, 3, -1), model(text).logits)


def test_a_mask_may_be_of_any_dtype_and_a_position_after_the_query_stays_hidden(
    model: FlaxGPT2LMHeadModel,
) -> None:
    wanted = model(IDS).logits
    for dtype in (bool, np.int8, np.int64, np.float32):
        assert jnp.array_equal(model(IDS, attention_mask=np.ones((B, T), dtype)).logits, wanted)
    assert jnp.array_equal(model(IDS, attention_mask=np.ones((B, T, T))).logits, wanted)


# --------------------------------------------------------------------------- what 4.34's Flax lacks


def test_embeddings_and_token_types_are_added_up(model: FlaxGPT2LMHeadModel) -> None:
    table = model.params["transformer"]["wte"]["embedding"]
    types = (IDS * 7 + 3) % 101  # [B, T]
    wanted = model(IDS).logits
    is_close(model(None, inputs_embeds=table[IDS]).logits, wanted)
    typed = model(IDS, token_type_ids=types).logits
    assert differs(typed, wanted)
    is_close(model(None, inputs_embeds=table[IDS] + table[types]).logits, typed)
    is_close(model(IDS, token_type_ids=types[:1]).logits[:1], typed[:1])  # one row serves all


def test_a_head_mask_may_have_every_shape_of_the_pytorch_room(model: FlaxGPT2LMHeadModel) -> None:
    factors = np.array([0.5, 0.0, 1.5], np.float32)  # [H]
    wanted = model(IDS, head_mask=factors, output_attentions=True)
    plain = model(IDS, output_attentions=True)
    assert differs(wanted.logits, plain.logits)
    is_close(wanted.attentions[0], plain.attentions[0] * factors[:, None, None])
    for shape in ((3, 3), (3, 1, 3, 1, 1), (3, B, 3, T, T)):
        row = factors if len(shape) == 2 else factors[:, None, None]
        is_close(model(IDS, head_mask=np.broadcast_to(row, shape)).logits, wanted.logits)
    last = np.ones((3, 3), np.float32)  # [L, H]
    last[2] = factors
    is_close(model(IDS, head_mask=last, output_attentions=True).attentions[:2], plain.attentions[:2])
    assert differs(model(IDS, head_mask=last).logits, plain.logits)


def test_an_encoder_is_looked_at_where_its_mask_shows_it(crossed: FlaxGPT2LMHeadModel) -> None:
    by_row = np.ones((B, E), np.int32)  # [B, E]
    by_row[:, 4:] = 0
    by_query = np.tri(T, E, 2, dtype=np.int32)[None].repeat(B, 0)  # [B, T, E]
    for mask, unseen in ((by_row, slice(4, None)), (by_query, slice(2 + T, None))):
        other = ENCODER.copy()
        other[:, unseen] += 1
        wanted = crossed(IDS, encoder_hidden_states=ENCODER, encoder_attention_mask=mask).logits
        found = crossed(IDS, encoder_hidden_states=other, encoder_attention_mask=mask).logits
        is_close(found, wanted)
        other[:, 3] += 1
        found = crossed(IDS, encoder_hidden_states=other, encoder_attention_mask=mask).logits
        first = 0 if mask is by_row else 1  # the query before sees 0 to 2
        assert all(differs(found[:, t], wanted[:, t]) for t in range(first, T))
        is_close(found[:, :first], wanted[:, :first])
    repeated = np.broadcast_to(by_row[:, None], (B, T, E))
    found = crossed(IDS, encoder_hidden_states=ENCODER, encoder_attention_mask=repeated).logits
    is_close(found, crossed(IDS, encoder_hidden_states=ENCODER, encoder_attention_mask=by_row).logits)
    one = crossed(IDS, encoder_hidden_states=ENCODER[:1], encoder_attention_mask=by_row[:1]).logits
    both = np.broadcast_to(ENCODER[:1], ENCODER.shape)
    is_close(one, crossed(IDS, encoder_hidden_states=both, encoder_attention_mask=by_row).logits)


def pruned_weights(config: GPT2Config, weights: dict[str, Any]) -> dict[str, Any]:
    """Leave the pruned heads out of weights."""
    K, found = config.n_embd // config.n_head, dict(weights)
    for layer, heads in config.pruned_heads.items():
        name = f"transformer.h.{layer}.attn.c_"
        kernel = weights[name + "attn.weight"].reshape(33, 3, -1, K)  # [D, 3, H, K]
        found[name + "attn.weight"] = np.delete(kernel, heads, 2).reshape(33, -1)  # [D, 3*H'*K]
        bias = weights[name + "attn.bias"].reshape(3, -1, K)  # [3, H, K]
        found[name + "attn.bias"] = np.delete(bias, heads, 1).reshape(-1)  # [3*H'*K]
        kernel = weights[name + "proj.weight"].reshape(-1, K, 33)  # [H, K, D]
        found[name + "proj.weight"] = np.delete(kernel, heads, 0).reshape(-1, 33)  # [H'*K, D]
    return found


def test_a_pruned_head_is_gone_as_if_it_were_masked(model: FlaxGPT2LMHeadModel) -> None:
    config = tiny_config(pruned_heads={0: [1], 2: [0, 2]})
    pruned = build_flax(config, pruned_weights(config, WEIGHTS))
    shown = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 0]], np.float32)  # [L, H]
    output = pruned(IDS, output_attentions=True, past_key_values=pruned.init_cache(B, 7))
    is_close(output.logits, model(IDS, head_mask=shown).logits)
    assert [weights.shape[1] for weights in output.attentions] == [2, 3, 1]
    assert output.past_key_values["transformer"]["h"]["2"]["attn"]["cached_key"].shape == (B, 7, 1, 11)
    factors = np.array([[0.5, 9, 1.5], [2, 1, 0], [9, 0.3, 9]], np.float32)  # [L, H]; 9 for what is gone
    is_close(pruned(IDS, head_mask=factors).logits, model(IDS, head_mask=factors * shown).logits)
    assert params_of(config, pruned_weights(config, WEIGHTS))["transformer"]["h"]["0"]["attn"]["c_attn"][
        "kernel"
    ].shape == (66, 33)
