"""A hub on 127.0.0.1: as much of huggingface.co's protocol as the real huggingface_hub client asks for.

    with HubServer() as hub:
        hub.add("owner/name", {"config.json": b"{}"})
        GPT2Config.from_pretrained("owner/name")   # with HF_ENDPOINT=hub.url

Files are served by /{repo}/resolve/{revision}/{file}, to HEAD and GET, with range requests.
`hang_up_after` and `cut_after` break downloads, `token` and `gated` ask who is there, `down` answers 503.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

__all__ = ["HubServer", "Repository"]

_RESOLVE = re.compile(r"/((?:[\w.-]+/)?[\w.-]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """A repository: revision -> file name -> bytes. A branch or tag leads to its commit."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None  # whoever sends another one, or none, is told that there is no such repository


class HubServer:
    """A hub that runs in a thread while the block lasts.

    Attributes:
        url: What to set HF_ENDPOINT to.
        requests: (method, path, headers) of all requests so far.
        hang_up_after: Bytes of a body after which the server hangs up, so that a client may go on from there.
        cut_after: Bytes that are served as if they were the whole file, as a broken proxy does.
        down: Whether every request is answered with 503.
        cache: Folder of downloads of whoever uses `environment`.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.hang_up_after: int | None = None
        self.cut_after: int | None = None
        self.down = False
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cache = Path("hub-cache")

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which a process finds this hub and nothing else."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_CACHE": str(self.cache),
            "HF_TOKEN_PATH": str(self.cache / "token"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def add(
        self,
        name: str,
        files: Mapping[str, bytes],
        revision: str = "main",
        *,
        gated: bool = False,
        token: str | None = None,
    ) -> str:
        """Add a revision to a repository, which is made if it is new; returns the commit."""
        repository = self.repositories.setdefault(name, Repository())
        repository.gated, repository.token = gated, token
        commit = hashlib.sha1(repr((name, revision, sorted(files.items()))).encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.references[revision] = commit
        return commit

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep standard error for the tests."""

    def _serve(self, *, with_body: bool) -> None:
        hub = self.server_hub
        hub.requests.append((self.command, self.path, dict(self.headers)))
        found = _RESOLVE.fullmatch(self.path.partition("?")[0])
        if hub.down:
            return self._refuse(503, "")
        if found is None or (repository := hub.repositories.get(found.group(1))) is None:
            return self._refuse(401, "RepoNotFound")  # the real hub says so to whoever has no token
        _, revision, name = found.groups()
        sent = self.headers.get("authorization", "")
        if repository.token is not None and sent != f"Bearer {repository.token}":
            return self._refuse(401, "GatedRepo" if repository.gated else "RepoNotFound")
        if repository.gated and repository.token is None:
            return self._refuse(403, "GatedRepo")
        commit = repository.references.get(revision, revision)
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound")
        data = repository.commits[commit].get(name)
        if data is None:
            return self._refuse(404, "EntryNotFound", commit)
        return self._send(data, commit, with_body)

    def _refuse(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data: bytes, commit: str, with_body: bool) -> None:
        """Send a file, or the part of it that a Range header asks for."""
        hub = self.server_hub
        etag = hashlib.sha1(data).hexdigest()
        if with_body:
            data = data[: hub.cut_after]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        part = data[int(wanted.group(1)) :] if wanted else data
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if wanted:
            self.send_header("Content-Range", f"bytes {wanted.group(1)}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if with_body:
            self.wfile.write(part[: hub.hang_up_after])
            self.close_connection = hub.hang_up_after is not None
