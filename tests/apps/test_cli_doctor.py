"""`gpt2kit doctor`: versions, devices, and a check that finds a device which computes wrongly."""

from __future__ import annotations

import importlib.util
import json

import pytest
from typer.testing import CliRunner

from gpt2kit import __version__
from gpt2kit.cli.main import app

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the check computes with PyTorch"
)


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


@needs_torch
def test_a_right_device_passes_with_both_kernels():
    done = doctor("--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["versions"]["gpt2kit"] == __version__
    checks = {(check["device"], check["attention"]): check for check in told["checks"]}
    for kernel in ("eager", "sdpa"):
        assert checks["cpu", kernel]["ok"]
        assert 0 < checks["cpu", kernel]["error"] < checks["cpu", kernel]["allowed"]


@needs_torch
def test_the_tables_tell_the_same():
    out = doctor().stdout
    for word in ("this machine", "libraries", "cpu", "eager", "sdpa", "right"):
        assert word in out


@needs_torch
@pytest.mark.parametrize("wrong", ["mask", "cache", "nan"])
def test_a_device_that_computes_wrongly_is_told_and_the_exit_code_is_1(wrong, monkeypatch):
    import torch

    from gpt2kit import GPT2LMHeadModel

    right = GPT2LMHeadModel.forward

    def forward(self, input_ids, **arguments):
        if wrong == "mask":
            arguments["attention_mask"] = torch.ones_like(arguments["attention_mask"])
        output = right(self, input_ids, **arguments)
        if wrong == "nan":
            output.logits.fill_(float("nan"))
        if wrong == "cache" and "past_key_values" in arguments:
            output.logits.add_(0.001)
        return output

    monkeypatch.setattr(GPT2LMHeadModel, "forward", forward)
    done = doctor()
    assert done.exit_code == 1
    assert "WRONG" in done.stdout
    assert "right" not in done.stdout
    assert not any(check["ok"] for check in json.loads(doctor("--json").stdout)["checks"])


@needs_torch
def test_a_device_that_cannot_be_used_is_told(monkeypatch):
    from gpt2kit.cli import selfcheck

    def unusable(*arguments):
        raise RuntimeError("no kernel image is available\nand a long story")

    monkeypatch.setattr(selfcheck, "largest_error", unusable)
    done = doctor()
    assert done.exit_code == 1
    assert "no kernel image is available" in done.stdout
    assert "story" not in done.stdout


def test_without_a_framework_it_says_so_and_is_content(monkeypatch):
    monkeypatch.setattr("gpt2kit.cli.doctor.importlib.util.find_spec", lambda name: None)
    done = doctor()
    assert done.exit_code == 0
    assert "PyTorch is not installed" in done.stderr


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_offline_is_told(value, offline, monkeypatch, tmp_path):
    monkeypatch.setattr("gpt2kit.cli.doctor.importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    hub = json.loads(doctor("--json").stdout)["hub"]
    assert hub == {"cache": str(tmp_path), "exists": True, "offline": offline}
