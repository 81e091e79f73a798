"""What of a plan starts on this very machine: its backends proved, its free memory measured."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from runtime.backends.ort_proof import prove_ort
from runtime.backends.proof import prove_backends
from runtime.bundle import Bundle
from runtime.launch import StageLaunch, check_ram, check_vram, launches_of
from scheduler.model import ModelSpec
from scheduler.plan import Plan
from scheduler.probe.cpu import probe_cpu
from scheduler.probe.gpus import probe_all_gpus

_log = logging.getLogger(__name__)


def launches_here(plan: Plan, spec: ModelSpec, bundle: Bundle) -> list[StageLaunch]:
    """The workers to start; a backend that does not work here became a CPU backend and says so.

    The plan is compared with what RAM and GPUs have free at this moment. Raises PlanError when that
    is too little or a GPU is not here, BundleError when the bundle lacks what the plan needs.
    """
    asked = {stage.backend for stage in plan.stages}
    working = frozenset({"mnn:cpu"})
    cuda_devices: dict[str, str] = {}
    free_vram: dict[str, int | None] = {}
    if asked - working:
        gpus, _notes = probe_all_gpus(os.environ, sys.platform, Path("/"))
        nvidia = tuple(gpu for gpu in gpus if gpu.vendor == "NVIDIA")
        working = prove_backends(nvidia).working
        kinds = [name.partition(":")[2] for name in sorted(asked) if name.startswith("ort:")]
        if kinds:
            working |= prove_ort(kinds).working
        cuda_devices = {gpu.name: gpu.uuid for gpu in nvidia if gpu.uuid}
        free_vram = {gpu.name: gpu.free_bytes for gpu in gpus}
    cpu, _notes = probe_cpu(Path("/"), sys.platform)
    launches = launches_of(plan, bundle, working, cuda_devices, cpu.usable_cores)
    check_ram(plan, spec, launches, cpu.available_bytes)
    for warning in check_vram(plan, launches, free_vram):
        _log.warning("%s", warning)
    return launches
