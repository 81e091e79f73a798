"""A node's own copies of a bundle's files: those of its stages, checked, whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from runtime.bundle import hash_file
from runtime.manifest import BundleFile, Manifest
from scheduler.errors import BundleError
from scheduler.profile_files import data_dir


def bundle_key(manifest: Manifest) -> str:
    """The name of a bundle's folder in every cache: the same for the same files only."""
    return hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()[:32]


class PartCache:
    """Files of one bundle on this node, under the user's data directory.

    Stages of one node may share it: a file appears whole, under its name, or not at all. `shared`
    is a folder, such as one on a network disk, whose files are used in place where they are right.
    """

    def __init__(self, key: str, shared: Path | None = None, folder: Path | None = None) -> None:
        self._folder = (folder or data_dir() / "cluster") / key
        self._shared = shared
        self._found: dict[str, Path] = {}

    def missing(self, files: Sequence[BundleFile]) -> list[BundleFile]:
        """Those files of which this node has no right copy, by size and SHA-256.

        All of them or none come from the shared folder, since an engine looks for weights beside
        its graph.
        """
        for folder in filter(None, (self._shared, self._folder)):
            wrong = [file for file in files if not _is_right(folder / file.path, file)]
            if not wrong:
                self._found |= {file.path: folder / file.path for file in files}
                return []
        return wrong

    def path(self, relative: str) -> Path:
        """Where a file lies that `missing` has found or `finish` has checked."""
        return self._found.get(relative, self._folder / relative)

    def write(self, file: BundleFile, offset: int, data: bytes) -> None:
        """Write a piece of a file that is still to be checked; pieces come in any order.

        Raises BundleError where the disk refuses.
        """
        if offset < 0 or offset + len(data) > file.size_bytes:
            raise BundleError(f"{file.path}: a piece lies outside of its {file.size_bytes} bytes.")
        part = self._part(file)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream:
                stream.seek(offset)
                stream.write(data)
        except OSError as error:
            self._discard(part)
            raise BundleError(f"{part} cannot be written: {error.strerror or error}.") from None

    def finish(self, file: BundleFile) -> None:
        """Check a file that is complete and give it its name; BundleError where it is wrong."""
        part = self._part(file)
        try:
            if part.stat().st_size != file.size_bytes or hash_file(part) != file.sha256:
                raise BundleError(
                    f"{file.path} arrived damaged: it does not match its checksum in the manifest."
                )
            part.replace(self._folder / file.path)
        except OSError as error:
            raise BundleError(f"{part} cannot be kept: {error.strerror or error}.") from None
        finally:
            self._discard(part)

    def _part(self, file: BundleFile) -> Path:
        target = self._folder / file.path
        if not target.resolve().is_relative_to(self._folder.resolve()):
            raise BundleError(f"{file.path} lies outside of the bundle.")
        return target.with_name(f".{target.name}.{os.getpid()}.part")

    @staticmethod
    def _discard(part: Path) -> None:
        with contextlib.suppress(OSError):
            part.unlink()


def _is_right(path: Path, file: BundleFile) -> bool:
    try:
        if path.stat().st_size != file.size_bytes:
            return False
        return hash_file(path) == file.sha256
    except (OSError, BundleError):
        return False
