from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer

from cases import random_checkpoint, tiny_config
from gpt2kit.checkpoint import open_checkpoint, save_safetensors
from gpt2kit.config import GPT2Config
from gpt2kit.errors import (
    CheckpointError,
    FileNotInRepositoryError,
    HubError,
    InputError,
    OfflineError,
    RepositoryNotFoundError,
)
from gpt2kit.hub import HubOptions, commit_of, locate, locate_optional

NAME = "someone/tiny-gpt2"
CONFIG = tiny_config()
FILE = b"0123456789" * 1000


def config_bytes(**changes: Any) -> bytes:
    return tiny_config(**changes).to_json_string().encode()


@pytest.fixture
def client(hub_server: HubServer) -> Any:
    """The constants of the client, for switching it offline."""
    from huggingface_hub import constants

    return constants


def everything_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def test_a_configuration_is_found_by_name(hub_server: HubServer) -> None:
    commit = hub_server.add(NAME, {"config.json": config_bytes()})
    config = GPT2Config.from_pretrained(NAME)
    assert config == CONFIG
    assert config._commit_hash == commit
    path = locate(NAME, "config.json")
    assert path.is_relative_to(hub_server.cache)
    assert commit_of(path) == commit


def test_a_name_without_owner_is_found(hub_server: HubServer) -> None:
    hub_server.add("tiny-gpt2", {"config.json": config_bytes()})
    assert GPT2Config.from_pretrained("tiny-gpt2") == CONFIG


def test_revisions_and_subfolders_are_told_apart(hub_server: HubServer) -> None:
    commit = hub_server.add(NAME, {"config.json": config_bytes(n_layer=1)}, "v1")
    hub_server.add(
        NAME, {"config.json": config_bytes(n_layer=2), "deep/er/config.json": config_bytes(n_layer=5)}
    )
    assert GPT2Config.from_pretrained(NAME).n_layer == 2
    assert GPT2Config.from_pretrained(NAME, revision="v1").n_layer == 1
    assert GPT2Config.from_pretrained(NAME, revision=commit).n_layer == 1
    assert GPT2Config.from_pretrained(NAME, subfolder="deep/er").n_layer == 5


def test_a_changed_repository_is_seen_and_what_is_unchanged_is_not_fetched_again(
    hub_server: HubServer,
) -> None:
    hub_server.add(NAME, {"config.json": config_bytes(n_layer=1)})
    assert GPT2Config.from_pretrained(NAME).n_layer == 1
    hub_server.requests.clear()
    assert GPT2Config.from_pretrained(NAME).n_layer == 1
    assert [method for method, path, _ in hub_server.requests if NAME in path] == ["HEAD"]
    hub_server.add(NAME, {"config.json": config_bytes(n_layer=2)})
    assert GPT2Config.from_pretrained(NAME).n_layer == 2


def test_force_download_fetches_again(hub_server: HubServer) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()})
    locate(NAME, "config.json")
    hub_server.requests.clear()
    locate(NAME, "config.json", HubOptions(force_download=True))
    assert "GET" in [method for method, _, _ in hub_server.requests]


def test_weights_in_shards_are_found_by_name(hub_server: HubServer, tmp_path: Path) -> None:
    tensors = random_checkpoint(CONFIG)
    files = save_safetensors(tmp_path / "saved", tensors, max_shard_size="30KB")
    hub_server.add(NAME, {f"sub/{path.name}": path.read_bytes() for path in files})
    with open_checkpoint(NAME, HubOptions(subfolder="sub")) as checkpoint:
        for name, values in tensors.items():
            np.testing.assert_array_equal(checkpoint.numpy(name), values)


def test_a_shard_that_is_not_there_is_named(hub_server: HubServer, tmp_path: Path) -> None:
    files = save_safetensors(tmp_path / "saved", random_checkpoint(CONFIG), max_shard_size="30KB")
    hub_server.add(NAME, {path.name: path.read_bytes() for path in files[1:]})
    with pytest.raises(CheckpointError, match=r"lists the file model-00001-of-"):
        open_checkpoint(NAME)


