"""What of a plan starts on this very machine: its backends proved, its RAM measured."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from runtime.backends.ort_proof import prove_ort
from runtime.backends.proof import prove_backends
from runtime.bundle import Bundle
from runtime.launch import StageLaunch, check_ram, launches_of
from scheduler.model import ModelSpec
from scheduler.plan import Plan
from scheduler.probe.cpu import probe_cpu
from scheduler.probe.nvml import probe_gpus


def launches_here(plan: Plan, spec: ModelSpec, bundle: Bundle) -> list[StageLaunch]:
    """The workers to start; a backend that does not work here became a CPU backend and says so.

    Raises PlanError when RAM is short or a GPU is not here, BundleError when the bundle lacks what
    the plan needs.
    """
    asked = {stage.backend for stage in plan.stages}
    working = frozenset({"mnn:cpu"})
    cuda_devices: dict[str, str] = {}
    if asked - working:
        gpus, _notes = probe_gpus(os.environ, sys.platform)
        working = prove_backends(gpus).working
        kinds = [name.partition(":")[2] for name in sorted(asked) if name.startswith("ort:")]
        if kinds:
            working |= prove_ort(kinds).working
        cuda_devices = {gpu.name: gpu.uuid for gpu in gpus if gpu.uuid}
    cpu, _notes = probe_cpu(Path("/"), sys.platform)
    launches = launches_of(plan, bundle, working, cuda_devices, cpu.usable_cores)
    check_ram(plan, spec, launches, cpu.available_bytes)
    return launches
