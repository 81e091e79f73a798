"""Talk to a Hugging Face hub: list a repository, fetch a file from where it broke off.

The library's `hf_hub_download` throws a partial file away when its process ends and compares sizes
only, so files are fetched with the library's `http_get` into a file of ours. Address, token, proxy
and timeouts are those of huggingface_hub's own environment variables.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from runtime.model_store import RemoteFile
from runtime.pull_errors import endpoint, is_hub_error, no_hub, one_sentence, status_of
from scheduler.errors import CheckpointError, UserInputError
from scheduler.whole_file import make_folder, sync_folder

OnBytes = Callable[[int], None]
"""Called with the bytes of the file in work that are on the disk."""

_HASH_CHUNK_BYTES = 4 << 20
_OLDEST_HUB = 2  # 1.0 appends the whole file to a part where a server ignores ranges


class Listing(NamedTuple):
    """The files of a repository at one commit."""

    commit: str
    files: list[RemoteFile]


def require_hub() -> None:
    """Raise UserInputError without a huggingface_hub that resumes downloads; else make it quiet."""
    try:
        major = int(version("huggingface_hub").split(".")[0])
    except (PackageNotFoundError, ValueError):
        major = 0
    if major < _OLDEST_HUB:
        raise UserInputError(
            f"Pulling needs huggingface_hub {_OLDEST_HUB} or newer: pip install 'glm-plan[pull]'."
        )
    # Without this it asks the hub for a list of agents first, to name one in its user agent.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity(logging.ERROR)


def list_repository(repo: str, revision: str | None) -> Listing:
    """Ask the hub for a repository's files at a revision, None for its main branch.

    Raises CheckpointError with one sentence for whatever goes wrong.
    """
    from huggingface_hub import HfApi, constants

    with one_sentence(repo, revision):
        try:
            info = HfApi().model_info(
                repo,
                revision=revision,
                files_metadata=True,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            )
            files = [_remote_file(one) for one in info.siblings or []]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if is_hub_error(error):
                raise
            raise no_hub() from None
    if not isinstance(info.sha, str) or not info.sha.isalnum():
        raise no_hub()
    return Listing(info.sha, files)


def fetch(repo: str, commit: str, file: RemoteFile, target: Path, on_bytes: OnBytes) -> None:
    """Fetch one file to `target`, going on after the bytes that are in ``target.partial``.

    A connection that breaks is tried again a few times. What arrives is compared with the hub's
    size and checksum before it takes its place. Raises CheckpointError with one sentence; the
    partial file stays unless its contents are wrong.
    """
    partial = target.with_name(f"{target.name}.partial")
    make_folder(target.parent)
    if partial.exists() and partial.stat().st_size > file.size_bytes:
        partial.unlink()
    with one_sentence(repo, commit, file):
        try:
            _transfer(repo, commit, file, partial, on_bytes)
        except OSError as error:
            if status_of(error) != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            partial.unlink()  # the hub's file is shorter than what is here of it
            _transfer(repo, commit, file, partial, on_bytes)
    found_bytes = partial.stat().st_size
    if found_bytes != file.size_bytes or not _has_digest(partial, file):
        partial.unlink()
        problem = (
            f"{found_bytes} bytes instead of {file.size_bytes}"
            if found_bytes != file.size_bytes
            else "contents that do not match its checksum"
        )
        raise CheckpointError(
            f"{endpoint()} sent {file.path} of {repo} with {problem}; it was thrown away, run the"
            " same command to fetch it again."
        )
    partial.replace(target)
    sync_folder(target.parent)


def _transfer(repo: str, commit: str, file: RemoteFile, partial: Path, on_bytes: OnBytes) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    with partial.open("ab") as stream:
        on_bytes(stream.tell())
        try:
            http_get(
                hf_hub_url(repo, file.path, revision=commit),
                cast("BinaryIO", _Counted(stream, on_bytes)),
                resume_size=stream.tell(),
                headers=build_hf_headers(library_name="glm-plan"),
                expected_size=file.size_bytes,
            )
        except OSError as error:
            # Without a number it is the library's remark on a wrong length; `fetch` looks itself.
            if is_hub_error(error) or error.errno is not None:
                raise
        stream.flush()
        os.fsync(stream.fileno())


class _Counted:
    """A file that tells how long it is after each write."""

    def __init__(self, stream: IO[bytes], on_bytes: OnBytes) -> None:
        self._stream = stream
        self._on_bytes = on_bytes

    def write(self, data: bytes) -> int:
        written = self._stream.write(data)
        self._on_bytes(self._stream.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _remote_file(sibling: Any) -> RemoteFile:
    digest = f"git:{sibling.blob_id}" if sibling.blob_id else None
    if sibling.lfs is not None:
        digest = f"sha256:{sibling.lfs.sha256}"
    return RemoteFile(path=sibling.rfilename, size_bytes=sibling.size, digest=digest)


def _has_digest(path: Path, file: RemoteFile) -> bool:
    """Whether a file's contents are those that the hub names; True where it names none."""
    if file.digest is None:
        return True
    kind, _, expected = file.digest.partition(":")
    if kind == "git":
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % file.size_bytes)
    else:
        digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == expected
