"""What XLA makes of a step: the products with weights, and the places of a cache.

Dimensions: B batch, T positions, D n_embd, H heads, S places, K width of a head.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from gpt2kit import GPT2Config
from gpt2kit.tensorflow import TFGPT2LMHeadModel
from gpt2kit.tensorflow.cache import merged, parted, write
from gpt2kit.tensorflow.product import affine


def compiled(function: Any) -> Any:
    return tf.function(function, jit_compile=True, autograph=False)


@pytest.mark.parametrize(("rows", "nx"), [(1, 26), (1, 33), (3, 26)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_is_the_same_in_a_compiled_program(rows: int, nx: int, dtype: str) -> None:
    drawn = np.random.default_rng(5)
    given = [drawn.standard_normal(shape).astype(dtype) for shape in ((rows, nx), (nx, 7), (7,))]
    wanted = given[0].astype("float64") @ given[1] + given[2]
    # Sums of 33 products at most, of numbers about 1; the largest difference was 5e-7 and 9e-16.
    tolerance = 5e-6 if dtype == "float32" else 1e-14
    for product in (affine, compiled(affine)):
        np.testing.assert_allclose(product(*map(tf.constant, given)), wanted, atol=tolerance)


def test_the_gradient_of_a_product_is_the_same_in_a_compiled_program() -> None:
    drawn = np.random.default_rng(7)
    given = [tf.constant(drawn.standard_normal(shape), tf.float32) for shape in ((1, 26), (26, 7), (7,))]

    def slopes(*given: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(given)
            result = tf.reduce_sum(affine(*given) ** 2)
        return tape.gradient(result, given)

    for mine, other in zip(compiled(slopes)(*given), slopes(*given), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)  # of numbers up to 100; the difference was 1e-5


@pytest.mark.parametrize(("T", "start"), [(1, 0), (1, 6), (3, 2)])
def test_a_cache_is_written_to_at_the_same_places_in_a_compiled_program(T: int, start: int) -> None:
    B, H, S, K = 2, 3, 7, 5
    cached = tf.reshape(tf.range(B * H * S * K, dtype=tf.float32), (B, H, S, K))
    new = -1 - tf.reshape(tf.range(B * H * T * K, dtype=tf.float32), (B, H, T, K))
    wanted = cached.numpy()
    wanted[:, :, start : start + T] = new
    for function in (write, tf.function(write), compiled(write)):
        np.testing.assert_array_equal(function(cached, new, tf.constant(start)), wanted)


@pytest.mark.parametrize(("T", "start"), [(1, 6), (3, 2)])
def test_the_gradient_of_what_was_written_is_the_same_in_a_compiled_program(T: int, start: int) -> None:
    drawn = np.random.default_rng(11)
    given = [tf.constant(drawn.standard_normal((2, 3, size, 5))) for size in (7, T)]

    def slopes(cached: Any, new: Any, start: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((cached, new))
            result = tf.reduce_sum(write(cached, new, start) ** 3)
        return tape.gradient(result, (cached, new))

    wanted = slopes(*given, tf.constant(start))
    assert not wanted[0][:, :, start : start + T].numpy().any()  # what was written over counts for nothing
    for mine, other in zip(compiled(slopes)(*given, tf.constant(start)), wanted, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12)


def test_a_cache_with_rows_and_heads_in_one_axis_comes_back_as_it_was() -> None:
    states = tf.reshape(tf.range(2 * 3 * 7 * 5), (2, 3, 7, 5))
    ((keys, values),) = merged(((states, -states),))
    assert keys.shape == values.shape == (6, 7, 5)
    ((keys, values),) = parted(((keys, values),), 2)
    np.testing.assert_array_equal(keys, states)
    np.testing.assert_array_equal(values, -states)


def test_no_step_of_a_compiled_generation_copies_the_cache() -> None:
    config = GPT2Config(vocab_size=101, n_positions=64, n_embd=34, n_layer=1, n_head=2)
    model = TFGPT2LMHeadModel(config)

    @compiled
    def generate(ids: Any) -> Any:
        return model.generate(ids, max_new_tokens=19, pad_token_id=0)

    program = generate.experimental_get_compiler_ir(tf.ones((1, 5), tf.int32))("optimized_hlo")
    (body,) = re.findall(r"^%\S*while_body.*?^}", program, re.MULTILINE | re.DOTALL)
    cache = r"f32\[(?:1,)?2,23,17\]\S*"  # 23 of 24 tokens are read
    assert re.search(rf" = {cache} fusion\(", body), "the cache has another shape than this test looks for"
    assert not re.search(rf" = {cache} copy\(", body)
