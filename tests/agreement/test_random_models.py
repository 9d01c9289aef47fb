"""Every room equals gpt2kit/reference.py on random tiny models: forward, cache, kernels, padded and not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cases import configs, make_inputs, random_checkpoint
from drivers import drivers
from gpt2kit.config import GPT2Config
from gpt2kit.reference import gpt2
from tolerances import REFERENCE

PADDINGS = st.sampled_from([None, "none", "left", "right"])


def named(driver: Any) -> str:
    """Return what a driver is called in the id of a test."""
    return driver.name


def run(driver: Any, check: Any) -> None:
    """Try a check on as many random models as a room can be asked for."""
    few = settings(max_examples=driver.examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    few(check)()


def assert_close(actual: Any, wanted: Any, tolerance: float, what: str) -> None:
    np.testing.assert_allclose(actual, np.asarray(wanted), rtol=tolerance, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("driver", drivers("eager"), ids=named)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_explicit_kernel_equals_the_equations(driver: Any, dtype: str) -> None:
    @given(
        config=configs(),
        seed=st.integers(0, 1000),
        batch=st.integers(1, 3),
        length=st.integers(1, 7),
        padding=PADDINGS,
        token_types=st.booleans(),
        head_mask=st.booleans(),
    )
    def check(config: GPT2Config, seed: int, **wishes: Any) -> None:
        weights = random_checkpoint(config, seed)
        inputs = make_inputs(config, seed, **wishes).as_dict()
        wanted = gpt2(config, weights, **inputs)
        model = driver.build(config, weights, dtype, "eager")
        output = driver.call(model, **inputs, output_attentions=True, output_hidden_states=True)
        tolerance = REFERENCE[dtype]
        assert_close(output["logits"], wanted.logits, tolerance, "logits")
        assert_close(output["hidden_states"], wanted.hidden_states, tolerance, "hidden states")
        assert_close(output["attentions"], wanted.attentions, tolerance, "attentions")
        assert_close(output["past_key_values"], wanted.past_key_values, tolerance, "cache")
        if config.add_cross_attention:
            assert_close(output["cross_attentions"], wanted.cross_attentions, tolerance, "cross attentions")

    run(driver, check)


@pytest.mark.parametrize("driver", drivers("sdpa"), ids=named)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_fused_kernel_equals_the_equations(driver: Any, dtype: str) -> None:
    @given(
        config=configs(),
        seed=st.integers(0, 1000),
        batch=st.integers(1, 3),
        length=st.integers(1, 7),
        padding=PADDINGS,
    )
    def check(config: GPT2Config, seed: int, **wishes: Any) -> None:
        weights = random_checkpoint(config, seed)
        inputs = make_inputs(config, seed, **wishes).as_dict()
        wanted = gpt2(config, weights, **inputs)
        model = driver.build(config, weights, dtype, "sdpa")
        output = driver.call(model, **inputs, output_hidden_states=True)
        assert_close(output["logits"], wanted.logits, REFERENCE[dtype], "logits")
        assert_close(output["hidden_states"], wanted.hidden_states, REFERENCE[dtype], "hidden states")
        assert_close(output["past_key_values"], wanted.past_key_values, REFERENCE[dtype], "cache")

    run(driver, check)


@pytest.mark.parametrize(
    ("driver", "kernel"),
    [(driver, kernel) for kernel in ("eager", "sdpa") for driver in drivers(kernel)],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_cache_changes_nothing(driver: Any, kernel: str) -> None:
    @given(
        config=configs(),
        seed=st.integers(0, 1000),
        length=st.integers(2, 7),
        cuts=st.sets(st.integers(1, 6), max_size=3),
        padding=PADDINGS,
    )
    def check(config: GPT2Config, seed: int, length: int, cuts: set[int], padding: str | None) -> None:
        weights = random_checkpoint(config, seed)
        inputs = make_inputs(config, seed, length=length, padding=padding).as_dict()
        wanted = gpt2(config, weights, **inputs)
        model = driver.build(config, weights, "float64", kernel)
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask", None)
        start, past, logits = 0, None, []
        for end in (*sorted(cut for cut in cuts if cut < length), length):
            seen = None if mask is None else mask[:, :end]
            output = driver.step(
                model, input_ids=ids[:, start:end], attention_mask=seen, past_key_values=past, **inputs
            )
            past, start = output["past"], end
            logits.append(output["logits"])
        # A query that sees padding only looks at later positions too, as in 4.34; in pieces there are none.
        sighted = np.ones(ids.shape, bool) if mask is None else mask.cumsum(1) > 0  # [B, T]
        tolerance = REFERENCE["float64"]
        assert_close(np.concatenate(logits, axis=1)[sighted], wanted.logits[sighted], tolerance, "logits")
        kept = np.asarray(wanted.past_key_values).transpose(2, 4, 0, 1, 3, 5)[
            sighted
        ]  # [sighted, L, 2, H, K]
        cache = output["past_key_values"].transpose(2, 4, 0, 1, 3, 5)[sighted]  # [sighted, L, 2, H, K]
        assert_close(cache, kept, tolerance, "cache")

    run(driver, check)
