"""The rooms agree with one another on every output at every position, padded on either side."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from cases import CASES, make_inputs, random_checkpoint, tiny_config
from drivers import drivers

# Of the largest number of an output, because float32 has seven digits of it; at least of 1. Measured
# 3.3e-6 and 4.3e-15.
LARGEST = {"float32": 1e-5, "float64": 1e-10}


@pytest.mark.skipif(len(drivers("eager")) < 2, reason="one room is installed, and two are compared")
@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("case", CASES)
def test_every_output_is_that_of_the_other_rooms(case: str, dtype: str) -> None:
    config = tiny_config(case)
    weights = random_checkpoint(config)
    for padding in ("left", "right"):
        inputs = make_inputs(config, padding=padding, token_types=True, head_mask=True).as_dict()
        outputs = [
            driver.call(
                driver.build(config, weights, dtype, "eager"),
                **inputs,
                output_attentions=True,
                output_hidden_states=True,
            )
            for driver in drivers("eager")
        ]
        for one, other in combinations(outputs, 2):
            assert set(one) == set(other)
            for name in one:
                largest = max(1.0, float(np.abs(one[name]).max()))
                assert np.abs(one[name] - other[name]).max() <= LARGEST[dtype] * largest, name
