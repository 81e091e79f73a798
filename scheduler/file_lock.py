"""Locks between processes that the system frees with the process, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

# What flock, fcntl's locks and Windows answer when somebody else holds the lock.
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class LockedError(Exception):
    """Another process, or another thread of this one, holds the lock."""


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for as long as the context lasts; never waits.

    The file is empty and goes away with the lock. One that a killed process left is no lock: the
    kernel's own (flock, on Windows msvcrt.locking) counts, not the file. Raises LockedError when
    it is held, OSError where it cannot be made or the file system knows no locks.
    """
    descriptor = _locked(path)
    try:
        yield
    finally:
        if os.name == "nt":
            os.close(descriptor)  # an open file cannot be removed there
        with contextlib.suppress(OSError):
            path.unlink()
        if os.name != "nt":
            os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            # The holder before us may have removed the file after we opened it: then others lock
            # a new one of that name, and this lock keeps nobody out.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD:
                raise LockedError(str(path)) from None
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
