from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
from cases import ACTIVATION_CASES, CASES, B, T, make_inputs, padding_mask, random_checkpoint, tiny_config
from gpt2kit.config import ACTIVATIONS
from gpt2kit.reference import ACTIVATION, gpt2

# float64 throughout: what should be equal differs by rounding alone, measured below 1e-13 on these sizes
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def test_there_is_a_formula_for_every_activation() -> None:
    assert set(ACTIVATION) == set(ACTIVATIONS) == set(ACTIVATION_CASES)


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("gelu_new", 1.0, 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))),
        ("gelu", -1.0, -0.5 * math.erfc(1 / math.sqrt(2))),
        ("gelu_10", 12.0, 10.0),
        ("relu", -2.0, 0.0),
        ("relu2", 3.0, 9.0),
        ("relu6", 7.0, 6.0),
        ("silu", 2.0, 2 / (1 + math.exp(-2))),
        ("quick_gelu", 1.0, 1 / (1 + math.exp(-1.702))),
        ("mish", 1.0, math.tanh(math.log(1 + math.e))),
        ("laplace", 0.707107, 0.5),
        ("sigmoid", -800.0, 0.0),
        ("linear", -3.0, -3.0),
        ("tanh", 0.5, math.tanh(0.5)),
    ],
)
def test_activations_at_known_points(name: str, x: float, y: float) -> None:
    assert ACTIVATION[name](np.array([x]))[0] == pytest.approx(y, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_shapes_of_every_output(case: str) -> None:
    config = tiny_config(case)
    output = gpt2(config, random_checkpoint(config), **make_inputs(config).as_dict())
    D, H, K, L = config.n_embd, config.n_head, config.n_embd // config.n_head, config.n_layer
    assert output.logits.shape == (B, T, config.vocab_size)
    assert [state.shape for state in output.hidden_states] == [(B, T, D)] * (L + 1)
    assert output.hidden_states[-1] is output.last_hidden_state
    assert [weights.shape for weights in output.attentions] == [(B, H, T, T)] * L
    assert [pair[1].shape for pair in output.past_key_values] == [(B, H, T, K)] * L
    assert len(output.cross_attentions) == (L if config.add_cross_attention else 0)


@settings(max_examples=25, deadline=None)
@given(config=cases.configs(), split=st.integers(1, T - 1), padding=st.sampled_from([None, "left", "right"]))
def test_the_cache_changes_nothing(config: cases.GPT2Config, split: int, padding: str | None) -> None:
    weights = random_checkpoint(config)
    inputs = make_inputs(config, padding=padding, token_types=True).as_dict()
    whole = gpt2(config, weights, **inputs)

    per_position = ("input_ids", "token_type_ids", "attention_mask")
    first = {name: value[:, :split] if name in per_position else value for name, value in inputs.items()}
    rest = {name: value[:, split:] if name in per_position[:2] else value for name, value in inputs.items()}
    past = gpt2(config, weights, **first).past_key_values
    second = gpt2(config, weights, past_key_values=past, **rest)
    seen = slice(None) if padding is None else padding_mask(padding)[:, split:] != 0
    np.testing.assert_allclose(second.logits[seen], whole.logits[:, split:][seen], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", ["default", "cross_attention_all_switches"])
def test_padding_on_either_side_changes_no_other_position(case: str, side: str) -> None:
    config = tiny_config(case)
    weights, inputs = random_checkpoint(config), make_inputs(config, padding=side).as_dict()
    padded = gpt2(config, weights, **inputs)
    for row in range(B):
        shown = padding_mask(side)[row] != 0
        alone = {name: value[row : row + 1] for name, value in inputs.items() if name != "attention_mask"}
        alone["input_ids"] = alone["input_ids"][:, shown]
        np.testing.assert_allclose(
            padded.logits[row, shown], gpt2(config, weights, **alone).logits[0], **CLOSE
        )


def test_rows_that_see_nothing_are_finite() -> None:
    config = tiny_config()
    output = gpt2(config, random_checkpoint(config), **make_inputs(config, padding="left").as_dict())
    assert np.isfinite(output.logits).all()


def test_no_position_sees_a_later_one() -> None:
    config = tiny_config()
    weights, ids = random_checkpoint(config), make_inputs(config).input_ids
    changed = ids.copy()
    changed[:, 3] = (changed[:, 3] + 1) % config.vocab_size
    before, after = gpt2(config, weights, ids).logits, gpt2(config, weights, changed).logits
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert not np.allclose(before[:, 3:], after[:, 3:])


def test_embeddings_in_place_of_tokens() -> None:
    config = tiny_config()
    weights, ids = random_checkpoint(config), make_inputs(config).input_ids
    given_embeddings = gpt2(config, weights, inputs_embeds=weights["transformer.wte.weight"][ids])
    np.testing.assert_allclose(given_embeddings.logits, gpt2(config, weights, ids).logits, **CLOSE)


def test_names_without_prefix_are_read() -> None:
    config = tiny_config("untied")
    weights, ids = random_checkpoint(config), make_inputs(config).input_ids
    plain = {name.removeprefix("transformer."): value for name, value in weights.items()}
    np.testing.assert_array_equal(gpt2(config, plain, ids).logits, gpt2(config, weights, ids).logits)


def test_a_head_that_is_masked_out_is_as_one_without_values() -> None:
    config = tiny_config()
    weights, ids = random_checkpoint(config), make_inputs(config).input_ids
    mask = np.ones((config.n_layer, config.n_head))
    mask[1, 2] = 0
    masked = gpt2(config, weights, ids, head_mask=mask)
    K = config.n_embd // config.n_head
    without = dict(weights) | {
        "transformer.h.1.attn.c_proj.weight": weights["transformer.h.1.attn.c_proj.weight"].copy()
    }
    without["transformer.h.1.attn.c_proj.weight"][2 * K :] = 0
    np.testing.assert_allclose(masked.logits, gpt2(config, without, ids).logits, **CLOSE)
    assert not masked.attentions[1][:, 2].any()
    per_head = gpt2(config, weights, ids, head_mask=[1, 0.5, 1])
    np.testing.assert_allclose(per_head.attentions[0][:, 1].sum(-1), 0.5, **CLOSE)


@pytest.mark.parametrize("case", ["inverse_layer", "unscaled", "large_epsilon", "one_head"])
def test_every_switch_makes_a_difference(case: str) -> None:
    config, plain = tiny_config(case), tiny_config()
    weights, ids = random_checkpoint(plain), make_inputs(plain).input_ids
    assert not np.allclose(gpt2(config, weights, ids).logits, gpt2(plain, weights, ids).logits)


@pytest.mark.parametrize("case", ["default", "cross_attention", "untied", "n_inner"])
def test_every_tensor_is_used(case: str) -> None:
    config = tiny_config(case)
    weights, inputs = random_checkpoint(config), make_inputs(config).as_dict()
    logits = gpt2(config, weights, **inputs).logits
    noise = np.random.default_rng(1)
    for name, value in weights.items():
        changed = weights | {name: value + 0.1 * noise.normal(size=value.shape)}
        assert not np.allclose(gpt2(config, changed, **inputs).logits, logits), name
