"""A host that is not here: named graphics cards, processor and memory, with estimated speeds.

What is not named is taken from this machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from scheduler.cost import DeviceSpeed, Speeds
from scheduler.device_profiles import CpuProfile, GpuProfile, RamProfile
from scheduler.errors import UserInputError
from scheduler.estimates import estimated_speed, estimated_speeds
from scheduler.hardware import Cpu, Gpu, Host, Planned
from scheduler.profiles import find_cpu, find_gpu, find_ram
from scheduler.units import GIB, MIB, format_size
from scheduler.wanted import Wanted

VRAM_SHARE_BYTES = 512 * MIB
"""What driver and desktop take of a card that drives a screen: 0.3 to 0.6 GiB of the 11 GiB of an
RTX 2080 Ti with nothing open; a browser adds to it. --vram states what is really free."""
RAM_SHARE_BYTES = 2 * GIB
"""What a system with a desktop takes of the RAM that --ram states."""
SHARED_SHARE = 0.25
"""What the system keeps of memory that GPU and CPU share: macOS lends GPUs about three quarters."""

_BACKENDS = {"NVIDIA": "mnn:cuda", "Apple": "mnn:metal"}
_OTHER_BACKEND = "mnn:opencl"


def plan_host(wanted: Wanted, here: Host) -> tuple[Host, Speeds]:
    """Put together what is wanted and, for the rest, what is here.

    `here` needs no GPUs where some are wanted. Raises UserInputError for unknown or ambiguous names
    and for facts that contradict each other.
    """
    gpus = [find_gpu(name) for name in wanted.gpus]
    _check_agreement(wanted, gpus)
    cpu = find_cpu(wanted.cpu) if wanted.cpu else None
    ram = find_ram(wanted.ram_class or (cpu.memory if cpu else "")) if _has_ram(wanted) else None
    shared = next((gpu for gpu in gpus if gpu.unified_memory), None)
    planned = {
        f"gpu{number}": Planned(
            "estimated" if wanted.vram_bytes is None else "given",
            _BACKENDS.get(gpu.vendor, _OTHER_BACKEND),
            gpu.unified_memory,
        )
        for number, gpu in enumerate(gpus)
    }
    notes = [*_gpu_notes(wanted, gpus)]
    processor = here.cpu
    if cpu is not None:
        processor = replace(
            processor,
            model_name=cpu.name,
            physical_cores=cpu.cores,
            usable_cores=cpu.cores,
            instruction_sets=(),
            logical_cpus=0,
            cpu_quota=None,
        )
    total = shared.memory_bytes if shared else wanted.ram_bytes
    if total is None and ram is not None and wanted.ram_class:
        total = ram.typical_bytes
    if total is not None:
        free = _free_of_shared(shared) if shared else max(0, total - RAM_SHARE_BYTES)
        processor = replace(processor, total_bytes=total, available_bytes=free)
        planned["cpu"] = Planned("estimated", "mnn:cpu")
        if shared is None:
            notes.append(
                f"Of {format_size(total)} of RAM, {format_size(RAM_SHARE_BYTES)} are left to the"
                " system."
            )
    elif cpu is not None:
        notes.append("The amount of RAM is this machine's; --ram 32 states another.")
    cards = tuple(
        Gpu(
            f"gpu{number}",
            gpu.name,
            gpu.memory_bytes,
            wanted.vram_bytes[number] if wanted.vram_bytes else _free_of_profile(gpu),
            bandwidth_gbps=gpu.bandwidth_gbps,
        )
        for number, gpu in enumerate(gpus)
    )
    host = Host(processor, cards or here.gpus, (*notes, *here.notes), planned)
    if gpus:
        return host, _speeds(estimated_speeds(host), host, gpus, cpu, ram)
    host, probed = recognise(host)
    return host, _speeds(probed, host, gpus, cpu, ram)


def recognise(host: Host) -> tuple[Host, Speeds]:
    """Look up the GPUs that are here by name: published figures for speeds, and shared memory.

    A GPU that no profile describes keeps what its driver tells. If it is part of the processor, it
    is left out of plans: it would compete with the CPU for the RAM that both read.
    """
    speeds = estimated_speeds(host)
    known = {}
    planned = dict(host.planned)
    gpus, notes = [], list(host.notes)
    for gpu in host.gpus:
        backend = _probed_backend(gpu)
        profile = _profile_of(gpu, host)
        if profile is not None:
            known[gpu.name] = estimated_speed(profile, backend)
        elif gpu.shares_ram:
            notes.append(
                f"{gpu.name} ({gpu.model_name}) is part of the processor and shares its RAM, so"
                " plans leave it out; --vram 4 plans for it as if that much were its own."
            )
            continue
        gpus.append(gpu)
        shared = gpu.shares_ram or (profile is not None and profile.unified_memory)
        if shared or backend != "mnn:cuda":
            planned[gpu.name] = Planned("measured", backend, shared)
    found = replace(host, gpus=tuple(gpus), notes=tuple(notes), planned=planned)
    return found, Speeds({**speeds.devices, **known}, speeds.hop)


def _profile_of(gpu: Gpu, host: Host) -> GpuProfile | None:
    """What is published of a GPU that is here; models of shared memory are told apart by RAM."""
    with contextlib.suppress(UserInputError):
        profile = find_gpu(
            gpu.model_name, host.cpu.total_bytes if gpu.shares_ram else gpu.total_bytes
        )
        if profile.unified_memory or not gpu.shares_ram:
            return profile
    return None


def _probed_backend(gpu: Gpu) -> str:
    if gpu.memory_source == "Metal":
        return "mnn:metal"
    return _BACKENDS.get(gpu.vendor or "NVIDIA", _OTHER_BACKEND)


def measured_speeds(host: Host) -> Speeds:
    """Only the speeds of `recognise`."""
    return recognise(host)[1]


def _has_ram(wanted: Wanted) -> bool:
    return wanted.ram_class is not None or wanted.cpu is not None


def _check_agreement(wanted: Wanted, gpus: Sequence[GpuProfile]) -> None:
    free = wanted.vram_bytes
    if gpus and free is not None:
        if len(free) != len(gpus):
            raise UserInputError(
                f"--gpu names {len(gpus)} and --vram states the memory of {len(free)}; give one"
                " --vram for each --gpu, in the same order, or none."
            )
        for gpu, free_bytes in zip(gpus, free, strict=True):
            if free_bytes > gpu.memory_bytes:
                raise UserInputError(
                    f"--vram {format_size(free_bytes)} is more than the"
                    f" {format_size(gpu.memory_bytes)} of a {gpu.name}; leave --vram out or name"
                    " another --gpu."
                )
    for gpu in gpus:
        if gpu.unified_memory and len(gpus) > 1:
            raise UserInputError(
                f"{gpu.name} shares its memory with the CPU and cannot stand beside another --gpu."
            )
        if gpu.unified_memory and (wanted.ram_bytes is not None or wanted.ram_class):
            raise UserInputError(
                f"{gpu.name} shares its {format_size(gpu.memory_bytes)} with the CPU: there is no"
                " other RAM; leave --ram out."
            )


def _free_of_profile(gpu: GpuProfile) -> int:
    if gpu.unified_memory:
        return _free_of_shared(gpu)
    return max(0, gpu.memory_bytes - VRAM_SHARE_BYTES)


def _free_of_shared(gpu: GpuProfile) -> int:
    return int(gpu.memory_bytes * (1 - SHARED_SHARE))


def _gpu_notes(wanted: Wanted, gpus: Sequence[GpuProfile]) -> list[str]:
    notes = [
        f"{gpu.name}: GPU and CPU share {format_size(gpu.memory_bytes)}, counted once; a quarter is"
        " left to the system."
        for gpu in gpus
        if gpu.unified_memory
    ]
    if gpus and wanted.cpu is None:
        notes.append("The processor is this machine's; --cpu names another.")
    if wanted.vram_bytes is None and any(not gpu.unified_memory for gpu in gpus):
        notes.append(
            f"Of each card's memory, {format_size(VRAM_SHARE_BYTES)} are left to driver and"
            " desktop; --vram states what is really free."
        )
    return notes


def _speeds(
    probed: Speeds,
    host: Host,
    gpus: Sequence[GpuProfile],
    cpu: CpuProfile | None,
    ram: RamProfile | None,
) -> Speeds:
    devices: dict[str, DeviceSpeed] = {
        f"gpu{number}": estimated_speed(gpu, host.planned[f"gpu{number}"].backend)
        for number, gpu in enumerate(gpus)
    }
    shared = next((gpu for gpu in gpus if gpu.unified_memory), None)
    if shared is not None:
        ram = RamProfile(
            f"the memory of {shared.name}",
            1,
            shared.bus_width_bits,
            round(1000 * shared.data_rate_gbps),
            shared.bandwidth_gbps,
            shared.sources,
        )
    processor: CpuProfile | Cpu = cpu or host.cpu
    devices["cpu"] = estimated_speed(processor, "mnn:cpu", ram)
    return Speeds({**probed.devices, **devices}, probed.hop)
