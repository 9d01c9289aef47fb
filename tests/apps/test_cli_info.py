"""`gpt2kit info`: what a model is, without loading it and without a framework."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from gpt2kit import GPT2Config
from gpt2kit.checkpoint import save_safetensors, tensor_specs
from gpt2kit.checkpoint.write import save_tf
from gpt2kit.cli.info import size
from gpt2kit.cli.main import app

SIZES = {"vocab_size": 101, "n_positions": 13, "n_embd": 33, "n_layer": 3, "n_head": 3}
CONFIG = GPT2Config(**SIZES)


@pytest.fixture
def folder(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    specs = [spec for spec in tensor_specs(CONFIG, head="lm") if spec.tied_to is None]
    save_safetensors(tmp_path, {spec.name: np.zeros(spec.shape, np.float32) for spec in specs})
    return tmp_path


def info(*arguments):
    return CliRunner().invoke(app, ["info", *map(str, arguments)])


def test_json_has_the_counts_the_files_and_the_memory(folder):
    told = json.loads(info(folder, "--json").stdout)
    total = sum(spec.size for spec in tensor_specs(CONFIG, head="lm") if spec.tied_to is None)
    parts = told["parameters"]
    assert parts.pop("total") == sum(parts.values()) == total
    assert told["config"]["n_embd"] == 33
    weights = folder / "model.safetensors"
    assert {"name": weights.name, "bytes": weights.stat().st_size} in told["files"]
    assert told["weights"]["numbers_by_dtype"] == {"F32": total}
    memory = {row["dtype"]: (row["weights"], row["cache_per_1000_tokens"]) for row in told["memory"]}
    assert memory["float32"] == (4 * total, 1000 * 2 * 3 * 33 * 4)  # keys and values of 3 layers, 33 wide
    assert memory["int8"] == (total, 1000 * 2 * 3 * 33 * 2)  # the cache of int8 weights stays in 16 bits


def test_the_tables_have_the_same_numbers(folder):
    told = json.loads(info(folder, "--json").stdout)
    out = info(folder).stdout
    for count in told["parameters"].values():
        assert f"{count:,}" in out
    for file in told["files"]:
        assert file["name"] in out
        assert size(file["bytes"]) in out


def test_the_parameters_are_those_of_the_class_that_was_saved(tmp_path):
    GPT2Config(**SIZES, num_labels=7, architectures=["GPT2ForSequenceClassification"]).save_pretrained(
        tmp_path
    )
    parts = json.loads(info(tmp_path, "--json").stdout)["parameters"]
    assert parts["classification head"] == 7 * 33
    assert parts["total"] == sum(spec.size for spec in tensor_specs(CONFIG, head="none")) + 7 * 33
    assert "GPT2ForSequenceClassification" in info(tmp_path).stdout


def test_a_folder_without_weights_is_described_all_the_same(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    done = info(tmp_path)
    assert done.exit_code == 0
    assert "no safetensors, msgpack or HDF5" in " ".join(done.stdout.split())


def test_the_pocket_model_is_the_default():
    told = json.loads(info("--json").stdout)
    assert told["name"] == "pocket"
    assert told["weights"]["files"] == ["model.safetensors"]


def test_a_file_of_tensorflow_is_looked_into_without_tensorflow(tmp_path):
    specs = [spec for spec in tensor_specs(CONFIG, head="lm") if spec.tied_to is None]
    tensors = {spec.name: np.zeros(spec.shape, np.float32) for spec in specs}
    CONFIG.save_pretrained(tmp_path)
    save_tf(tmp_path, tensors, class_name="TFGPT2LMHeadModel")
    told = json.loads(info(tmp_path, "--json").stdout)
    assert told["weights"]["files"] == ["tf_model.h5"]
    assert told["weights"]["numbers_by_dtype"] == {"F32": told["parameters"]["total"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "JSON"), ('{"model_type": "bert"}', "bert"), ('{"n_embd": 7, "n_head": 3}', "n_head")],
)
def test_a_config_that_cannot_work_is_one_sentence(tmp_path, content, said):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    done = info(tmp_path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr


def test_a_truncated_file_of_weights_is_one_sentence(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = info(folder)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "model.safetensors" in done.stderr


def test_a_hub_name_that_is_not_on_this_disk_is_one_sentence_offline(tmp_path, monkeypatch):
    """In a process of its own, because huggingface_hub reads the variables when it is imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    command = [sys.executable, "-m", "gpt2kit", "info", "openai-community/gpt2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "openai-community/gpt2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7 bytes"), (1500, "1.5 kB"), (497_759_232, "497.8 MB"), (6_230_000_000, "6.2 GB")],
)
def test_sizes_are_in_powers_of_ten(count, text):
    assert size(count) == text