def test_the_cache_serves_without_a_network(
    hub_server: HubServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()})
    locate(NAME, "config.json")
    hub_server.requests.clear()
    assert GPT2Config.from_pretrained(NAME, local_files_only=True) == CONFIG
    monkeypatch.setattr(client, "HF_HUB_OFFLINE", True)
    assert GPT2Config.from_pretrained(NAME) == CONFIG
    assert hub_server.requests == []


def test_the_cache_serves_when_the_hub_is_down(hub_server: HubServer) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()})
    locate(NAME, "config.json")
    hub_server.down = True
    assert GPT2Config.from_pretrained(NAME) == CONFIG


def test_what_is_not_in_the_cache_is_told_without_asking(
    hub_server: HubServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()})
    with pytest.raises(
        OfflineError, match=r"config\.json of 'someone/tiny-gpt2' is not on this disk.*local_files_only"
    ):
        locate(NAME, "config.json", HubOptions(local_files_only=True))
    monkeypatch.setattr(client, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE forbids"):
        locate(NAME, "config.json")
    with pytest.raises(OfflineError, match=r"Leave out force_download|HF_HUB_OFFLINE"):
        locate(NAME, "config.json", HubOptions(force_download=True))
    assert hub_server.requests == []


def test_an_optional_file_is_absent_offline_if_the_rest_is_there(hub_server: HubServer) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()})
    offline = HubOptions(local_files_only=True)
    with pytest.raises(OfflineError):
        locate_optional(NAME, "generation_config.json", offline)
    assert locate_optional(NAME, "generation_config.json") is None
    locate(NAME, "config.json")
    assert locate_optional(NAME, "generation_config.json", offline) is None
    assert locate_optional(NAME, "config.json", offline) is not None


def test_no_network_is_told_at_once(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        client, "ENDPOINT", "http://127.0.0.1:9"
    )  # the port of "discard", where nobody listens
    monkeypatch.setattr(
        client, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    start = time.monotonic()
    with pytest.raises(OfflineError, match=r"127\.0\.0\.1:9\) does not answer\. Check the network"):
        locate(NAME, "config.json")
    assert time.monotonic() - start < 5


def test_a_hub_that_is_down_is_told_at_once(hub_server: HubServer) -> None:
    hub_server.down = True
    start = time.monotonic()
    with pytest.raises(HubError, match="HTTP 503"):
        locate(NAME, "config.json")
    assert time.monotonic() - start < 5


def test_a_missing_repository_file_and_revision_are_told_apart(hub_server: HubServer) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()})
    with pytest.raises(
        RepositoryNotFoundError, match=r"called 'someone/tiny'\. Check the spelling.*\./someone/tiny"
    ):
        locate("someone/tiny", "config.json")
    with pytest.raises(FileNotInRepositoryError, match=r"'someone/tiny-gpt2' has no file model\.bin"):
        locate(NAME, "model.bin")
    with pytest.raises(FileNotInRepositoryError, match=r"no file deep/config\.json"):
        locate(NAME, "config.json", HubOptions(subfolder="deep"))
    with pytest.raises(RepositoryNotFoundError, match="has no revision 'v2'"):
        locate(NAME, "config.json", HubOptions(revision="v2"))
    with pytest.raises(FileNotInRepositoryError, match=r"looked for model\.safetensors"):
        open_checkpoint(NAME)
    with pytest.raises(
        OSError, match="Check the spelling"
    ):  # as an except clause written for 4.34 catches it
        GPT2Config.from_pretrained("someone/tiny")


@pytest.mark.parametrize("name", ["a/b/c", "../x", "./x", "x y", "", "some one/x", "C:\\models\\x", "~/none"])
def test_what_can_only_be_a_folder_is_not_asked_for(hub_server: HubServer, name: str) -> None:
    with pytest.raises(RepositoryNotFoundError, match="no folder on this disk"):
        locate(name, "config.json")
    assert hub_server.requests == []


