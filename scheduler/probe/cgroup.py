"""Linux control groups, versions 1 and 2: how much memory and CPU time this process may use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class CgroupLimits:
    """The tightest limits along the path of nested groups; None where nothing limits."""

    memory_limit_bytes: int | None = None
    memory_available_bytes: int | None = None  # room left below the tightest group
    cpu_quota: float | None = None  # CPUs' worth of time


def read_limits(root: Path = Path("/")) -> CgroupLimits:
    """Read the limits of this process and of every group around it, below the file system `root`.

    A missing or unreadable file counts as no limit. Memory that the kernel can drop at once
    (inactive file pages) counts as available, as it does in MemAvailable.
    """
    limits, rooms, quotas = [], [], []
    for version, group in _groups(root, "memory"):
        limit, room = _memory_v1(group) if version == 1 else _memory_v2(group)
        if limit is not None:
            limits.append(limit)
        if room is not None:
            rooms.append(room)
    for version, group in _groups(root, "cpu"):
        quota = _quota_v1(group) if version == 1 else _quota_v2(group)
        if quota is not None:
            quotas.append(quota)
    return CgroupLimits(
        memory_limit_bytes=min(limits, default=None),
        memory_available_bytes=min(rooms, default=None),
        cpu_quota=min(quotas, default=None),
    )


def _groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield (cgroup version, directory) from this process's own group up to the mount."""
    paths = _own_paths(_text(root / "proc/self/cgroup"))
    for version, mount_root, mount_point in _mounts(
        _text(root / "proc/self/mountinfo"), controller
    ):
        own = paths.get(controller if version == 1 else "")
        if own is None:
            continue
        top = root / mount_point.lstrip("/")
        inner = _below(own, mount_root)
        yield version, top.joinpath(*inner)
        for depth in range(len(inner) - 1, -1, -1):
            yield version, top.joinpath(*inner[:depth])


def _own_paths(cgroup_file: str) -> dict[str, str]:
    """Parse /proc/self/cgroup into controller -> path; version 2 has the empty controller."""
    paths = {}
    for line in cgroup_file.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            for controller in fields[1].split(","):
                paths[controller] = fields[2]
    return paths


def _mounts(mountinfo: str, controller: str) -> Iterator[tuple[int, str, str]]:
    """Yield (cgroup version, root of the mount, mount point) wherever the controller may be."""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if not separator or len(left) < 5 or len(right) < 3:
            continue
        mount_root, mount_point = _unescape(left[3]), _unescape(left[4])
        if right[0] == "cgroup2":
            yield 2, mount_root, mount_point
        elif right[0] == "cgroup" and controller in right[2].split(","):
            yield 1, mount_root, mount_point


def _below(own: str, mount_root: str) -> tuple[str, ...]:
    """Return the own path relative to what is mounted; empty where a container hides the way."""
    path = PurePosixPath(own)
    if ".." in path.parts or not path.is_relative_to(mount_root):
        return ()
    return path.relative_to(mount_root).parts


def _memory_v1(group: Path) -> tuple[int | None, int | None]:
    limit = _number(group / "memory.limit_in_bytes")
    usage = _number(group / "memory.usage_in_bytes")
    # "Unlimited" is the largest page-aligned number, about 2^63.
    if limit is None or limit >= 1 << 60:
        return None, None
    return limit, _room(limit, usage, _stat(group, "total_inactive_file", "inactive_file"))


def _memory_v2(group: Path) -> tuple[int | None, int | None]:
    # memory.high is where the kernel starts to throttle: beyond it a model still runs, but crawls.
    bounds = [_number(group / name) for name in ("memory.max", "memory.high")]
    limit = min((bound for bound in bounds if bound is not None), default=None)
    if limit is None:
        return None, None
    usage = _number(group / "memory.current")
    return limit, _room(limit, usage, _stat(group, "inactive_file"))


def _room(limit: int, usage: int | None, reclaimable: int) -> int:
    held = max(0, (usage or 0) - reclaimable)
    return max(0, limit - held)


def _stat(group: Path, *keys: str) -> int:
    """Return the first of the keys that memory.stat has, 0 where it has none."""
    lines = (line.split() for line in _text(group / "memory.stat").splitlines())
    values = {line[0]: line[1] for line in lines if len(line) == 2}
    for key in keys:
        if values.get(key, "").isdecimal():
            return int(values[key])
    return 0


def _quota_v1(group: Path) -> float | None:
    quota = _number(group / "cpu.cfs_quota_us")  # -1: unlimited
    period = _number(group / "cpu.cfs_period_us")
    return quota / period if quota and period else None


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")
    if not quota.isdecimal() or not period.isdecimal() or not int(period):
        return None
    return int(quota) / int(period)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _unescape(field: str) -> str:
    """Undo the octal escapes of mountinfo (a space is written \\040)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)
