"""AutoConfig: a GPT-2 is opened, and every other model is refused by name."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from gpt2kit import AutoConfig, GPT2Config
from gpt2kit.errors import ConfigError, InputError

SIZES = {"n_embd": 33, "n_layer": 3, "n_head": 3}


def write(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SIZES | values))
    return folder


def test_a_configuration_is_found_by_folder_file_name_and_in_the_package(
    hub_server: HubServer, tmp_path: Path
) -> None:
    folder = write(tmp_path / "model", model_type="gpt2", n_inner=47)
    expected = GPT2Config(**SIZES, n_inner=47)
    hub_server.add("someone/tiny", {"config.json": (folder / "config.json").read_bytes()})
    for place in (folder, str(folder), folder / "config.json", "someone/tiny"):
        found = AutoConfig.from_pretrained(place)
        assert type(found) is GPT2Config
        assert found == expected
    assert AutoConfig.from_pretrained("pocket") == GPT2Config.from_pretrained("pocket")


def test_overrides_unused_keywords_and_arguments_of_the_hub_are_those_of_the_configuration(
    tmp_path: Path,
) -> None:
    write(tmp_path / "inner", model_type="gpt2")
    config, unused = AutoConfig.from_pretrained(
        tmp_path,
        subfolder="inner",
        output_attentions=True,
        foo=3,
        return_unused_kwargs=True,
        trust_remote_code=True,
    )
    assert (config.output_attentions, unused) == (True, {"foo": 3})
    with pytest.raises(ConfigError, match=r"output_attention .*output_attentions"):
        AutoConfig.from_pretrained(tmp_path / "inner", output_attention=True)


@pytest.mark.parametrize("kind", ["bert", "gpt_neo", "openai-gpt"])
def test_another_model_type_is_refused_by_name_with_what_to_do(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "gpt2", model_type=kind, architectures=["GPT2Model"])
    with pytest.raises(ConfigError, match=rf"gpt2 is of type '{kind}'.*transformers library"):
        AutoConfig.from_pretrained(folder)
    with pytest.raises(ValueError, match=f"type '{kind}'"):
        AutoConfig.for_model(kind)


def test_without_a_model_type_the_architectures_decide_and_then_the_name_as_in_4_34(tmp_path: Path) -> None:
    for architecture in ("GPT2LMHeadModel", "TFGPT2Model", "FlaxGPT2LMHeadModel"):
        assert AutoConfig.from_pretrained(write(tmp_path / "x", architectures=[architecture])).n_layer == 3
    with pytest.raises(ConfigError, match="no model_type and is for BertModel"):
        AutoConfig.from_pretrained(write(tmp_path / "my-gpt2", architectures=["BertModel"]))
    assert AutoConfig.from_pretrained(write(tmp_path / "my-gpt2-tiny")).n_layer == 3
    with pytest.raises(ConfigError, match=r'add "model_type": "gpt2" to its config\.json'):
        AutoConfig.from_pretrained(write(tmp_path / "tiny"))


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", model_type="gpt2", auto_map={"AutoConfig": "theirs.Config"})
    assert AutoConfig.from_pretrained(folder).auto_map == {"AutoConfig": "theirs.Config"}
    with pytest.raises(InputError, match=r"theirs\.Config.*runs no code"):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(InputError, match="code_revision='v2'"):
        AutoConfig.from_pretrained(folder, code_revision="v2")


def test_for_model_makes_a_configuration_by_hand() -> None:
    assert AutoConfig.for_model("gpt2", 101, n_layer=3) == GPT2Config(101, n_layer=3)


def test_it_is_not_made_by_calling_it() -> None:
    with pytest.raises(EnvironmentError, match=r"AutoConfig\.from_pretrained"):
        AutoConfig()


def test_the_signatures_are_those_of_4_34() -> None:
    assert list(inspect.signature(AutoConfig.for_model).parameters) == ["model_type", "args", "kwargs"]
    assert list(inspect.signature(AutoConfig.from_pretrained).parameters) == [
        "pretrained_model_name_or_path",
        "kwargs",
    ]
