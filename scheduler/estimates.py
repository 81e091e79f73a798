"""Estimates: speed constants of a device from published figures, before anything has run on it.

Published peaks are multiplied by a few shares. Two of them (CPU_BANDWIDTH_SHARE and
GPU_BLOCK_OVERHEAD_SECONDS) are set so that one machine comes out as published: ChatGLM-6B with MNN
on an RTX 2080 Ti and a Ryzen 9 3900X with dual DDR4-3200, 1.14 tok/s on the CPU alone and 3.42 with
23 or 24 of 28 blocks on the GPU (wangzhaode/ChatGLM-MNN; the article says 1.2 and 3.5). Two numbers
set two constants; they cannot confirm them. docs/numbers.md derives the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from scheduler.cost import DeviceSpeed, HopSpeed, Speeds, WeightSpeed
from scheduler.device_profiles import CpuProfile, GpuProfile, RamProfile
from scheduler.hardware import Cpu, Gpu, Host
from scheduler.plan import Precision

GIGA = 1e9
TERA = 1e12

CPU_BANDWIDTH_SHARE = 0.57
"""Of RAM's peak that fp32 matrix-vector products reach: the published CPU-only speed."""
GPU_BANDWIDTH_SHARE = 0.6
"""Of VRAM's peak; matrix-vector kernels of CUDA reach 0.5 to 0.8, of Vulkan less."""
GPU_BLOCK_OVERHEAD_SECONDS = 2.3e-3
"""Launches, copies and waits per block: what the published hybrid speed leaves unexplained."""
GPU_QUANTISED_SHARE = 0.5
"""Of the bandwidth above that int8 and int4 weights reach, being unpacked on the way (a guess)."""
GPU_FLOPS_SHARE = 0.3
"""Of the peak at fp16 (or fp32) that prefill reaches, attention and small products included."""
CPU_FLOPS_SHARE = 0.5
"""Of the peak at fp32: 86 GFLOP/s on 2 AVX2 cores for a prompt of 128 tokens, with MNN 3.6.1."""
CPU_BLOCK_OVERHEAD_SECONDS = 2e-4
"""A call of MNN and a block's smaller operators: a block of the tiny model takes 0.3 ms in all."""
CPU_ROWS_PER_PASS = 4
"""MNN 3.6.1 on x86 reads the weights once for up to 4 rows: 8 rows took twice the time of 4."""

# A ChatGLM-6B block on 2 AVX2 cores with MNN 3.6.1 took 15 ms at int8 and 10 ms at int4, and 8 ms
# more with 31 MB more of KV cache: per core, bytes in 10^9 a second. Unpacking sets these rates,
# so they grow with cores until RAM is the limit.
_CPU_CORE_RATES: dict[Precision, float] = {"int8": 6.8 * GIGA, "int4": 5.6 * GIGA}
_CPU_CORE_KV_RATE = 2.0 * GIGA
_CPU_CORE_FP32_RATE = 12.0 * GIGA  # 22 GB/s on the two cores; no core of a desktop reads much more
# Two rows took 1.00, 1.16 and 1.30, four 1.14, 1.48 and 1.80 times one row's time.
_CPU_EXTRA_ROW_SHARES: dict[Precision, float] = {"fp32": 0.04, "int8": 0.16, "int4": 0.27}

ASSUMED_RAM_GBPS = 51.2  # dual DDR4-3200
ASSUMED_GPU_GBPS = 448.0  # a card of the middle class since 2018: RTX 2070, 2080, 3060 Ti, 5060
ASSUMED_GPU_TFLOPS = 30.0  # fp16 of the same
ASSUMED_CORE_GFLOPS = 96.0  # 3 GHz x 32 operations per cycle (AVX2)
FP16_PER_FP32 = 2.0  # a device whose maker states fp32 only

_UNKNOWN_GPU = Gpu("gpu", "a GPU", None, None)
_UNKNOWN_CPU = Cpu("a CPU", 8, 8, 0, 0)

HOP = HopSpeed(latency_seconds=2e-4, bytes_per_second=5e9)
"""Waking another process, 0.2 ms on two busy cores, and copying through shared memory."""


def estimated_speed(
    device: GpuProfile | CpuProfile | Gpu | Cpu, backend: str, ram: RamProfile | None = None
) -> DeviceSpeed:
    """Estimate a device's constants for one backend (``mnn:cuda``, ``mnn:cpu``, ...).

    `ram` is the memory class of a CPU; without it dual DDR4-3200 is assumed.
    """
    if isinstance(device, GpuProfile):
        what = f"published peaks of {device.name}, {backend}"
        # Where fp16 is slower than fp32 (Pascal), engines widen the weights and compute in fp32.
        fp16 = device.fp16_tflops and max(device.fp16_tflops, device.fp32_tflops or 0.0)
        return _gpu_speed(device.bandwidth_gbps, fp16, device.fp32_tflops, what)
    if isinstance(device, Gpu):
        what = f"peak bandwidth of {device.model_name} by its driver, {backend}"
        return _gpu_speed(device.bandwidth_gbps, None, None, what)
    if isinstance(device, CpuProfile):
        peak_gflops = 1000 * device.fp32_tflops
        return _cpu_speed(device.name, device.cores, peak_gflops, ram)
    cores = device.usable_cores
    return _cpu_speed(device.model_name, cores, cores * ASSUMED_CORE_GFLOPS, ram)


