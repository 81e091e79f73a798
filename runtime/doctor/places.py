"""Findings about places: directories that are written to, disk space, the port of a server."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from pathlib import Path

from runtime.doctor.finding import Finding, fail, ok, warn
from scheduler.units import GIB, MIB, format_size

_LEAST_DISK_BYTES = 512 * MIB
_LITTLE_DISK_BYTES = 8 * GIB


def directory(check: str, path: Path, variable: str) -> Finding:
    """Whether a directory of the user's can be written to, and by nobody else.

    Whoever writes there decides which profiles and models this user runs. `variable` is what moves
    the directory.
    """
    nearest = _nearest(path)
    if path.exists() and not path.is_dir():
        return fail(check, f"{path} is a file", f"move it away, or set {variable}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return fail(
            check, f"{nearest} cannot be written to", f"set {variable} to another directory"
        )
    if not path.exists():
        return ok(check, f"{path}, made when it is needed")
    found = path.stat()
    if sys.platform != "win32" and found.st_mode & stat.S_IWOTH:
        return warn(check, f"everybody may write to {path}", f"chmod o-w {path}")
    if sys.platform != "win32" and found.st_uid not in (0, os.geteuid()):
        return warn(check, f"{path} belongs to user {found.st_uid}", f"chown it, or set {variable}")
    return ok(check, str(path))


def disk(path: Path) -> Finding:
    """Whether there is room for models where they are kept."""
    free = shutil.disk_usage(_nearest(path)).free
    text = f"{format_size(free)} free at {_nearest(path)}"
    if free < _LEAST_DISK_BYTES:
        return fail("disk", text, "make room, or set GLM_PLAN_DATA_DIR to another disk")
    if free < _LITTLE_DISK_BYTES:
        return warn(
            "disk",
            text,
            "a model of 6 billion parameters takes 13 GB at fp16, twice that"
            " during export; make room or set GLM_PLAN_DATA_DIR",
        )
    return ok("disk", text)


def port(number: int, host: str = "127.0.0.1") -> Finding:
    """Whether a server could listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
        except OSError as error:
            reason = error.strerror or str(error)
            return fail("port", f"{host}:{number}: {reason}", "end what listens there, or --port N")
    return ok("port", f"{host}:{number} is free")


def _nearest(path: Path) -> Path:
    """The path itself, or the first folder above it that exists."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))
