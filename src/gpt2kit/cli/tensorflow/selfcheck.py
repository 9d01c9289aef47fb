"""What TensorFlow computes for `gpt2kit doctor` (cli/selfcheck.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from gpt2kit.cli.selfcheck import CONFIG, SPLIT, Case
from gpt2kit.cli.tensorflow import device as known
from gpt2kit.tensorflow import TFGPT2LMHeadModel
from gpt2kit.tensorflow.weights import table_of

__all__ = ["KERNELS", "devices", "logits"]

KERNELS = ("eager", "XLA")  # the room has one formula: as it stands, and compiled


def devices() -> list[dict[str, str]]:
    """List the devices that TensorFlow can compute on."""
    found = []
    for name, device in known.devices().items():
        details = {} if name == "cpu" else tf.config.experimental.get_device_details(device)
        found.append({"name": name, "description": details.get("device_name", "")})
    return found


def logits(device: str, kernel: str, case: Case) -> tuple[NDArray[Any], NDArray[Any]]:
    """Compute the logits [B, T, V] by one call, and by two with a cache."""

    def compute(ids: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        whole = model(ids, attention_mask=mask).logits  # [B, T, V]
        first = model(ids[:, :SPLIT], attention_mask=mask[:, :SPLIT], use_cache=True)
        rest = model(ids[:, SPLIT:], attention_mask=mask, past_key_values=first.past_key_values)
        return whole, tf.concat([first.logits, rest.logits], axis=1)  # [B, T, V], [B, T, V]

    with tf.device(known.place(device)), exact(), reasons():
        model = TFGPT2LMHeadModel(CONFIG)
        for name, variable in table_of(model)[1].items():
            variable.assign(case.weights[name])
        run = compute if kernel == "eager" else tf.function(compute, jit_compile=True, autograph=False)
        whole, pieces = run(tf.constant(case.ids), tf.constant(case.mask))  # [B, T, V], [B, T, V]
        return whole.numpy(), pieces.numpy()


@contextmanager
def exact() -> Iterator[None]:
    """Let GPUs multiply float32 in all of its bits; that they use fewer is no fault of theirs."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@contextmanager
def reasons() -> Iterator[None]:
    """Raise what TensorFlow says of a device that cannot be used as the error that the check knows."""
    try:
        yield
    except tf.errors.OpError as error:
        raise RuntimeError(str(error)) from None