def _gpu_speed(
    bandwidth_gbps: float | None, fp16_tflops: float | None, fp32_tflops: float | None, what: str
) -> DeviceSpeed:
    assumed = []
    if bandwidth_gbps is None:
        bandwidth_gbps = ASSUMED_GPU_GBPS
        assumed.append(f"{ASSUMED_GPU_GBPS:.0f} GB/s")
    if fp16_tflops is None and fp32_tflops is not None:
        fp16_tflops = FP16_PER_FP32 * fp32_tflops
    if fp16_tflops is None:
        # Cards of one time keep arithmetic and bandwidth in proportion, more or less.
        fp16_tflops = ASSUMED_GPU_TFLOPS * bandwidth_gbps / ASSUMED_GPU_GBPS
        assumed.append(f"{fp16_tflops:.0f} TFLOPS")
    bandwidth = GPU_BANDWIDTH_SHARE * bandwidth_gbps * GIGA
    quantised = WeightSpeed(GPU_QUANTISED_SHARE * bandwidth)
    source = what
    if len(assumed) == 2:
        source = f"assumed {' and '.join(assumed)}; --gpu names the card"
    if len(assumed) == 1:
        source += f"; assumed {assumed[0]}"
    return DeviceSpeed(
        bandwidth_bytes_per_second=bandwidth,
        flops_per_second=GPU_FLOPS_SHARE * fp16_tflops * TERA,
        block_overhead_seconds=GPU_BLOCK_OVERHEAD_SECONDS,
        provenance="estimated",
        source=source,
        weights={"int8": quantised, "int4": quantised},
        fp32_flops_per_second=GPU_FLOPS_SHARE * TERA * (fp32_tflops or fp16_tflops / FP16_PER_FP32),
    )


def _cpu_speed(name: str, cores: int, peak_gflops: float, ram: RamProfile | None) -> DeviceSpeed:
    peak_gbps = ram.bandwidth_gbps if ram else ASSUMED_RAM_GBPS
    bandwidth = min(CPU_BANDWIDTH_SHARE * peak_gbps * GIGA, cores * _CPU_CORE_FP32_RATE)
    weights: dict[Precision, WeightSpeed] = {
        "fp32": WeightSpeed(bandwidth, _CPU_EXTRA_ROW_SHARES["fp32"]),
        "fp16": WeightSpeed(bandwidth, _CPU_EXTRA_ROW_SHARES["fp32"]),
    }
    for precision, per_core in _CPU_CORE_RATES.items():
        unpacking = cores * per_core
        rate = min(bandwidth, unpacking)
        # Where RAM is the limit, further rows cost the same arithmetic, a smaller share of the time
        share = _CPU_EXTRA_ROW_SHARES[precision] * rate / unpacking
        weights[precision] = WeightSpeed(rate, share)
    memory = ram.name if ram else f"RAM of unknown speed taken as {ASSUMED_RAM_GBPS} GB/s"
    return DeviceSpeed(
        bandwidth_bytes_per_second=bandwidth,
        flops_per_second=CPU_FLOPS_SHARE * peak_gflops * GIGA,
        block_overhead_seconds=CPU_BLOCK_OVERHEAD_SECONDS,
        provenance="estimated",
        source=f"{name} with {cores} cores, {memory}",
        weights=weights,
        kv_bytes_per_second=min(bandwidth, cores * _CPU_CORE_KV_RATE),
        rows_per_pass=CPU_ROWS_PER_PASS,
    )


def estimated_speeds(host: Host | None, others: Iterable[str] = ()) -> Speeds:
    """Estimate the CPU and GPUs of a host from what was probed.

    `others` names GPUs of which nothing is known but that they exist. Without a host, neither is
    anything of the CPU.
    """
    gpus = dict.fromkeys(others, _UNKNOWN_GPU) | {g.name: g for g in (host.gpus if host else ())}
    devices = {name: _probed_gpu_speed(gpu) for name, gpu in gpus.items()}
    return Speeds({**devices, "cpu": _probed_cpu_speed(host.cpu if host else _UNKNOWN_CPU)}, HOP)


@lru_cache(maxsize=64)
def _probed_gpu_speed(gpu: Gpu) -> DeviceSpeed:
    return estimated_speed(gpu, "mnn:cuda")


@lru_cache(maxsize=64)
def _probed_cpu_speed(cpu: Cpu) -> DeviceSpeed:
    return estimated_speed(cpu, "mnn:cpu")