@pytest.mark.parametrize("name", ["a..b", "-x", "x.git", "x" * 200])
def test_a_name_that_the_hub_does_not_allow_is_told(hub_server: HubServer, name: str) -> None:
    with pytest.raises(RepositoryNotFoundError):
        locate(name, "config.json")


def test_a_private_and_a_gated_repository_open_to_a_token(hub_server: HubServer) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()}, token="hf_right")
    for token in (None, "hf_wrong", False):
        with pytest.raises(RepositoryNotFoundError, match="needs a token"):
            locate(NAME, "config.json", HubOptions(token=token))
    assert GPT2Config.from_pretrained(NAME, token="hf_right") == CONFIG
    assert GPT2Config.from_pretrained(NAME, use_auth_token="hf_right", force_download=True) == CONFIG

    hub_server.add("someone/gated", {"config.json": config_bytes()}, gated=True)
    with pytest.raises(RepositoryNotFoundError, match=r"gated repository\. Ask for access.*hf auth login"):
        locate("someone/gated", "config.json")


def test_a_download_that_breaks_off_goes_on_from_there(
    hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.file_download

    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub_server.add(NAME, {"model.safetensors": FILE})
    hub_server.hang_up_after = 4000
    assert locate(NAME, "model.safetensors").read_bytes() == FILE
    assert any(
        "bytes=" in headers.get("Range", headers.get("range", "")) for _, _, headers in hub_server.requests
    )


@pytest.mark.parametrize("way", ["cut_after", "hang_up_after"])
def test_a_broken_download_leaves_no_file_and_says_so(
    hub_server: HubServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    import huggingface_hub.file_download

    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    hub_server.add(NAME, {"model.safetensors": FILE})
    setattr(hub_server, way, 4000 if way == "cut_after" else 0)
    with pytest.raises(HubError, match=r"model\.safetensors of 'someone/tiny-gpt2' broke off"):
        locate(NAME, "model.safetensors")
    assert not [path for path in everything_in(hub_server.cache) if path.name == "model.safetensors"]
    with pytest.raises(OfflineError):
        locate(NAME, "model.safetensors", HubOptions(local_files_only=True))
    setattr(hub_server, way, None)
    assert locate(NAME, "model.safetensors").read_bytes() == FILE


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="needs a folder that this user may not write"
)
def test_a_cache_that_cannot_be_written_is_told(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()})
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(HubError, match=r"could not be stored.*pass cache_dir"):
        locate(NAME, "config.json", HubOptions(cache_dir=locked))


def test_a_cache_path_that_is_a_file_is_told(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()})
    (tmp_path / "file").write_text("x")
    with pytest.raises(HubError, match=r"config\.json of"):
        locate(NAME, "config.json", HubOptions(cache_dir=tmp_path / "file"))


def test_proxies_are_refused_where_the_client_takes_none(hub_server: HubServer) -> None:
    import inspect

    import huggingface_hub

    if "proxies" in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        pytest.skip("this huggingface_hub takes proxies")
    hub_server.add(NAME, {"config.json": config_bytes()})
    with pytest.raises(InputError, match="set the environment variable HTTPS_PROXY"):
        locate(NAME, "config.json", HubOptions(proxies={"https": "http://127.0.0.1:9"}))


def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_the_environment_of_a_process_is_honoured(hub_server: HubServer) -> None:
    hub_server.add(NAME, {"config.json": config_bytes()})
    code = f"from gpt2kit import GPT2Config; print(GPT2Config.from_pretrained({NAME!r}).to_json_string())"
    online = run(code, hub_server.environment)
    assert json.loads(online.stdout) == json.loads(config_bytes())
    hub_server.requests.clear()
    offline = run(code, hub_server.environment | {"HF_HUB_OFFLINE": "1"})
    assert offline.stdout == online.stdout
    assert hub_server.requests == []
    other = run(code.replace("tiny-gpt2", "other"), hub_server.environment | {"HF_HUB_OFFLINE": "1"})
    assert "gpt2kit.errors.OfflineError: config.json of 'someone/other' is not on this disk" in other.stderr
