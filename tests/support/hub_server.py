"""A Hugging Face hub on this machine, as far as huggingface_hub asks it when a model is pulled.

Its answers follow what the real one sends: `/api/models/REPO[/revision/REV]?blobs=true` lists files
with sizes and checksums, `/REPO/resolve/COMMIT/PATH` serves one, byte ranges included, and errors
carry X-Error-Code. Faults are set per path in `Hub.faults`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

LFS_FROM_BYTES = 4096
"""Files from this size are listed as LFS files with a SHA-256, smaller ones as git blobs."""


class Cut(NamedTuple):
    """Break the connection after so many bytes of the body, the first `times` it is asked."""

    after_bytes: int
    times: int = 1_000_000


class Stall(NamedTuple):
    """Send so many bytes of the body and then nothing, until the server ends."""

    after_bytes: int


Fault = (
    Cut | Stall | Literal["truncated", "flipped", "missing", "no-ranges", "out-of-range", "busy"]
)


@dataclass
class Repo:
    """Contents at the main branch and at other revisions, each a map of paths to bytes."""

    files: dict[str, bytes]
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    listed_bytes: dict[str, int] = field(default_factory=dict)

    def at(self, revision: str | None) -> dict[str, bytes] | None:
        """Files at a branch, tag or commit."""
        every = {"main": self.files, **self.revisions}
        by_commit = {commit_of(files): files for files in every.values()}
        return every.get(revision or "main", by_commit.get(revision or ""))


class Request(NamedTuple):
    """What was asked: the path, the byte range, and whether a token came along."""

    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """The server's address, its repositories, its faults by file path, and what it was asked."""

    url: str
    repos: dict[str, Repo] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def asked_for(self, path: str) -> list[Request]:
        """Requests for one file of a repository."""
        return [one for one in self.requests if one.path.endswith(f"/{path}")]


def commit_of(files: dict[str, bytes]) -> str:
    """A commit hash that stands for these contents."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path, content in sorted(files.items()):
        digest.update(f"{path} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve on a free port of this machine until the end of the block."""
    hub = Hub("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization")
        self.hub.requests.append(Request(path, self.headers.get("Range"), token))
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        if listing:
            self._list(listing[1], listing[2])
            return
        resolved = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if resolved:
            self._serve(resolved[1], resolved[2], resolved[3])
            return
        self._error(404, "EntryNotFound")

    def _list(self, name: str, revision: str | None) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self._error(401, "RepoNotFound")
            return
        files = repo.at(revision)
        if files is None:
            self._error(404, "RevisionNotFound")
            return
        siblings = [
            _sibling(path, content, repo.listed_bytes.get(path, len(content)))
            for path, content in files.items()
        ]
        self._json({"id": name, "sha": commit_of(files), "siblings": siblings})

    def _serve(self, name: str, commit: str, path: str) -> None:
        repo = self.hub.repos[name]
        files = repo.at(commit)
        fault = self.hub.faults.get(path)
        if repo.gated and self.headers.get("Authorization") != "Bearer hf_granted":
            self._error(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        elif files is None or path not in files or fault == "missing":
            self._error(404, "EntryNotFound")
        elif fault == "busy":
            self._error(503, None)
        else:
            self._send(path, files[path], fault)

    def _send(self, path: str, content: bytes, fault: Fault | None) -> None:
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and fault != "no-ranges":
            start = int(asked[1])
        if fault == "truncated":
            content = content[: len(content) // 2]
        if fault == "flipped":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if start and (start >= len(content) or fault == "out-of-range"):
            self._error(416, None)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        body = content[start:]
        if isinstance(fault, Cut) and self.hub.cuts.get(path, 0) < fault.times:
            self.hub.cuts[path] = self.hub.cuts.get(path, 0) + 1
            self.wfile.write(body[: fault.after_bytes])
            self.close_connection = True
            return
        if isinstance(fault, Stall):
            self.wfile.write(body[: fault.after_bytes])
            self.hub.ended.wait()
            return
        self.wfile.write(body)

    def _json(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str | None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _sibling(path: str, content: bytes, size_bytes: int) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    one: dict[str, Any] = {"rfilename": path, "size": size_bytes, "blobId": blob}
    if len(content) >= LFS_FROM_BYTES:
        digest = hashlib.sha256(content).hexdigest()
        one["lfs"] = {"sha256": digest, "size": size_bytes, "pointerSize": 134}
    return one
