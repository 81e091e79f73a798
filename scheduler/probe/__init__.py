"""Find out what this machine has now: GPUs of every maker, and the CPU and RAM left to us."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from scheduler.hardware import Cpu, Gpu, Host
from scheduler.probe.cpu import probe_cpu
from scheduler.probe.gpus import probe_all_gpus


def probe_host() -> Host:
    """Measure GPUs, CPU and RAM anew at every call.

    Never raises for what a machine lacks: a missing driver, GPU, field or file becomes a sentence
    in `Host.notes`, and the value stays None or falls back to what is known.
    """
    gpus, gpu_notes = probe_all_gpus(os.environ, sys.platform, Path("/"))
    cpu, cpu_notes = probe_cpu(Path("/"), sys.platform)
    return Host(
        cpu=cpu, gpus=tuple(_within_ram(gpu, cpu) for gpu in gpus), notes=gpu_notes + cpu_notes
    )


def _within_ram(gpu: Gpu, cpu: Cpu) -> Gpu:
    """A GPU that shares the RAM can get no more of it than is available."""
    if not gpu.shares_ram or gpu.free_bytes is None:
        return gpu
    return dataclasses.replace(gpu, free_bytes=min(gpu.free_bytes, cpu.available_bytes))
