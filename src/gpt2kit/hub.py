"""From a name or a folder to files on this disk; the only module that downloads.

Three kinds of place hold a model: a folder, a repository on the Hugging Face hub (fetched once into
huggingface_hub's cache, read from there afterwards), and "pocket", the small model inside this package.
`huggingface_hub` is imported when a name has to be looked up, never before.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from gpt2kit.errors import (
    FileNotInRepositoryError,
    HubError,
    InputError,
    OfflineError,
    RepositoryNotFoundError,
)

__all__ = ["POCKET", "HubOptions", "commit_of", "find_folder", "locate", "locate_optional"]

POCKET = "pocket"  # the name of the model inside this package; a folder of that name is written ./pocket
_COMMIT = re.compile(r"snapshots/([0-9a-f]{40})/")
_BROKEN_OFF = "The download of {} of {} broke off, and nothing that is not whole was kept. Try again."
_DISK_ERRORS = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubOptions:
    """Where and how to look a name up; a folder on this disk needs none of it but `subfolder`.

    Attributes:
        revision: Branch, tag or commit; None is the main branch.
        cache_dir: Where downloads are kept; None is huggingface_hub's own place.
        token: Access token, True for the one that `hf auth login` stored, False to send none.
        local_files_only: Whether to use only what is on this disk (HF_HUB_OFFLINE=1 does the same).
        subfolder: Folder inside the repository or folder.
        force_download: Whether to fetch even what is in the cache.
        proxies: Scheme -> proxy, for a huggingface_hub that takes them (before 1.0); later ones read
            HTTPS_PROXY, and the argument is refused.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    subfolder: str = ""
    force_download: bool = False
    proxies: dict[str, str] | None = None

    @classmethod
    def pop_from(cls, kwargs: dict[str, Any]) -> Self:
        """Take the hub's arguments out of keywords, the older spellings of 4.34 included.

        `use_auth_token` is `token`. `resume_download` changes nothing: the finished file is the same.
        `trust_remote_code` changes nothing: gpt2kit runs no code of a repository.

        Raises:
            InputError: Both `token` and `use_auth_token` were given.
        """
        old_token = kwargs.pop("use_auth_token", None)
        if old_token is not None and kwargs.get("token") is not None:
            raise InputError(
                "`token` and `use_auth_token` are two spellings of one argument. Give `token` only."
            )
        for without_effect in ("resume_download", "trust_remote_code"):
            kwargs.pop(without_effect, None)
        given = {item.name: kwargs.pop(item.name) for item in fields(cls) if item.name in kwargs}
        if given.get("token") is None:
            given["token"] = old_token
        given["subfolder"] = given.get("subfolder") or ""
        return cls(**given)


def locate(name_or_path: str | os.PathLike[str], filename: str, options: HubOptions | None = None) -> Path:
    """Find one file of a folder or repository, and download it if it is not on this disk.

    Args:
        name_or_path: A folder, which wins; "pocket"; or a name on the hub such as "openai-community/gpt2".
        filename: Name of the file inside it.
        options: Revision, cache, token and so on.

    Returns:
        The path of the file on this disk.

    Raises:
        RepositoryNotFoundError: No such folder, repository or revision, or no right to see it.
        FileNotInRepositoryError: The place is there and the file is not.
        OfflineError: The file is not on this disk, and the network may not be asked or does not answer.
        HubError: The download failed in another way.
    """
    options = options or HubOptions()
    relative = f"{options.subfolder}/{filename}".lstrip("/")
    folder = find_folder(name_or_path)
    if folder is None:
        return _download(os.fspath(name_or_path), relative, options)
    path = folder / relative
    if not path.is_file():
        raise FileNotInRepositoryError(_describe_missing(folder, relative))
    return path


def locate_optional(
    name_or_path: str | os.PathLike[str], filename: str, options: HubOptions | None = None
) -> Path | None:
    """Do as `locate` does, but return None where the place exists and has no such file.

    Offline, a repository of which other files are in the cache counts as a place that exists.
    """
    options = options or HubOptions()
    try:
        return locate(name_or_path, filename, options)
    except FileNotInRepositoryError:
        return None
    except OfflineError:
        if _has_snapshot(os.fspath(name_or_path), options):
            return None
        raise


