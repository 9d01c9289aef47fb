"""Every room computes what transformers 4.34.0 computed: every position of every output, and gradients."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivers import drivers
from golden_cases import (
    STEPS,
    arguments,
    call_names,
    config_of,
    fingerprint,
    projections,
    recorded_dtype,
    weights_of,
)
from tolerances import GOLDEN, GRADIENT

FOLDER = Path(__file__).parent.parent / "golden"
GOLDENS = np.load(FOLDER / "forward.npz")
CALLS = list(call_names())


def names(value: Any) -> str:
    """Return what a driver, or a name, is called in the id of a test."""
    return getattr(value, "name", value)


def golden(case: str, call: str) -> dict[str, Any]:
    """Return the fields of one golden."""
    start = f"{case}/{call}/"
    return {name.removeprefix(start): GOLDENS[name] for name in GOLDENS.files if name.startswith(start)}


def assert_close(actual: Any, wanted: Any, tolerance: float, what: str) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance, err_msg=what)


def test_the_golden_files_are_those_of_the_manifest() -> None:
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    assert manifest["recorded_from"]["transformers"] == "4.34.0"
    for name, wanted in manifest["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == wanted, name


@pytest.mark.parametrize(("case", "call"), CALLS, ids=["-".join(pair) for pair in CALLS])
def test_the_goldens_were_recorded_of_these_weights_and_arguments(case: str, call: str) -> None:
    config = config_of(case)
    assert str(golden(case, call)["fingerprint"]) == fingerprint(weights_of(config) | arguments(config, call))


@pytest.mark.parametrize("driver", drivers("eager"), ids=lambda driver: driver.name)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("case", "call"), [pair for pair in CALLS if pair[1] != "steps"], ids=lambda value: value
)
def test_the_explicit_kernel_equals_the_golden_at_every_position(
    driver: Any, case: str, call: str, dtype: str
) -> None:
    config, wanted = config_of(case), golden(case, call)
    tolerance = GOLDEN[dtype if recorded_dtype(config) == "float64" else "float32"]
    model = driver.build(config, weights_of(config), dtype, "eager")
    output = driver.call(model, **arguments(config, call), output_attentions=True, output_hidden_states=True)
    compared = 0
    for name in ("loss", "logits", "past_key_values", "hidden_states", "attentions", "cross_attentions"):
        if name in wanted:
            assert_close(output[name], wanted[name], tolerance, name)
            compared += 1
    assert compared >= 1


@pytest.mark.parametrize("driver", drivers("sdpa"), ids=lambda driver: driver.name)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("case", "call"),
    [pair for pair in CALLS if pair[1] not in ("steps", "head_mask", "head_mask_row")],
    ids=lambda value: value,
)
def test_the_fused_kernel_equals_the_golden_at_every_position(
    driver: Any, case: str, call: str, dtype: str
) -> None:
    config, wanted = config_of(case), golden(case, call)
    tolerance = GOLDEN[dtype if recorded_dtype(config) == "float64" else "float32"]
    model = driver.build(config, weights_of(config), dtype, "sdpa")
    output = driver.call(model, **arguments(config, call), output_hidden_states=True)
    for name in ("loss", "logits", "past_key_values", "hidden_states"):
        if name in wanted:
            assert_close(output[name], wanted[name], tolerance, name)


@pytest.mark.parametrize(
    ("driver", "kernel"),
    [(driver, kernel) for kernel in ("eager", "sdpa") for driver in drivers(kernel)],
    ids=names,
)
@pytest.mark.parametrize("case", [case for case, call in CALLS if call == "steps"])
def test_going_on_from_the_cache_equals_the_golden(driver: Any, case: str, kernel: str) -> None:
    config, wanted = config_of(case), golden(case, "steps")
    model = driver.build(config, weights_of(config), "float64", kernel)
    given = arguments(config, "steps")
    fixed = {name: value for name, value in given.items() if name.startswith("encoder")}
    start, past, logits = 0, None, []
    for count in STEPS:
        stop = start + count
        output = driver.call(
            model,
            input_ids=given["input_ids"][:, start:stop],
            attention_mask=given["attention_mask"][:, :stop],
            past_key_values=past,
            **fixed,
        )
        past = tuple((layer[0], layer[1]) for layer in output["past_key_values"])
        logits.append(output["logits"])
        start = stop
    tolerance = GOLDEN[recorded_dtype(config)]
    assert_close(np.concatenate(logits, axis=1), wanted["logits"], tolerance, "logits")
    if "past_key_values" in wanted:
        assert_close(output["past_key_values"], wanted["past_key_values"], tolerance, "past_key_values")


# The fused kernel takes no head mask, and in a row that sees padding only its gradients are others than those
# of 4.34 (docs/differences.md).
WITH_GRADIENTS = [
    (case, call, kernel)
    for case, call in CALLS
    for kernel in ("eager", "sdpa")
    if f"{case}/{call}/gradients" in GOLDENS.files and (kernel == "eager" or call in ("plain", "left"))
]


@pytest.mark.parametrize(
    ("driver", "case", "call", "kernel"),
    [(driver, *call) for call in WITH_GRADIENTS for driver in drivers(call[-1])],
    ids=names,
)
def test_the_gradients_of_every_parameter_equal_the_golden(
    driver: Any, case: str, call: str, kernel: str
) -> None:
    config, wanted = config_of(case), golden(case, call)
    model = driver.build(config, weights_of(config), "float64", kernel)
    _, gradients = driver.gradients(model, **arguments(config, call))
    head_mask_gradient = gradients.pop("head_mask", None)
    tolerance = GRADIENT[recorded_dtype(config)]
    actual, largest = projections(gradients), np.abs(wanted["gradients"]).max(1, keepdims=True)
    assert_close(actual / largest, wanted["gradients"] / largest, tolerance, str(sorted(gradients)))
    if "head_mask_gradient" in wanted:
        assert_close(head_mask_gradient, wanted["head_mask_gradient"], tolerance, "head_mask")
