"""Control-group limits, read from real trees of small files laid out as Linux does."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.hardware import Cpu
from scheduler.probe.cgroup import CgroupLimits, read_limits
from scheduler.probe.cpu import apply_limits

GIB = 1024**3
UNLIMITED_V1 = "9223372036854771712"

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory"
)


def machine(root: Path, own: str, mounts: str, files: dict[str, str]) -> Path:
    """Lay out /proc/self and the control-group files below `root`."""
    files = {"proc/self/cgroup": own, "proc/self/mountinfo": mounts} | files
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_no_control_groups_no_limits(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == CgroupLimits(None, None, None)


def test_version_2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/app"
    root = machine(
        tmp_path,
        "0::/app",
        V2_MOUNT,
        {
            f"{group}/memory.max": str(4 * GIB),
            f"{group}/memory.current": str(3 * GIB),
            f"{group}/memory.stat": f"anon {2 * GIB}\nfile {GIB}\ninactive_file {GIB // 2}",
            f"{group}/cpu.max": "150000 100000",
        },
    )
    # 4 GiB limit - (3 GiB held - 0.5 GiB that can be dropped) = 1.5 GiB
    assert read_limits(root) == CgroupLimits(4 * GIB, 3 * GIB // 2, 1.5)


def test_version_2_without_limits(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/app"
    files = {
        f"{group}/memory.max": "max",
        f"{group}/memory.high": "max",
        f"{group}/memory.current": "123456",
        f"{group}/cpu.max": "max 100000",
    }
    assert read_limits(machine(tmp_path, "0::/app", V2_MOUNT, files)) == CgroupLimits()


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    top = "sys/fs/cgroup"
    files = {
        # The slice is larger, but fuller: its neighbours hold 7 of 8 GiB.
        f"{top}/user.slice/memory.max": str(8 * GIB),
        f"{top}/user.slice/memory.current": str(7 * GIB),
        f"{top}/user.slice/cpu.max": "100000 100000",
        f"{top}/user.slice/app.scope/memory.max": str(4 * GIB),
        f"{top}/user.slice/app.scope/memory.current": str(GIB),
        f"{top}/user.slice/app.scope/cpu.max": "300000 100000",
    }
    root = machine(tmp_path, "0::/user.slice/app.scope", V2_MOUNT, files)
    assert read_limits(root) == CgroupLimits(4 * GIB, GIB, 1.0)


def test_the_soft_limit_of_version_2_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/app/memory.max": str(8 * GIB),
        "sys/fs/cgroup/app/memory.high": str(2 * GIB),
        "sys/fs/cgroup/app/memory.current": str(GIB),
    }
    root = machine(tmp_path, "0::/app", V2_MOUNT, files)
    assert read_limits(root) == CgroupLimits(2 * GIB, GIB, None)


def test_a_container_with_its_own_namespace(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory.max": str(GIB),
        "sys/fs/cgroup/memory.current": str(GIB // 4),
        "sys/fs/cgroup/cpu.max": "50000 100000",
    }
    root = machine(tmp_path, "0::/", V2_MOUNT, files)
    assert read_limits(root) == CgroupLimits(GIB, GIB * 3 // 4, 0.5)


def test_version_1(tmp_path: Path) -> None:
    memory, cpu = "sys/fs/cgroup/memory/app", "sys/fs/cgroup/cpu,cpuacct/app"
    files = {
        f"{memory}/memory.limit_in_bytes": str(2 * GIB),
        f"{memory}/memory.usage_in_bytes": str(GIB),
        # The hierarchy's number includes groups below, as the usage does.
        f"{memory}/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}",
        f"{cpu}/cpu.cfs_quota_us": "200000",
        f"{cpu}/cpu.cfs_period_us": "100000",
    }
    root = machine(tmp_path, "4:memory:/app\n2:cpu,cpuacct:/app\n0::/", V1_MOUNTS, files)
    assert read_limits(root) == CgroupLimits(2 * GIB, GIB + GIB // 4, 2.0)


def test_version_1_without_limits(tmp_path: Path) -> None:
    memory, cpu = "sys/fs/cgroup/memory/app", "sys/fs/cgroup/cpu,cpuacct/app"
    files = {
        f"{memory}/memory.limit_in_bytes": UNLIMITED_V1,
        f"{memory}/memory.usage_in_bytes": str(GIB),
        f"{cpu}/cpu.cfs_quota_us": "-1",
        f"{cpu}/cpu.cfs_period_us": "100000",
    }
    root = machine(tmp_path, "4:memory:/app\n2:cpu,cpuacct:/app", V1_MOUNTS, files)
    assert read_limits(root) == CgroupLimits()


def test_a_container_that_sees_the_hosts_path(tmp_path: Path) -> None:
    # Version 1 without a namespace: the path is the host's, the mount shows only what is below it.
    mounts = (
        "35 31 0:32 /docker/c0ffee /sys/fs/cgroup/memory ro,nosuid master:9"
        " - cgroup cgroup rw,memory"
    )
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "0",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(GIB // 2),
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "0",
    }
    root = machine(tmp_path, "4:memory:/docker/c0ffee/job", mounts, files)
    assert read_limits(root) == CgroupLimits(GIB // 2, GIB // 2, None)


@pytest.mark.parametrize("own", ["4:memory:/elsewhere", "4:memory:/../../host"])
def test_a_path_that_the_mount_hides_falls_back_to_the_mount(tmp_path: Path, own: str) -> None:
    mounts = "35 31 0:32 /docker/c0ffee /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "0",
    }
    root = machine(tmp_path, own, mounts, files)
    assert read_limits(root).memory_limit_bytes == GIB


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    mounts = r"30 23 0:26 / /control\040groups rw - cgroup2 cgroup2 rw"
    root = machine(tmp_path, "0::/", mounts, {"control groups/memory.max": str(GIB)})
    assert read_limits(root).memory_limit_bytes == GIB


def test_usage_above_the_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory.max": str(GIB),
        "sys/fs/cgroup/memory.current": str(2 * GIB),
    }
    assert read_limits(machine(tmp_path, "0::/", V2_MOUNT, files)).memory_available_bytes == 0


@given(text=st.text(max_size=200))
def test_damaged_files_never_raise(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    files = {
        "sys/fs/cgroup/memory.max": text.replace("\0", ""),
        "sys/fs/cgroup/cpu.max": text,
        "sys/fs/cgroup/memory.stat": text,
    }
    root = tmp_path_factory.mktemp("damaged")
    read_limits(machine(root, "0::/\n" + text, V2_MOUNT + "\n" + text, files))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux files")
def test_this_machine() -> None:
    limits = read_limits()
    if limits.memory_limit_bytes is not None:
        assert limits.memory_limit_bytes > psutil.Process().memory_info().rss // 2
    assert limits.cpu_quota is None or limits.cpu_quota > 0


MACHINE = Cpu(
    model_name="",
    physical_cores=8,
    usable_cores=8,
    logical_cpus=16,
    total_bytes=32 * GIB,
    available_bytes=20 * GIB,
)


@pytest.mark.parametrize(
    ("limits", "total", "available", "cores"),
    [
        (CgroupLimits(), 32 * GIB, 20 * GIB, 8),
        (CgroupLimits(64 * GIB, 60 * GIB, 32.0), 32 * GIB, 20 * GIB, 8),
        (CgroupLimits(8 * GIB, 6 * GIB, 2.0), 8 * GIB, 6 * GIB, 2),
        (CgroupLimits(24 * GIB, 24 * GIB, None), 24 * GIB, 20 * GIB, 8),
        (CgroupLimits(None, None, 2.9), 32 * GIB, 20 * GIB, 2),
        (CgroupLimits(None, None, 0.5), 32 * GIB, 20 * GIB, 1),
        (CgroupLimits(None, None, 12.0), 32 * GIB, 20 * GIB, 8),
    ],
)
def test_limits_only_ever_lower(
    limits: CgroupLimits, total: int, available: int, cores: int
) -> None:
    cpu = apply_limits(MACHINE, limits)
    assert (cpu.total_bytes, cpu.available_bytes, cpu.usable_cores) == (total, available, cores)
    assert cpu.physical_cores == 8
