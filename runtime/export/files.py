"""Files that survive a power cut: written, flushed to the disk, and only then believed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from runtime.bundle import BundleFile, hash_file
from scheduler.whole_file import sync_file


def describe(bundle: Path, path: Path) -> BundleFile:
    """Flush ``path`` to the disk and describe it for the manifest of ``bundle``."""
    sync_file(path)
    relative = path.relative_to(bundle).as_posix()
    return BundleFile(path=relative, size_bytes=path.stat().st_size, sha256=hash_file(path))


def copy_file(source: Path, target: Path) -> Path:
    """Copy contents only; a link is followed and becomes a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def write_rows(target: Path, rows: Iterable[npt.NDArray[Any]]) -> Path:
    """Write rows one after another as they are, without a header."""
    with target.open("wb") as file:
        for some in rows:
            some.tofile(file)
    return target
