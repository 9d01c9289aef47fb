"""TrainingConfig: what it refuses, what it derives, how it is kept."""

from __future__ import annotations

import dataclasses
import json

import pytest

from gpt2kit.errors import TrainingError
from gpt2kit.training.config import TrainingConfig, option_names


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"accumulation": 0}, "accumulation"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"loss_chunk_size": -1}, "loss_chunk_size must be a whole number of at least 0"),
        ({"seed": 2**63}, "seed must be less than"),
        ({"vocab_size": 256}, "vocab_size must be a whole number of at least 257"),
        ({"eval_fraction": 1.0}, "eval_fraction must be at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout must be at least 0 and less than 1"),
        ({"learning_rate": 0.0}, "learning_rate must be more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be more than 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be more than 0"),
        ({"final_learning_rate": 1.5}, "final_learning_rate must be at least 0 and at most 1"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"clip": -1.0}, "clip must be at least 0"),
        ({"epochs": 0.0}, "epochs must be more than 0"),
        ({"precision": "fp16"}, "precision must be one of fp32, bf16, got 'fp16'"),
        ({"save_dtype": "int8"}, "save_dtype must be one of"),
        ({"steps": 5, "epochs": 1.0}, "give one of them"),
        ({"tokenizer": "gpt2", "vocab_size": 300}, "give one of them"),
        ({"eval_file": "a.txt", "eval_fraction": 0.1}, "give one of them"),
        ({"model": "gpt2", "n_layer": 3}, "leave out n_layer"),
        ({"model": "gpt2", "vocab_size": 300}, "leave out vocab_size"),
    ],
)
def test_what_cannot_work_is_refused_with_its_name(settings, named):
    with pytest.raises(TrainingError, match=named):
        TrainingConfig(**settings)


def test_every_field_has_a_help_text_and_a_group():
    for field in dataclasses.fields(TrainingConfig):
        assert field.metadata["help"].endswith((".", ")."))
        assert field.metadata["group"]


def test_sizes_are_gpt2_smalls_where_they_are_not_given():
    assert TrainingConfig(n_layer=3).sizes() == {
        "n_layer": 3,
        "n_head": 12,
        "n_embd": 768,
        "n_positions": 1024,
    }


def test_dropout_sets_all_three_and_attention_dropout_its_own():
    assert TrainingConfig().dropouts() == {}
    assert TrainingConfig(dropout=0.2, attention_dropout=0.0).dropouts() == {
        "embd_pdrop": 0.2,
        "resid_pdrop": 0.2,
        "attn_pdrop": 0.0,
    }


def test_a_tenth_is_held_out_unless_told_otherwise():
    assert TrainingConfig().held_out_fraction == 0.1
    assert TrainingConfig(eval_fraction=0.0).held_out_fraction == 0.0


def test_fine_tuning_has_a_smaller_learning_rate():
    assert TrainingConfig(model="gpt2").peak_learning_rate == 5e-5
    assert TrainingConfig().peak_learning_rate == 6e-4
    assert TrainingConfig(model="gpt2", learning_rate=1e-3).peak_learning_rate == 1e-3


def test_it_is_the_same_after_saving_and_loading(tmp_path):
    config = TrainingConfig(steps=7, learning_rate=0.1, precision="bf16", eval_file="a.txt")
    config.save(tmp_path / "training.json")
    assert TrainingConfig.load(tmp_path / "training.json") == config
    assert list(json.loads((tmp_path / "training.json").read_text())) == option_names()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "holds no run"),
        ("{", "not the JSON"),
        ("[]", "no table"),
        ('{"speed": 3}', "does not know: speed"),
    ],
)
def test_a_training_json_that_is_none_is_refused(tmp_path, content, named):
    path = tmp_path / "training.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TrainingError, match=named):
        TrainingConfig.load(path)


def test_changes_names_what_differs():
    assert TrainingConfig(seed=1).changes({"seed": 2, "batch_size": 8}) == {"seed": (1, 2)}


def test_the_framework_of_a_run_from_before_there_were_two_is_torch(tmp_path):
    content = dataclasses.asdict(TrainingConfig(steps=7))
    del content["framework"]
    (tmp_path / "training.json").write_text(json.dumps(content))
    assert TrainingConfig.load(tmp_path / "training.json") == TrainingConfig(steps=7, framework="torch")


def test_an_unknown_framework_is_refused():
    with pytest.raises(TrainingError, match="framework must be one of torch, flax, tensorflow, got 'keras'"):
        TrainingConfig(framework="keras")
