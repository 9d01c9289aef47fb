from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpt2kit.errors import FileNotInRepositoryError, InputError, RepositoryNotFoundError
from gpt2kit.hub import HubOptions, commit_of, find_folder, locate, locate_optional


def test_a_folder_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpt2" / "sub").mkdir(parents=True)
    (tmp_path / "gpt2" / "sub" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert locate("gpt2", "config.json", HubOptions(subfolder="sub")) == Path("gpt2/sub/config.json")
    assert find_folder("./gpt2") == Path("gpt2")
    assert find_folder("openai-community/gpt2") is None


def test_pocket_is_the_packaged_folder_unless_a_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpt2kit

    (tmp_path / "pocket").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_folder("pocket") == Path(gpt2kit.__file__).parent / "pocket"
    assert find_folder("./pocket") == Path("pocket")
    assert find_folder(Path("pocket")) == Path("pocket")


def test_a_file_that_a_folder_lacks_is_told_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotInRepositoryError, match=r"has no file config\.json; it has vocab\.json"):
        locate(tmp_path, "config.json")
    with pytest.raises(FileNotInRepositoryError, match=r"has no folder 'sub'\. Check `subfolder`"):
        locate(tmp_path, "config.json", HubOptions(subfolder="sub"))
    assert locate_optional(tmp_path, "config.json") is None
    assert locate_optional(tmp_path, "vocab.json") == tmp_path / "vocab.json"


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError, match="no folder on this disk"):
        locate(tmp_path / "none", "config.json")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RepositoryNotFoundError, match="a file, and a folder was expected"):
        locate(tmp_path / "file", "config.json")


def test_options_are_taken_out_of_keywords() -> None:
    kwargs = {
        "revision": "v1",
        "n_layer": 3,
        "subfolder": None,
        "local_files_only": True,
        "resume_download": True,
    }
    assert HubOptions.pop_from(kwargs) == HubOptions(revision="v1", local_files_only=True)
    assert kwargs == {"n_layer": 3}
    assert HubOptions.pop_from({"use_auth_token": "t"}).token == "t"
    with pytest.raises(InputError, match="two spellings"):
        HubOptions.pop_from({"use_auth_token": "t", "token": "t"})


def test_commits_are_read_off_the_cache_only() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert commit_of(Path(f"/cache/models--a--b/snapshots/{commit}/config.json")) == commit
    assert commit_of(Path(f"/models/{commit}/config.json")) is None


def test_folders_are_read_without_the_hub_library(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    code = (
        "import sys; from gpt2kit import GPT2Config; GPT2Config.from_pretrained(sys.argv[1]); "
        "print([name for name in ('huggingface_hub', 'httpx', 'requests', 'torch') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