def find_folder(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return the folder that a name stands for on this disk, or None if it can only be a name on the hub.

    Raises:
        RepositoryNotFoundError: It can only be a folder, and there is none.
    """
    name = os.fspath(name_or_path)
    if name_or_path == POCKET:  # a Path("pocket") is a folder of that name
        return Path(__file__).parent / POCKET
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    looks_like_path = isinstance(name_or_path, os.PathLike) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    if looks_like_path or name.startswith("."):
        kind = "a file, and a folder was expected" if path.is_file() else "no folder on this disk"
        raise RepositoryNotFoundError(
            f"{name!r} is {kind}. Check the path; "
            "a name on the hub has the form owner/name, such as openai-community/gpt2."
        )
    return None


def commit_of(path: Path) -> str | None:
    """Return the commit that a file of the hub's cache belongs to, None for any other file."""
    found = _COMMIT.search(path.as_posix())
    return found.group(1) if found else None


def _describe_missing(folder: Path, relative: str) -> str:
    """Say which file is missing, and what the folder has instead."""
    beside = (folder / relative).parent
    if not beside.is_dir():
        return f"{folder} has no folder {Path(relative).parent.as_posix()!r}. Check `subfolder`."
    there = sorted(entry.name for entry in beside.iterdir() if not entry.name.startswith("."))
    listing = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") if there else "nothing"
    wanted = Path(relative).name
    return f"{beside} has no file {wanted}; it has {listing}. Pass the folder that a model was saved in."


def _download(name: str, relative: str, options: HubOptions) -> Path:
    """Ask huggingface_hub for a file, and say in our words why there is none."""
    import huggingface_hub
    from huggingface_hub import errors

    proxies = _proxies(options)
    where = f"{name!r}" + (f" at revision {options.revision!r}" if options.revision else "")
    answered = False
    try:
        if not options.local_files_only and (
            options.force_download or not _is_cached(name, relative, options)
        ):
            _ask_once(name, relative, options)
            answered = True
        return Path(
            huggingface_hub.hf_hub_download(
                name,
                relative,
                revision=options.revision,
                cache_dir=options.cache_dir,
                token=options.token,
                local_files_only=options.local_files_only,
                force_download=options.force_download,
                **proxies,
            )
        )
    except errors.GatedRepoError as error:
        raise RepositoryNotFoundError(
            f"{where} is a gated repository. Ask for access on its page on the hub, then log in with "
            "`hf auth login` or pass token=..."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise RepositoryNotFoundError(
            f"There is no folder and no repository on the hub called {name!r}. Check the spelling; "
            f"a folder can be written ./{name}; a private one needs a token (`hf auth login` or token=...)."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise RepositoryNotFoundError(
            f"The repository {name!r} has no revision {options.revision!r}. "
            "Pass a branch, a tag or a whole commit hash that its page lists."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise OfflineError(_describe_offline(where, relative, options)) from error
    except errors.EntryNotFoundError as error:
        raise FileNotInRepositoryError(
            f"The repository {where} has no file {relative}. "
            "Check the file names on its page, `subfolder` and `revision`."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise HubError(
            f"The hub did not give {relative} of {where} (HTTP {status}). Try again later."
        ) from error
    except (_transport_error(), ConnectionError, TimeoutError) as error:
        if answered:
            raise HubError(_BROKEN_OFF.format(relative, where)) from error
        raise OfflineError(_describe_offline(where, relative, options)) from error
    except ValueError as error:  # force_download where nothing may be downloaded
        raise OfflineError(
            f"{relative} of {where} cannot be downloaded anew without a network. Leave out force_download."
        ) from error
    except OSError as error:
        raise HubError(_describe_failed_download(error, where, relative)) from error


def _transport_error() -> type[Exception]:
    """Return the base of the errors of the HTTP library that the installed huggingface_hub uses."""
    from huggingface_hub import errors

    base: type[Exception] = vars(errors)["HTTPError"]  # of requests, httpx or httpx2, by version
    return base


def _ask_once(name: str, relative: str, options: HubOptions) -> None:
    """Ask the hub for the file's metadata with one request, so that no network is noticed at once.

    hf_hub_download itself asks for half a minute before it gives up.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    get_hf_file_metadata(hf_hub_url(name, relative, revision=options.revision), token=options.token)


def _is_cached(name: str, relative: str, options: HubOptions) -> bool:
    """Tell whether the file lies in the cache already."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, relative, cache_dir=options.cache_dir, revision=options.revision)
    return isinstance(path, str)


def _has_snapshot(name: str, options: HubOptions) -> bool:
    """Tell whether any file of the repository at this revision lies in the cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(options.cache_dir or constants.HF_HUB_CACHE)
    folder = cache / repo_folder_name(repo_id=name, repo_type="model")
    revision = options.revision or constants.DEFAULT_REVISION
    reference = folder / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    return (folder / "snapshots" / commit).is_dir()


def _proxies(options: HubOptions) -> dict[str, Any]:
    """Return the keyword for proxies where the installed huggingface_hub has it."""
    import inspect

    import huggingface_hub

    if not options.proxies:
        return {}
    if "proxies" not in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        raise InputError(
            f"huggingface_hub {huggingface_hub.__version__} takes no proxies. "
            "Leave the argument out and set the environment variable HTTPS_PROXY."
        )
    return {"proxies": options.proxies}


def _describe_offline(where: str, relative: str, options: HubOptions) -> str:
    """Say that a file is not on this disk, and why it was not fetched."""
    from huggingface_hub import constants

    if options.local_files_only:
        why = "local_files_only=True forbids to ask the hub. Leave it out once"
    elif constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE forbids to ask the hub. Unset it once"
    else:
        why = f"the hub ({constants.ENDPOINT}) does not answer. Check the network"
    return (
        f'{relative} of {where} is not on this disk, and {why}, or pass a folder; "pocket" needs no network.'
    )


def _describe_failed_download(error: OSError, where: str, relative: str) -> str:
    """Say why a download did not end in a file."""
    if error.errno in _DISK_ERRORS:
        place = f"{error.strerror} ({error.filename})"
        return f"{relative} of {where} could not be stored: {place}. Make room there or pass cache_dir."
    if error.errno is None and "size" in str(error):  # huggingface_hub compares the sizes
        return _BROKEN_OFF.format(relative, where)
    return f"{relative} of {where} could not be downloaded: {error}. Try again."
