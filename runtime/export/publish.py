"""A finished directory takes its place at once, whatever was there before."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

from scheduler.whole_file import make_folder, sync_folder

_AT_FDCWD = -100  # paths as they are: relative ones start in the working directory
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # macOS, sys/stdio.h


def publish(finished: Path, target: Path) -> None:
    """Make the directory ``finished`` appear at ``target`` at once, replacing what was there.

    Readers, and whoever comes after a power cut, see the old directory or the new one. Where the
    system cannot exchange two directories, `restore` repairs the moment between two renames. The
    files must be on the disk already. Raises OSError.
    """
    for folder in [finished, *(one for one in finished.rglob("*") if one.is_dir())]:
        sync_folder(folder)
    if not target.exists():
        make_folder(target.parent)
        finished.rename(target)
        sync_folder(target.parent)
        return
    replaced = set_aside(target)
    if _exchange(finished, target):
        replaced = finished
    else:
        target.rename(replaced)
        finished.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(replaced)


def set_aside(target: Path) -> Path:
    """Where the old directory waits while a new one takes its place in two steps."""
    return target.with_name(f".{target.name}.replaced")


def restore(target: Path) -> None:
    """Undo a replacement that was cut off between its two steps, and clear away what it left.

    The caller holds the lock of ``target``. Raises OSError.
    """
    replaced = set_aside(target)
    if not replaced.is_dir():
        return
    if target.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(target)
        sync_folder(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step; False where the system or file system cannot."""
    names = os.fsencode(first), os.fsencode(second)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return library.renamex_np(*names, _RENAME_SWAP) == 0
        result = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    except (AttributeError, OSError, TypeError):  # an old C library, or Windows
        return False
    return bool(result == 0)
