"""What a real power cut may lose: what was published before an fsync had put it on the disk."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath


def unsynced_at_publication(trace: list[str], root: Path, published: str) -> list[str]:
    """Files and directories that were not on the disk when they took the published name.

    `trace` has a line per change: what, path, other path. A file is on the disk when an fsync
    followed its last write, a directory when one followed the last change of its names. Names
    that go away may come back with a power cut and do no harm. `published` is a pattern.
    """
    pattern = str(root / published)
    target = ""
    dirty: dict[str, str] = {}  # path -> its last change that no fsync followed
    lost: list[str] = []
    for line in trace:
        what, path, other = line.split("\t")
        if what in ("open", "write"):
            dirty[path] = what
            dirty[_parent(path)] = f"name of {path}"
        elif what == "fsync":
            dirty.pop(path, None)
        elif what in ("rename", "exchange", "link"):
            if fnmatchcase(other, pattern):
                target = other
                inside = [one for one in dirty if one == path or one.startswith(f"{path}/")]
                lost += [f"{one.removeprefix(str(root))}: {dirty[one]}" for one in inside]
            _move(dirty, path, other)
            dirty[_parent(other)] = f"name of {other}"
        elif what == "unlink":
            for one in [one for one in dirty if one == path or one.startswith(f"{path}/")]:
                del dirty[one]
            if dirty.get(_parent(path)) == f"name of {path}":
                del dirty[_parent(path)]
        elif what == "mkdir":
            dirty[_parent(path)] = f"name of {path}"
    if not target:
        lost.append(f"nothing was renamed to {published}")
    if target and dirty.get(_parent(target)) == f"name of {target}":
        lost.append(f"the name {published}")
    return lost


def _move(dirty: dict[str, str], path: str, other: str) -> None:
    for one in [one for one in dirty if one == path or one.startswith(f"{path}/")]:
        dirty[other + one.removeprefix(path)] = dirty.pop(one)


def _parent(path: str) -> str:
    return str(PurePosixPath(path).parent)
