"""Findings about the machine: cores, RAM, swap, limits, shared memory, open files, clock."""

from __future__ import annotations

from runtime.doctor.finding import Finding, fail, ok, warn
from scheduler.hardware import Cpu
from scheduler.probe.cgroup import CgroupLimits
from scheduler.units import GIB, MIB, format_size

_VECTORS = frozenset({"avx2", "avx512f", "asimd", "sve"})
_LEAST_RAM_BYTES = 512 * MIB
_LITTLE_RAM_BYTES = 2 * GIB
_LEAST_FILES = 256
_MANY_FILES = 1024
# Timers coarser than this make step times of small models meaningless.
_COARSEST_TIMER_SECONDS = 1e-3
_DAY = 86_400.0


def cores(cpu: Cpu) -> Finding:
    """How many cores stages may use, and whether they have the instructions that engines need."""
    text = f"{cpu.usable_cores} of {cpu.physical_cores} cores usable, {cpu.model_name}"
    if cpu.cpu_quota is not None and cpu.cpu_quota < 1:
        return warn(
            "cores",
            f"{text}; the control group grants {cpu.cpu_quota:.2g} CPUs' worth of time",
            "raise the quota to a whole CPU or more (docker run --cpus)",
        )
    if cpu.instruction_sets and not _VECTORS & set(cpu.instruction_sets):
        return warn(
            "cores",
            f"{text}; neither AVX2 nor NEON",
            "expect tokens several times slower than planned, or use another machine",
        )
    return ok("cores", text)


def memory(cpu: Cpu) -> Finding:
    """RAM that is available now, control groups counted."""
    free = format_size(cpu.available_bytes)
    text = f"{free} available of {format_size(cpu.total_bytes)}"
    if cpu.available_bytes < _LEAST_RAM_BYTES:
        return fail("RAM", text, "end other programs; even the tiny model needs 512 MiB")
    if cpu.available_bytes < _LITTLE_RAM_BYTES:
        return warn("RAM", text, "end other programs before a model of real size is loaded")
    return ok("RAM", text)


def swap(total_bytes: int, used_bytes: int) -> Finding:
    """Whether the machine lives on swap already: a model there runs a hundred times slower."""
    if not total_bytes:
        return ok("swap", "none: what does not fit RAM is refused or ended, not slowed down")
    text = f"{format_size(used_bytes)} used of {format_size(total_bytes)}"
    if used_bytes > total_bytes // 2:
        return warn("swap", text, "the machine is short of RAM; end other programs")
    return ok("swap", f"{text}; plans never count on it")


def control_group(limits: CgroupLimits) -> Finding:
    """What a container or service manager leaves to this process."""
    parts = []
    limit, room = limits.memory_limit_bytes, limits.memory_available_bytes
    if limit is not None:
        left = "" if room is None else f", {format_size(room)} of it left"
        parts.append(f"RAM limited to {format_size(limit)}{left}")
    if limits.cpu_quota is not None:
        parts.append(f"{limits.cpu_quota:.3g} CPUs' worth of time")
    if not parts:
        return ok("limits", "no control group limits RAM or time")
    text = "; ".join(parts)
    if limit is not None and room is not None and room < limit // 10:
        return warn(
            "limits", text, "raise the limit (docker run --memory) or end what else is in it"
        )
    return ok("limits", text)


def shared_memory(free_bytes: int | None, needed_bytes: int) -> Finding:
    """Whether /dev/shm holds the hidden states that workers hand to each other.

    `free_bytes` None: this system has no such file system.
    """
    if free_bytes is None:
        return ok("shared memory", "not limited by a file system here")
    needed = f"{format_size(needed_bytes)} are needed (estimated)"
    text = f"{format_size(free_bytes)} free in /dev/shm, {needed}"
    if free_bytes < needed_bytes:
        return fail("shared memory", text, "make it larger (docker run --shm-size=1g)")
    return ok("shared memory", text)


def open_files(limit: int | None, connections: int) -> Finding:
    """How many files and sockets this process may have open; None: no limit is known.

    `connections` are clients that a server may have to hold at once.
    """
    if limit is None:
        return ok("open files", "no limit is known")
    text = f"up to {limit}"
    if limit < _LEAST_FILES:
        return fail("open files", text, f"ulimit -n {_MANY_FILES}, or LimitNOFILE= of the service")
    if limit < _MANY_FILES or limit < 2 * connections:
        wanted = max(_MANY_FILES, 2 * connections)
        return warn("open files", text, f"ulimit -n {wanted} before serving many clients")
    return ok("open files", text)


def clock(now: float, installed: float, timer_seconds: float) -> Finding:
    """Whether the time of day can be right, and the timer fine enough to measure with.

    `now` and `installed`, when this program's files were written, in seconds since 1970;
    `timer_seconds` is the resolution of the performance counter.
    """
    if now < installed - _DAY:
        return warn(
            "clock",
            "it is earlier than when glm-plan was installed",
            "set the clock: certificates are refused, and log lines and profiles misdated",
        )
    if timer_seconds > _COARSEST_TIMER_SECONDS:
        return warn(
            "clock",
            f"its steps are {timer_seconds * 1e3:.3g} ms",
            "don't trust measured times of single steps here",
        )
    return ok("clock", f"the timer has steps of {timer_seconds * 1e9:.3g} ns")
