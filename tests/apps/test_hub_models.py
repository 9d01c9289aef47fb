"""Whole models and tokenizers by their names on a hub, as a user loads them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the models are those of the PyTorch room")

import torch
from hub_server import HubServer

from cases import tiny_config
from gpt2kit import AutoTokenizer, GenerationConfig, GPT2LMHeadModel, GPT2Tokenizer, GPT2TokenizerFast
from gpt2kit.errors import FileNotInRepositoryError, HubError, OfflineError
from gpt2kit.hub import locate

NAME = "someone/tiny-gpt2"
TEXT = "Once upon a time, in Δελφοί: 🐬."


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def model_of(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(tiny_config()).eval()


def logits(model: GPT2LMHeadModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[2, 3, 5, 7, 11]])).logits  # [1, T, V]


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("size", ["1GB", "30KB"], ids=["one file", "shards"])
def test_a_model_and_its_generation_options_are_loaded_by_name(
    hub_server: HubServer, tmp_path: Path, safe: bool, size: str
) -> None:
    model = model_of(seed=2)
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path / "model", safe_serialization=safe, max_shard_size=size)
    hub_server.add(NAME, files_of(tmp_path / "model"))
    loaded = GPT2LMHeadModel.from_pretrained(NAME)
    assert loaded.name_or_path == NAME
    assert loaded.generation_config.max_new_tokens == 3
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


def test_a_revision_has_its_own_weights_and_the_cache_serves_them_offline(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = model_of(seed=2), model_of(seed=3)
    old.save_pretrained(tmp_path / "old")
    new.save_pretrained(tmp_path / "new")
    hub_server.add(NAME, files_of(tmp_path / "old"), "v1")
    hub_server.add(NAME, files_of(tmp_path / "new"))
    for revision, model in (("v1", old), ("main", new)):
        torch.testing.assert_close(
            logits(GPT2LMHeadModel.from_pretrained(NAME, revision=revision)), logits(model), rtol=0, atol=0
        )
    hub_server.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.testing.assert_close(
        logits(GPT2LMHeadModel.from_pretrained(NAME, revision="v1")), logits(old), rtol=0, atol=0
    )
    torch.testing.assert_close(
        logits(GPT2LMHeadModel.from_pretrained(NAME, local_files_only=True)), logits(new), rtol=0, atol=0
    )
    assert not hub_server.requests
    with pytest.raises(OfflineError, match="someone/other"):
        GPT2LMHeadModel.from_pretrained("someone/other")


def test_a_download_of_weights_that_breaks_off_is_an_error_and_leaves_no_model(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    model = model_of(seed=2)
    model.save_pretrained(tmp_path / "model")
    hub_server.add(NAME, files_of(tmp_path / "model"))
    hub_server.cut_after = 4000
    with pytest.raises(
        HubError, match=r"model\.safetensors of 'someone/tiny-gpt2' at revision 'main' broke off"
    ):
        GPT2LMHeadModel.from_pretrained(NAME)
    hub_server.cut_after = None
    torch.testing.assert_close(logits(GPT2LMHeadModel.from_pretrained(NAME)), logits(model), rtol=0, atol=0)


def test_generation_options_that_break_off_are_an_error_and_not_taken_for_absent(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    model = model_of(seed=2)
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path / "model")
    hub_server.add(NAME, files_of(tmp_path / "model"))
    for name in ("config.json", "model.safetensors"):
        locate(NAME, name)  # in the cache from here on, so only the options are fetched
    hub_server.cut_after = 4
    with pytest.raises(HubError, match=r"generation_config\.json .* broke off"):
        GPT2LMHeadModel.from_pretrained(NAME)
    hub_server.cut_after = None
    assert GPT2LMHeadModel.from_pretrained(NAME).generation_config.max_new_tokens == 3


def test_a_model_without_generation_options_takes_those_of_its_configuration(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_of(seed=2).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").unlink()
    hub_server.add(NAME, files_of(tmp_path / "model"))
    online = GPT2LMHeadModel.from_pretrained(NAME).generation_config
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline = GPT2LMHeadModel.from_pretrained(NAME).generation_config
    assert online == offline == GenerationConfig.from_model_config(tiny_config())


def test_tokenizers_are_loaded_by_name(hub_server: HubServer, tmp_path: Path) -> None:
    GPT2TokenizerFast.from_pretrained("gpt2", pad_token="<pad>").save_pretrained(tmp_path)
    hub_server.add(NAME, files_of(tmp_path))
    expected = GPT2Tokenizer.from_pretrained("gpt2")(TEXT)["input_ids"]
    for loaded in (
        AutoTokenizer.from_pretrained(NAME),
        GPT2TokenizerFast.from_pretrained(NAME),
        GPT2Tokenizer.from_pretrained(NAME),
    ):
        assert loaded(TEXT)["input_ids"] == expected
        assert loaded.pad_token == "<pad>"
        assert loaded.decode(expected) == TEXT


def test_a_repository_without_a_tokenizer_says_which_files_are_missing(hub_server: HubServer) -> None:
    hub_server.add(NAME, {"config.json": tiny_config().to_json_string().encode()})
    with pytest.raises(FileNotInRepositoryError, match=r"vocab\.json|tokenizer\.json"):
        AutoTokenizer.from_pretrained(NAME)
