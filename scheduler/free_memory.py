"""What each device has free for a plan: as measured, as planned, or as the user says."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.hardware import Host
from scheduler.plan import Provenance
from scheduler.request import PlanRequest

_CUDA = "mnn:cuda"


@dataclass(frozen=True)
class FreeMemory:
    """Free bytes of a device and their origin; None where they could not be found out.

    `uncapped_bytes` is what is free before --max-vram.
    """

    device: str
    free_bytes: int | None
    provenance: Provenance | None
    uncapped_bytes: int | None
    backend: str = _CUDA
    shares_ram: bool = False


def free_of_gpus(request: PlanRequest, host: Host | None) -> tuple[FreeMemory, ...]:
    """List the GPUs to plan for, in order.

    The request's free memory replaces the host's. A count of blocks set by hand is the user's word
    that there is a GPU, of unknown memory.
    """
    planned = host.planned if host else {}
    gpus: list[tuple[str, int | None, Provenance]] = []
    if request.vram_bytes is not None:
        gpus = [(f"gpu{index}", free, "given") for index, free in enumerate(request.vram_bytes)]
    elif host is not None:
        for gpu in host.gpus:
            own = planned.get(gpu.name)
            provenance: Provenance = own.memory_provenance if own else "measured"
            gpus.append((gpu.name, gpu.free_bytes, provenance))
    if request.gpu_blocks and not gpus:
        gpus = [("gpu0", None, "given")]
    found = []
    for name, free, provenance in gpus:
        capped = free
        if free is not None and request.max_vram_bytes is not None:
            capped = min(free, request.max_vram_bytes)
        own = planned.get(name)
        found.append(
            FreeMemory(
                device=name,
                free_bytes=capped,
                provenance=None if free is None else provenance,
                uncapped_bytes=free,
                backend=request.gpu_backend or (own.backend if own else _CUDA),
                shares_ram=own.shares_ram if own else False,
            )
        )
    return tuple(found)


def free_of_ram(request: PlanRequest, host: Host | None) -> FreeMemory:
    """The RAM available to all processes; unknown without a host."""
    backend = request.cpu_backend or "mnn:cpu"
    if host is None:
        return FreeMemory("cpu", None, None, None, backend)
    planned = host.planned.get("cpu")
    provenance: Provenance = planned.memory_provenance if planned else "measured"
    available = host.cpu.available_bytes
    return FreeMemory("cpu", available, provenance, available, backend)
