"""Find out what this machine has now: GPUs through NVML, and the CPU and RAM left to us."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from scheduler.hardware import Host
from scheduler.probe.cpu import probe_cpu
from scheduler.probe.nvml import probe_gpus


def probe_host() -> Host:
    """Measure GPUs, CPU and RAM anew at every call.

    Never raises for what a machine lacks: a missing driver, GPU, field or file becomes a sentence
    in `Host.notes`, and the value stays None or falls back to what is known.
    """
    gpus, gpu_notes = probe_gpus(os.environ, sys.platform)
    cpu, cpu_notes = probe_cpu(Path("/"), sys.platform)
    return Host(cpu=cpu, gpus=gpus, notes=gpu_notes + cpu_notes)
