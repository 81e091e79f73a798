"""Devices and hosts as the planner sees them: memory, bandwidth, and what was found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory of a GPU; the driver may hide how much (Windows, containers)."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One graphics device; None means that nothing reliable was found, never zero.

    Memory in bytes, measured when probed. `bandwidth_gbps` is the peak in 10^9 bytes per second,
    estimated as bus width / 8 x memory clock x 2 (two transfers per clock). `uuid` is what
    CUDA_VISIBLE_DEVICES takes to name this very device, whatever order CUDA itself counts in.
    `memory_source` says who told the memory figures ("NVML", "sysfs", "Vulkan", "DXGI", "Metal").
    `pci_address` is written as in sysfs, 0000:03:00.0. `shares_ram`: its memory is the host's RAM.
    """

    name: str  # gpu0, gpu1, ...
    model_name: str
    total_bytes: int | None
    free_bytes: int | None
    used_bytes: int | None = None
    driver: str | None = None
    compute_capability: str | None = None
    bus_width_bits: int | None = None
    memory_clock_mhz: int | None = None
    bandwidth_gbps: float | None = None
    display_attached: bool | None = None
    uuid: str | None = None
    processes: tuple[GpuProcess, ...] | None = None
    vendor: str | None = None
    memory_source: str | None = None
    pci_address: str | None = None
    shares_ram: bool = False


@dataclass(frozen=True)
class Cpu:
    """The processor and the RAM that this process may use: affinity and cgroup limits applied."""

    model_name: str
    physical_cores: int
    usable_cores: (
        int  # physical cores among the CPUs of the affinity mask, capped by the cgroup quota
    )
    total_bytes: int  # RAM, or the cgroup limit where that is lower
    available_bytes: int
    instruction_sets: tuple[str, ...] = ()
    logical_cpus: int = 0  # hardware threads in the affinity mask; 0: not probed
    cpu_quota: float | None = None  # CPUs' worth of time that the cgroup grants; None: unlimited


@dataclass(frozen=True)
class Planned:
    """What holds for a device beyond its figures: where its free memory comes from, what runs it.

    `shares_ram`: a GPU whose memory is the RAM of its host.
    """

    memory_provenance: Literal["measured", "estimated", "given"]
    backend: str = "mnn:cuda"
    shares_ram: bool = False


@dataclass(frozen=True)
class Host:
    """Devices that share one RAM, with plain sentences about what could not be found out.

    `planned` maps device names (gpu0, cpu) to what a probe does not tell; all others are measured
    CUDA devices with memory of their own.
    """

    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()
    planned: Mapping[str, Planned] = field(default_factory=dict, hash=False)
