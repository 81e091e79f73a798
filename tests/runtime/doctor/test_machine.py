"""Every finding about a machine, at the edges of what it takes for good."""

from __future__ import annotations

import dataclasses

import pytest

from runtime.doctor import machine
from runtime.doctor.finding import Finding, fail, ok, warn
from scheduler.hardware import Cpu
from scheduler.probe.cgroup import CgroupLimits
from scheduler.units import GIB, MIB

CPU = Cpu("Some CPU", 4, 2, 16 * GIB, 8 * GIB, ("avx2",), 4)


def change(**fields: object) -> Cpu:
    return dataclasses.replace(CPU, **fields)  # type: ignore[arg-type]


def test_a_remedy_is_there_exactly_where_something_is_to_do() -> None:
    with pytest.raises(AssertionError):
        Finding("x", "warn", "something is wrong")
    with pytest.raises(AssertionError):
        Finding("x", "ok", "all is well", "do this")
    assert ok("x", "y").remedy is None
    assert warn("x", "y", "z").remedy == fail("x", "y", "z").remedy == "z"


def test_cores() -> None:
    assert machine.cores(CPU) == ok("cores", "2 of 4 cores usable, Some CPU")
    assert machine.cores(change(cpu_quota=1.0)).status == "ok"
    assert machine.cores(change(cpu_quota=0.5)).status == "warn"
    slow = machine.cores(change(instruction_sets=("sse4_2",)))
    assert slow.status == "warn"
    assert "AVX2" in slow.text
    assert machine.cores(change(instruction_sets=())).status == "ok"  # the system does not tell


@pytest.mark.parametrize(
    ("available", "status"),
    [(511 * MIB, "fail"), (512 * MIB, "warn"), (2 * GIB - 1, "warn"), (2 * GIB, "ok")],
)
def test_memory(available: int, status: str) -> None:
    assert machine.memory(change(available_bytes=available)).status == status


def test_swap() -> None:
    assert machine.swap(0, 0).status == "ok"
    assert machine.swap(GIB, 100 * MIB).status == "ok"
    assert machine.swap(GIB, 600 * MIB).status == "warn"


def test_control_groups() -> None:
    assert machine.control_group(CgroupLimits()).text == "no control group limits RAM or time"
    wide = machine.control_group(CgroupLimits(4 * GIB, 3 * GIB, 2.5))
    assert wide.status == "ok"
    assert wide.text == "RAM limited to 4.00 GiB, 3.00 GiB of it left; 2.5 CPUs' worth of time"
    assert machine.control_group(CgroupLimits(4 * GIB, 300 * MIB)).status == "warn"


def test_shared_memory() -> None:
    assert machine.shared_memory(None, GIB).status == "ok"
    assert machine.shared_memory(64 * MIB, 64 * MIB).status == "ok"
    short = machine.shared_memory(64 * MIB, 65 * MIB)
    assert short.status == "fail"
    assert "--shm-size" in str(short.remedy)


@pytest.mark.parametrize(
    ("limit", "connections", "status"),
    [
        (None, 10, "ok"),
        (255, 10, "fail"),
        (256, 10, "warn"),
        (1023, 10, "warn"),
        (1024, 128, "ok"),
        (1024, 600, "warn"),
    ],
)
def test_open_files(limit: int | None, connections: int, status: str) -> None:
    assert machine.open_files(limit, connections).status == status


def test_clock() -> None:
    assert machine.clock(2e9, 1.9e9, 1e-9).status == "ok"
    assert machine.clock(1e9, 1.9e9, 1e-9).status == "warn"
    assert machine.clock(2e9, 1.9e9, 0.015).status == "warn"
