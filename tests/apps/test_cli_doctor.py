"""`gpt2kit doctor`: versions, devices, and a check that finds a device which computes wrongly."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gpt2kit import __version__
from gpt2kit.cli.framework import ROOMS, Framework
from gpt2kit.cli.main import app

needs_torch = pytest.mark.skipif(not ROOMS[Framework.torch].installed(), reason="PyTorch is not installed")
needs_flax = pytest.mark.skipif(not ROOMS[Framework.flax].installed(), reason="JAX is not installed")
needs_tensorflow = pytest.mark.skipif(
    not ROOMS[Framework.tensorflow].installed(), reason="TensorFlow is not installed"
)
EACH = [
    pytest.param("torch", marks=needs_torch),
    pytest.param("flax", marks=needs_flax),
    pytest.param("tensorflow", marks=needs_tensorflow),
]
KERNELS = {"torch": ["eager", "sdpa"], "flax": ["eager"], "tensorflow": ["eager", "XLA"]}


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


@pytest.fixture
def only(monkeypatch):
    """Let doctor find one framework and no other."""

    def hide(framework):
        monkeypatch.setattr("gpt2kit.cli.doctor.ROOMS", {Framework(framework): ROOMS[Framework(framework)]})

    return hide


@pytest.mark.skipif(not any(room.installed() for room in ROOMS.values()), reason="there is no framework")
def test_every_framework_passes_with_every_kernel():
    done = doctor("--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["versions"]["gpt2kit"] == __version__
    here = [framework.value for framework, room in ROOMS.items() if room.installed()]
    assert [device["framework"] for device in told["devices"] if device["name"] == "cpu"] == here
    kernels = {name: [] for name in here}
    for check in told["checks"]:
        assert check["ok"]
        assert 0 < check["error"] < check["allowed"]
        if check["device"] == "cpu":
            kernels[check["framework"]].append(check["attention"])
    assert kernels == {name: KERNELS[name] for name in here}


@pytest.mark.parametrize("framework", EACH)
def test_the_tables_tell_the_same(framework, only):
    only(framework)
    out = doctor().stdout
    for word in ("this machine", "libraries", framework, "cpu", "eager", "right"):
        assert word in out


def spoiled(framework, wrong):
    """Return the class of a framework, the name of its call, and a call that computes wrongly."""
    if framework == "torch":
        from gpt2kit import GPT2LMHeadModel as Model

        name = "forward"
    else:
        if framework == "flax":
            from gpt2kit import FlaxGPT2LMHeadModel as Model
        else:
            from gpt2kit import TFGPT2LMHeadModel as Model

        name = "__call__"
    right = getattr(Model, name)

    def call(self, input_ids, **arguments):
        if wrong == "mask":
            arguments["attention_mask"] = arguments["attention_mask"] * 0 + 1
        output = right(self, input_ids, **arguments)
        if wrong == "nan":
            output.logits = output.logits + float("nan")
        if wrong == "cache" and arguments.get("past_key_values") is not None:
            output.logits = output.logits + 0.001
        return output

    return Model, name, call


@pytest.mark.parametrize("framework", EACH)
@pytest.mark.parametrize("wrong", ["mask", "cache", "nan"])
def test_a_device_that_computes_wrongly_is_told_and_the_exit_code_is_1(framework, wrong, only, monkeypatch):
    only(framework)
    monkeypatch.setattr(*spoiled(framework, wrong))
    done = doctor("--json")
    assert done.exit_code == 1
    for check in json.loads(done.stdout)["checks"]:
        assert not check["ok"]
        assert (check["failure"] == "not a number") == (wrong == "nan")


@pytest.mark.parametrize("framework", EACH)
def test_a_device_that_cannot_be_used_is_told(framework, only, monkeypatch):
    from gpt2kit.cli import selfcheck

    def unusable(*arguments):
        raise RuntimeError("no kernel image\nand a long story")

    only(framework)
    monkeypatch.setattr(selfcheck, "largest_error", unusable)
    done = doctor()
    assert done.exit_code == 1
    assert "no kernel image" in done.stdout
    assert "story" not in done.stdout
    assert "WRONG" in done.stdout
    assert "right" not in done.stdout


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_a_framework_that_cannot_be_imported_is_told_and_the_exit_code_is_1(error, monkeypatch):
    """As where jax and jaxlib do not fit together, or a driver is missing."""

    def broken(framework, name):
        raise error("libfoo.so: no such file")

    monkeypatch.setattr("gpt2kit.cli.doctor.part", broken)
    monkeypatch.setattr("gpt2kit.cli.framework.importlib.util.find_spec", lambda name: name)
    done = doctor()
    assert done.exit_code == 1
    assert done.stdout.count("WRONG") == len(ROOMS)
    assert "libfoo.so" in done.stdout


def test_without_a_framework_it_says_so_and_is_content(monkeypatch):
    monkeypatch.setattr("gpt2kit.cli.framework.importlib.util.find_spec", lambda name: None)
    done = doctor()
    assert done.exit_code == 0
    assert "Neither PyTorch nor JAX nor TensorFlow is installed" in done.stderr


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_offline_is_told(value, offline, monkeypatch, tmp_path):
    monkeypatch.setattr("gpt2kit.cli.framework.importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    hub = json.loads(doctor("--json").stdout)["hub"]
    assert hub == {"cache": str(tmp_path), "exists": True, "offline": offline}
