"""Files that are written whole or not at all, and stay written when the power goes."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, so that readers see the old one or the whole new one.

    The content goes to a file beside it, to the disk, and only then takes the name. A link is
    followed; a path that is no regular file (a pipe, /dev/null) is written to directly. Raises
    OSError.
    """
    data = content.encode() if isinstance(content, str) else content
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return
    part = target.with_name(f".{target.name[:64]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        sync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def make_folder(folder: Path) -> None:
    """Make a directory and those above it, each one's name on the disk; raises OSError."""
    if folder.is_dir():
        return
    if folder.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Flush a file's contents to the disk; raises OSError."""
    binary = getattr(os, "O_BINARY", 0)
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, (os.O_RDWR if os.name == "nt" else os.O_RDONLY) | binary)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a directory's names to the disk; raises OSError.

    Windows cannot open directories, some network file systems flush none (EINVAL), and a directory
    that may be written but not read cannot be opened either: these keep names by themselves.
    """
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
