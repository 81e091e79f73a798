"""Files that survive a power cut: written, flushed to the disk, and only then believed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from runtime.bundle import BundleFile, hash_file


def describe(bundle: Path, path: Path) -> BundleFile:
    """Flush ``path`` to the disk and describe it for the manifest of ``bundle``."""
    sync(path)
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


def write_synced(target: Path, text: str) -> None:
    """Write a text file and flush it to the disk."""
    target.write_text(text, encoding="utf-8")
    sync(target)


def sync(path: Path) -> None:
    """Flush a file, or a directory's entries, to the disk."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    if os.name == "nt":  # directories cannot be opened there, and files only for writing
        if path.is_dir():
            return
        flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(finished: Path, target: Path) -> None:
    """Make the directory ``finished`` appear at ``target`` at once, replacing what was there."""
    for folder in [finished, *(one for one in finished.rglob("*") if one.is_dir())]:
        sync(folder)
    replaced = target.with_name(f".{target.name}.replaced")
    if replaced.exists():
        shutil.rmtree(replaced)
    if target.exists():
        target.rename(replaced)
    finished.rename(target)
    sync(target.parent)
    if replaced.exists():
        shutil.rmtree(replaced)
