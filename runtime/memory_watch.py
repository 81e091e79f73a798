"""What a running model may take of each memory, and what is free and held now."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from runtime.launch import StageLaunch, ram_needed
from scheduler.hardware import Gpu
from scheduler.memory import kv_cache_bytes, value_bytes
from scheduler.model import ModelSpec
from scheduler.plan import Plan, Stage
from scheduler.pressure import RAM, MemoryNeed, MemoryNow, over_plan, plenty
from scheduler.probe.cgroup import read_limits
from scheduler.probe.nvml import probe_gpus

_KIB = 1024


def memory_needs(
    plan: Plan, spec: ModelSpec, launches: Sequence[StageLaunch], slots: int
) -> list[MemoryNeed]:
    """The need of RAM, and of every GPU that a stage runs on, by slots in use (estimated)."""
    ram = [ram_needed(plan, spec, list(launches))] * (slots + 1)
    needs = []
    for stage, launch in zip(plan.stages, launches, strict=True):
        unused = [
            _cache(plan, spec, stage, launch, plan.slots) - _cache(plan, spec, stage, launch, used)
            for used in range(slots + 1)
        ]
        if launch.on_cpu:
            ram = [whole - less for whole, less in zip(ram, unused, strict=True)]
        else:
            whole = stage.memory.total_bytes
            needs.append(MemoryNeed(stage.device, tuple(whole - less for less in unused)))
    return [MemoryNeed(RAM, tuple(ram)), *needs]


def _cache(plan: Plan, spec: ModelSpec, stage: Stage, launch: StageLaunch, slots: int) -> int:
    per_value = value_bytes(stage.precision, "cpu" if launch.on_cpu else "cuda")
    return kv_cache_bytes(spec, len(stage.blocks), plan.context_tokens, slots, per_value)


def held_now(needs: Sequence[MemoryNeed], worker_ids: Sequence[int]) -> dict[str, int]:
    """Bytes that the model holds of every memory of `needs`, measured; unknown ones left out."""
    held = {RAM: held_ram(worker_ids)[0]}
    for gpu in probe_gpus(os.environ, sys.platform)[0] if len(needs) > 1 else ():
        ours = _used_by(gpu, worker_ids)
        if ours and any(need.device == gpu.name for need in needs):
            held[gpu.name] = sum(ours)
    return held


def deviations(needs: Sequence[MemoryNeed], held: Mapping[str, int]) -> list[str]:
    """Sentences about memories of which a loaded model holds more than was planned."""
    told = (over_plan(need, held[need.device]) for need in needs if need.device in held)
    return [one for one in told if one is not None]


def memory_now(needs: Sequence[MemoryNeed], worker_ids: Sequence[int]) -> dict[str, MemoryNow]:
    """Measure every memory of `needs`; a GPU whose free memory nobody tells is left out.

    What the model itself holds is measured only where it matters: see `plenty`.
    """
    found = {}
    for need in needs:
        now = _ram_now() if need.device == RAM else _vram_now(need, worker_ids)
        if now is not None and need.device == RAM and not plenty(need, now):
            held_bytes, swapped_bytes = held_ram(worker_ids)
            now = MemoryNow(now.total_bytes, now.free_bytes, held_bytes, swapped_bytes)
        if now is not None:
            found[need.device] = now
    return found


def _ram_now() -> MemoryNow:
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    if sys.platform.startswith("linux"):
        limits = read_limits(Path("/"))
        if limits.memory_limit_bytes is not None:
            total = min(total, limits.memory_limit_bytes)
        if limits.memory_available_bytes is not None:
            free = min(free, limits.memory_available_bytes)
    return MemoryNow(total, free)


def _vram_now(need: MemoryNeed, worker_ids: Sequence[int]) -> MemoryNow | None:
    gpus, _notes = probe_gpus(os.environ, sys.platform)
    gpu = next((one for one in gpus if one.name == need.device), None)
    if gpu is None or gpu.free_bytes is None or gpu.total_bytes is None:
        return None
    return MemoryNow(gpu.total_bytes, gpu.free_bytes, held_vram(gpu, worker_ids, need))


def held_vram(gpu: Gpu, worker_ids: Sequence[int], need: MemoryNeed) -> int:
    """Bytes that our workers hold of a GPU; where the driver hides them, what an idle model needs.

    Drivers name no process inside of containers and on Windows.
    """
    ours = _used_by(gpu, worker_ids)
    return sum(ours) if ours else need.by_slots[0]


def _used_by(gpu: Gpu, worker_ids: Sequence[int]) -> list[int]:
    used = [one.used_bytes for one in gpu.processes or () if one.pid in worker_ids]
    return [one for one in used if one is not None]


def held_ram(worker_ids: Sequence[int]) -> tuple[int, int]:
    """Bytes of RAM that this process and all below it hold, and bytes of them in swap; measured.

    Shared pages count once. Pages of files count in workers, which may map weights, and not
    elsewhere: the mapped embedding can be dropped at any time and is not part of a plan.
    """
    held = swapped = 0
    for process in _family():
        try:
            one_held, one_swapped = _held_by(process, with_files=process.pid in worker_ids)
        except (OSError, psutil.Error):
            continue  # it has just ended
        held += one_held
        swapped += one_swapped
    return held, swapped


def _family() -> list[psutil.Process]:
    own = psutil.Process()
    try:
        return [own, *own.children(recursive=True)]
    except psutil.Error:
        return [own]


def _held_by(process: psutil.Process, *, with_files: bool) -> tuple[int, int]:
    if not sys.platform.startswith("linux"):
        return process.memory_full_info().uss, 0
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text("ascii")
    sizes = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * _KIB
    without_files = sizes.get("Pss_Anon", sizes["Pss"]) + sizes.get("Pss_Shmem", 0)
    return sizes["Pss"] if with_files else without_files, sizes.get("SwapPss", 0)
