"""The doors to the models: each opens its class, on a GPT-2 only."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub_server import HubServer

import gpt2kit
from cases import tiny_config
from gpt2kit import AutoModel, AutoModelForCausalLM, GPT2LMHeadModel
from gpt2kit.errors import ConfigError, InputError

CLASS_OF = {
    "AutoModel": "GPT2Model",
    "AutoModelForCausalLM": "GPT2LMHeadModel",
    "AutoModelForSequenceClassification": "GPT2ForSequenceClassification",
    "AutoModelForTokenClassification": "GPT2ForTokenClassification",
    "AutoModelForQuestionAnswering": "GPT2ForQuestionAnswering",
}
IDS = torch.tensor([[2, 3, 5, 7, 11]])  # [B, T]


def saved(folder: Path, name: str = "GPT2LMHeadModel", **changes: Any) -> Any:
    torch.manual_seed(3)
    model = getattr(gpt2kit, name)(tiny_config(**changes)).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("door", CLASS_OF)
def test_a_door_opens_its_class_with_the_weights_of_the_file(door: str, tmp_path: Path) -> None:
    model = saved(tmp_path, CLASS_OF[door])
    opened = getattr(gpt2kit, door).from_pretrained(tmp_path)
    assert type(opened) is type(model)
    assert not opened.training
    torch.testing.assert_close(opened(IDS)[0], model(IDS)[0], rtol=0, atol=0)


@pytest.mark.parametrize("door", CLASS_OF)
def test_a_door_makes_a_model_with_random_weights_from_a_configuration(door: str) -> None:
    config = tiny_config()
    torch.manual_seed(5)
    made = getattr(gpt2kit, door).from_config(config, torch_dtype=torch.bfloat16)
    torch.manual_seed(5)
    expected = getattr(gpt2kit, CLASS_OF[door])(config)
    assert type(made) is type(expected)
    assert made.dtype is torch.bfloat16
    for (name, found), wanted in zip(made.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted.bfloat16(), rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("door", CLASS_OF)
def test_a_door_is_not_made_by_calling_it(door: str) -> None:
    with pytest.raises(EnvironmentError, match=rf"{door}\.from_pretrained.*{door}\.from_config"):
        getattr(gpt2kit, door)(tiny_config())


@pytest.mark.parametrize("door", CLASS_OF)
def test_the_signatures_are_those_of_4_34(door: str) -> None:
    names = list(inspect.signature(getattr(gpt2kit, door).from_pretrained).parameters)
    assert names == ["pretrained_model_name_or_path", "model_args", "kwargs"]
    assert list(inspect.signature(getattr(gpt2kit, door).from_config).parameters) == ["config", "kwargs"]


def test_arguments_go_on_to_the_class(tmp_path: Path) -> None:
    saved(tmp_path / "inner")
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        subfolder="inner",
        torch_dtype="auto",
        attn_implementation="eager",
        output_attentions=True,
        output_loading_info=True,
    )
    assert info["missing_keys"] == []
    assert (model.dtype, model.attn_implementation) == (torch.float32, "eager")
    assert len(model(IDS).attentions) == 3


def test_a_configuration_may_be_given_as_itself_or_by_its_place(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    (tmp_path / "other").mkdir()
    tiny_config(use_cache=False).save_pretrained(tmp_path / "other")
    for config in (tiny_config(use_cache=False), tmp_path / "other", str(tmp_path / "other" / "config.json")):
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / "model", config=config)
        assert opened(IDS).past_key_values is None
    of_weights = AutoModelForCausalLM.from_pretrained(
        None, config=model.config, state_dict=model.state_dict()
    )
    torch.testing.assert_close(of_weights(IDS).logits, model(IDS).logits, rtol=0, atol=0)


def test_a_name_on_the_hub_is_opened(hub_server: HubServer, tmp_path: Path) -> None:
    model = saved(tmp_path)
    hub_server.add("someone/tiny", {path.name: path.read_bytes() for path in tmp_path.iterdir()})
    opened = AutoModelForCausalLM.from_pretrained("someone/tiny", revision="main")
    torch.testing.assert_close(opened(IDS).logits, model(IDS).logits, rtol=0, atol=0)


def test_another_model_is_refused_by_name_before_its_weights_are_asked_for(hub_server: HubServer) -> None:
    hub_server.add("someone/bert", {"config.json": json.dumps({"model_type": "bert"}).encode()})
    with pytest.raises(ConfigError, match=r"someone/bert is of type 'bert'.*transformers library"):
        AutoModel.from_pretrained("someone/bert")
    assert not [path for _, path, _ in hub_server.requests if "config.json" not in path]


def test_the_configuration_of_another_model_is_refused_by_name() -> None:
    foreign: Any = SimpleNamespace(model_type="bert")
    with pytest.raises(ConfigError, match="SimpleNamespace of a 'bert' model came"):
        AutoModel.from_config(foreign)
    with pytest.raises(ValueError, match="SimpleNamespace of a 'bert' model came"):
        AutoModelForCausalLM.from_pretrained("pocket", config=foreign)


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    config = saved(tmp_path, auto_map={"AutoModelForCausalLM": "theirs.Model"}).config
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is GPT2LMHeadModel
    assert type(AutoModel.from_pretrained(tmp_path, trust_remote_code=True)).__name__ == "GPT2Model"
    with pytest.raises(InputError, match=r"theirs\.Model.*runs no code"):
        AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    with pytest.raises(InputError, match=r"theirs\.Model.*runs no code"):
        AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    with pytest.raises(InputError, match="code_revision='v2'"):
        AutoModel.from_pretrained(tmp_path, code_revision="v2")


def test_a_misspelt_argument_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(TypeError, match="output_attention"):
        AutoModel.from_pretrained(tmp_path, output_attention=True)
    with pytest.raises(TypeError, match="torch_type"):
        AutoModel.from_config(tiny_config(), torch_type="float16")
