from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from cases import random_checkpoint, tiny_config
from gpt2kit.checkpoint import (
    check_tied,
    compare,
    match_names,
    open_checkpoint,
    save_safetensors,
    tensor_specs,
)
from gpt2kit.errors import CheckpointError, ShapeMismatchError

CONFIG = tiny_config()
SPECS = tensor_specs(CONFIG)
TENSORS = random_checkpoint(CONFIG)


def without_prefix(names: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix("transformer."): value for name, value in names.items()}


@pytest.mark.parametrize("head", ["none", "lm"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_names_with_and_without_prefix_fit_models_with_and_without_head(head: str, prefixed: bool) -> None:
    stored = TENSORS if prefixed else without_prefix(TENSORS)
    specs = tensor_specs(CONFIG, head=head)  # type: ignore[arg-type]
    report = compare(specs, stored)
    assert report.info() == {
        "missing_keys": [],
        "unexpected_keys": [],
        "mismatched_keys": [],
        "error_msgs": [],
    }
    assert set(report.found) == {spec.name for spec in specs if spec.tied_to is None}
    assert set(report.found.values()) == set(stored)


def test_old_buffers_are_known_and_ignored() -> None:
    buffers = ["h.0.attn.bias", "transformer.h.2.attn.masked_bias", "h.1.crossattention.bias"]
    report = match_names(SPECS, [*TENSORS, *buffers])
    assert report.ignored == buffers
    assert report.unexpected == []
    assert "transformer.h.0.attn.c_attn.bias" in report.found


def test_a_tied_head_is_not_missing_and_not_unexpected() -> None:
    assert match_names(SPECS, TENSORS).missing == []
    report = match_names(SPECS, [*TENSORS, "lm_head.weight"])
    assert report.tied == {"lm_head.weight": "lm_head.weight"}
    assert report.unexpected == []


def test_an_untied_head_that_is_not_there_is_missing() -> None:
    assert match_names(tensor_specs(tiny_config("untied")), TENSORS).missing == ["lm_head.weight"]


def test_a_head_that_the_model_does_not_have_is_unexpected() -> None:
    report = match_names(tensor_specs(CONFIG, head="none"), [*TENSORS, "lm_head.weight", "score.weight"])
    assert report.unexpected == ["lm_head.weight", "score.weight"]


def test_missing_tensors_and_wrong_shapes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    stored = dict(TENSORS)
    del stored["transformer.h.1.mlp.c_fc.bias"]
    stored["transformer.wpe.weight"] = np.zeros((7, 33), np.float32)
    report = compare(SPECS, stored)
    assert report.missing == ["transformer.h.1.mlp.c_fc.bias"]
    assert report.info()["mismatched_keys"] == [("transformer.wpe.weight", (7, 33), (13, 33))]
    assert "transformer.wpe.weight" not in report.found
    with pytest.raises(
        ShapeMismatchError, match=r"wpe\.weight is \[7, 33\] in the file and \[13, 33\].*ignore_mism"
    ):
        report.raise_if_mismatched("GPT2LMHeadModel")
    with caplog.at_level(logging.WARNING):
        report.log("GPT2LMHeadModel", "somewhere")
    assert "newly initialized: ['transformer.h.1.mlp.c_fc.bias']" in caplog.text
    assert "the shapes did not match" in caplog.text


def test_a_mismatch_is_caught_as_in_4_34() -> None:
    report = compare(SPECS, TENSORS | {"transformer.ln_f.bias": np.zeros(5)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        report.raise_if_mismatched("GPT2LMHeadModel")
    match_names(SPECS, TENSORS).raise_if_mismatched("GPT2LMHeadModel")


def test_a_tensor_under_two_names_is_refused() -> None:
    with pytest.raises(CheckpointError, match="under two names"):
        match_names(SPECS, [*TENSORS, "wte.weight"])


def test_tied_tensors_that_differ_are_refused(tmp_path: Path) -> None:
    wte = TENSORS["transformer.wte.weight"]
    for head, fits in ((wte, True), (wte + 1, False), (wte[:5], False), (wte.astype(np.float64), True)):
        save_safetensors(tmp_path, TENSORS | {"lm_head.weight": head})
        with open_checkpoint(tmp_path) as checkpoint:
            report = compare(SPECS, checkpoint)
            if fits:
                check_tied(SPECS, checkpoint, report)
            else:
                with pytest.raises(CheckpointError, match="Pass tie_word_embeddings=False"):
                    check_tied(SPECS, checkpoint, report)


def test_nothing_is_logged_where_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    compare(SPECS, TENSORS).log("GPT2LMHeadModel", "somewhere")
    assert caplog.text == ""
