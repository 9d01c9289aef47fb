"""The body and the other heads compute what transformers 4.34.0 computed; test_goldens has the first head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivers import drivers
from golden_cases import fingerprint, projections, recorded_dtype
from golden_heads import call_names, config_of_call, inputs_of_call, weights_of_call
from tolerances import GOLDEN, GRADIENT

GOLDENS = np.load(Path(__file__).parent.parent / "golden" / "forward.npz")
CALLS = list(call_names())
FUSED = [names for names in CALLS if not names[2].startswith("head_mask")]  # that kernel takes no head mask
# A span may start in the padding, so the loss has gradients for what sees padding only; they are others there
# with the fused kernel (docs/differences.md).
LOSS_OF_HIDDEN_ROWS = ("GPT2ForQuestionAnswering", "default", "left", "sdpa")
KINDS = {"fingerprint", "gradients", "head_mask_gradient"}  # what a golden holds besides outputs


def golden(*names: str) -> dict[str, Any]:
    """Return the fields of one golden."""
    start = "/".join(names) + "/"
    return {name.removeprefix(start): GOLDENS[name] for name in GOLDENS.files if name.startswith(start)}


def assert_close(actual: Any, wanted: Any, tolerance: float, what: str) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance, err_msg=what)


@pytest.mark.parametrize(("cls", "case", "call"), CALLS)
def test_the_goldens_were_recorded_of_these_weights_and_arguments(cls: str, case: str, call: str) -> None:
    config = config_of_call(cls, case, call)
    given = fingerprint(weights_of_call(cls, config) | inputs_of_call(cls, config, call))
    assert str(golden(cls, case, call)["fingerprint"]) == given


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("driver", "cls", "case", "call", "kernel"),
    [
        (driver, *names, kernel)
        for kernel, calls in (("eager", CALLS), ("sdpa", FUSED))
        for names in calls
        for driver in drivers(kernel, names[0])
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_output_equals_the_golden(
    driver: Any, cls: str, case: str, call: str, kernel: str, dtype: str
) -> None:
    config, wanted = config_of_call(cls, case, call), golden(cls, case, call)
    tolerance = GOLDEN[dtype if recorded_dtype(config) == "float64" else "float32"]
    model = driver.build(config, weights_of_call(cls, config), dtype, kernel, cls)
    explicit = kernel == "eager"
    output = driver.call(
        model, **inputs_of_call(cls, config, call), output_attentions=explicit, output_hidden_states=True
    )
    names = set(wanted) - KINDS - (set() if explicit else {"attentions", "cross_attentions"})
    assert names
    for name in names:
        assert output[name].shape == wanted[name].shape, name
        assert_close(output[name], wanted[name], tolerance, name)


@pytest.mark.parametrize(
    ("driver", "cls", "case", "call", "kernel"),
    [
        (driver, *names, kernel)
        for kernel, calls in (("eager", CALLS), ("sdpa", FUSED))
        for names in calls
        for driver in drivers(kernel, names[0])
        if names[0] != "GPT2Model" and (*names, kernel) != LOSS_OF_HIDDEN_ROWS
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_gradients_of_every_parameter_equal_the_golden(
    driver: Any, cls: str, case: str, call: str, kernel: str
) -> None:
    config, wanted = config_of_call(cls, case, call), golden(cls, case, call)
    model = driver.build(config, weights_of_call(cls, config), "float64", kernel, cls)
    _, gradients = driver.gradients(model, **inputs_of_call(cls, config, call))
    head_mask_gradient = gradients.pop("head_mask", None)
    tolerance = GRADIENT[recorded_dtype(config)]
    largest = np.abs(wanted["gradients"]).max(1, keepdims=True)
    # What is zero but for rounding, as the bias of scores that a softmax compares, is measured by the rest.
    largest = np.maximum(largest, 1e-3 * largest.max())
    actual = projections(gradients)
    assert_close(actual / largest, wanted["gradients"] / largest, tolerance, str(sorted(gradients)))
    if "head_mask_gradient" in wanted:
        assert_close(head_mask_gradient, wanted["head_mask_gradient"], tolerance, "head_mask")
