"""The CPU and RAM that this process may use: model, cores, instruction sets, memory left."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Set
from pathlib import Path

from scheduler.hardware import Cpu
from scheduler.probe import elsewhere, linux_cpu
from scheduler.probe.cgroup import CgroupLimits, read_limits
from scheduler.probe.process_limit import address_space_left
from scheduler.units import format_size


def probe_cpu(root: Path, platform: str) -> tuple[Cpu, tuple[str, ...]]:
    """Measure processor and RAM, with sentences about limits in force and what stays unknown.

    On Linux, files are read below `root`; elsewhere the system's own calls are used.
    """
    import psutil

    memory = psutil.virtual_memory()
    threads = os.cpu_count() or 1
    allowed = _affinity()
    if platform.startswith("linux"):
        described = linux_cpu.describe(root)
        physical = linux_cpu.count_cores(root, linux_cpu.online_cpus(root))
        usable = linux_cpu.count_cores(root, allowed)
        limits = read_limits(root)
    else:
        described = elsewhere.describe(platform)
        physical = usable = None
        limits = CgroupLimits()
    notes = []
    if not described.model_name:
        notes.append("The system does not tell the CPU's model name.")
    if not described.instruction_sets:
        notes.append("The system does not tell the CPU's instruction sets.")
    physical = physical or psutil.cpu_count(logical=False)
    if physical is None:
        notes.append("The number of physical cores is unknown; logical CPUs are counted instead.")
        physical = threads
    whole = Cpu(
        model_name=described.model_name or "unknown CPU",
        physical_cores=physical,
        usable_cores=usable or min(physical, len(allowed) or threads),
        total_bytes=memory.total,
        available_bytes=memory.available,
        instruction_sets=described.instruction_sets,
        logical_cpus=len(allowed) or threads,
    )
    cpu = apply_limits(whole, limits)
    notes += _limits_in_force(whole, cpu, threads)
    room = address_space_left()
    if room is not None and room < cpu.available_bytes:
        notes.append(
            f"The limit of address space (ulimit -v) leaves {format_size(room)} of the"
            f" {format_size(cpu.available_bytes)} RAM that are available."
        )
        cpu = dataclasses.replace(cpu, available_bytes=room)
    return cpu, tuple(notes)


def apply_limits(cpu: Cpu, limits: CgroupLimits) -> Cpu:
    """Lower the cores and RAM of `cpu` to what the control group grants.

    A limit above what the machine has changes nothing.
    """
    total, available, usable, quota = (
        cpu.total_bytes,
        cpu.available_bytes,
        cpu.usable_cores,
        limits.cpu_quota,
    )
    if limits.memory_limit_bytes is not None:
        total = min(total, limits.memory_limit_bytes)
    if limits.memory_available_bytes is not None:
        available = min(available, limits.memory_available_bytes)
    if quota is not None and quota >= cpu.logical_cpus:
        quota = None
    if quota is not None:
        # Rounded down: with more threads than the quota feeds, the kernel stalls all mid-layer.
        usable = min(usable, max(1, math.floor(quota)))
    return dataclasses.replace(
        cpu,
        usable_cores=usable,
        total_bytes=total,
        available_bytes=min(available, total),
        cpu_quota=quota,
    )


def _affinity() -> Set[int]:
    """The logical CPUs this process may run on; empty where the system has no such notion."""
    import psutil

    process = psutil.Process()
    try:
        return (
            frozenset(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else frozenset()
        )
    except (psutil.Error, OSError):
        return frozenset()


def _limits_in_force(whole: Cpu, granted: Cpu, machine_threads: int) -> list[str]:
    """Say where this process gets less than the machine has, so that nobody wonders why."""
    notes = []
    if granted.logical_cpus < machine_threads:
        notes.append(
            f"This process may run on {granted.logical_cpus} of {machine_threads} logical CPUs."
        )
    if granted.cpu_quota is not None:
        notes.append(f"The control group grants {granted.cpu_quota:.4g} CPUs' worth of time.")
    if granted.total_bytes < whole.total_bytes:
        notes.append(
            f"The control group limits RAM to {format_size(granted.total_bytes)} of"
            f" {format_size(whole.total_bytes)}."
        )
    elif granted.available_bytes < whole.available_bytes:
        notes.append(
            f"The control group leaves {format_size(granted.available_bytes)} of the"
            f" {format_size(whole.available_bytes)} RAM that the machine has available."
        )
    return notes
