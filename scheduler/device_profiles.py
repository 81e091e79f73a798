"""Published figures of devices that are not in this machine: GPUs, processors, memory classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class GpuProfile:
    """A graphics device as its maker describes it; None where the maker gives no figure.

    `bandwidth_gbps` is the peak in 10^9 bytes per second: bus width x data rate per pin / 8.
    `fp32_tflops` is the peak of the vector units at boost clock. `fp16_tflops` is the dense peak of
    fp16 products summed in fp32, on tensor or matrix cores where there are any; on devices that
    compute fp16 slower than fp32 it is the smaller one. Both in 10^12 operations per second.
    `sources` cites a key's origin, `default` that of all the others.
    """

    name: str
    vendor: str
    generation: str
    memory_bytes: int
    bus_width_bits: int
    data_rate_gbps: float
    bandwidth_gbps: float
    release_year: int
    sources: Mapping[str, str] = field(hash=False)
    aliases: tuple[str, ...] = ()
    fp32_tflops: float | None = None
    fp16_tflops: float | None = None
    pcie_generation: int | None = None
    pcie_lanes: int | None = None
    release_price_usd: int | None = None
    unified_memory: bool = False


@dataclass(frozen=True)
class CpuProfile:
    """A processor class: `fp32_tflops` is cores x clock x operations per cycle and core / 1000.

    `clock_ghz` is the base clock, so that the peak is one that all cores can hold. `memory` names
    the fastest memory class that the maker supports.
    """

    name: str
    cores: int
    clock_ghz: float
    flops_per_cycle: int
    fp32_tflops: float
    memory: str
    release_year: int
    sources: Mapping[str, str] = field(hash=False)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class RamProfile:
    """A memory class: peak bandwidth is channels x channel width / 8 x transfers per second.

    `megatransfers` in 10^6 per second, `bandwidth_gbps` in 10^9 bytes per second; `typical_bytes`
    only where the class stands for a machine of one size, such as a phone.
    """

    name: str
    channels: int
    channel_bits: int
    megatransfers: int
    bandwidth_gbps: float
    sources: Mapping[str, str] = field(hash=False)
    aliases: tuple[str, ...] = ()
    typical_bytes: int | None = None
