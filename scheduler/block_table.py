"""Every split of a model: one row per number of GPU blocks, with memory, speed and what binds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scheduler.choose import Devices
from scheduler.cost import StageParts, decode_seconds, device_kind
from scheduler.cpu_backend import backend_of_cpu
from scheduler.memory import DRIVER_BYTES, gpu_host_bytes, hop_bytes, stage_memory
from scheduler.placement import block_ranges, place_by_hand
from scheduler.plan import Plan
from scheduler.request import PlanRequest

TABLE_SCHEMA = "glm-plan/table/1"


@dataclass(frozen=True)
class Shortfall:
    """A device that a split does not fit on: bytes needed and available."""

    device: str
    needed_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class SplitRow:
    """One split; bytes and speed are estimated. `vram_bytes` has one number per GPU, in order.

    `ram_bytes` is for all processes. `fits` counts unknown memory as room.
    """

    gpu_blocks: int
    cpu_blocks: int
    lm_head_device: str
    vram_bytes: tuple[int, ...]
    ram_bytes: int
    step_seconds: float
    tokens_per_second: float
    shortfalls: tuple[Shortfall, ...]

    @property
    def fits(self) -> bool:
        """Whether every device has the memory that this split takes."""
        return not self.shortfalls


def split_rows(request: PlanRequest, plan: Plan, devices: Devices) -> list[SplitRow]:
    """Compute every split of the plan's model at the plan's precision and context.

    `plan` answers `request`, which may have left choices open. Under `reserve` lm_head stays
    on the CPU; under `fit` it is where it fits and saves most. Without a GPU there is one row.
    """
    request = replace(
        request,
        gpu_precision=plan.decision["gpu_precision"],
        cpu_precision=plan.decision["cpu_precision"],
        cpu_backend=backend_of_cpu(plan) or request.cpu_backend,
        context=plan.context_tokens,
    )
    blocks = request.model.blocks
    names = [gpu.device for gpu in devices.gpus]
    by_device = {stage.device: len(stage.blocks) for stage in plan.stages}
    planned = [by_device.get(name, 0) for name in names]
    rows = []
    for count in range(blocks + 1 if names else 1):
        counts = place_by_hand(planned, count) if names else ()
        heads = ["cpu", *names] if request.policy == "fit" else ["cpu"]
        options = [_row(request, devices, names, counts, head) for head in heads]
        rows.append(min(options, key=lambda row: (not row.fits, row.step_seconds)))
    return rows


def table_document(plan: Plan, rows: Sequence[SplitRow]) -> dict[str, Any]:
    """The JSON form: bytes and seconds, all estimated, and how many GPU blocks the plan chose."""
    return {
        "schema": TABLE_SCHEMA,
        "model": plan.model,
        "policy": plan.policy,
        "gpu_precision": plan.decision["gpu_precision"],
        "cpu_precision": plan.decision["cpu_precision"],
        "context_tokens": plan.context_tokens,
        "slots": plan.slots,
        "chosen_gpu_blocks": plan.gpu_blocks,
        "provenance": "estimated",
        "speed_provenance": plan.speed.provenance if plan.speed else None,
        "rows": [asdict(row) | {"fits": row.fits} for row in rows],
    }


def _row(
    request: PlanRequest, devices: Devices, names: Sequence[str], counts: Sequence[int], head: str
) -> SplitRow:
    spec, context, slots = request.model, request.context_tokens, request.slots
    stages = list(_parts(request, names, counts, head))
    needed = {}
    ram = DRIVER_BYTES + hop_bytes(spec, len(stages), context, slots)
    in_ram = {"cpu"} | {gpu.device for gpu in devices.gpus if gpu.shares_ram}
    for stage in stages:
        held = (len(stage.blocks), stage.precision, stage.lm_head_precision, context, slots)
        kind = device_kind(stage.device, stage.backend)
        needed[stage.device] = stage_memory(spec, kind, *held, devices.threads).total_bytes
        if stage.device in in_ram:
            ram += needed[stage.device]
        if stage.device != "cpu":
            ram += gpu_host_bytes(spec, *held)
    cost = decode_seconds(stages, spec, devices.speeds, context, slots)
    limits = [(gpu.device, needed.get(gpu.device, 0), gpu.free_bytes) for gpu in devices.gpus]
    limits.append(("ram", ram, devices.ram.free_bytes))
    return SplitRow(
        gpu_blocks=sum(counts),
        cpu_blocks=spec.blocks - sum(counts),
        lm_head_device=head,
        vram_bytes=tuple(needed.get(name, 0) for name in names),
        ram_bytes=ram,
        step_seconds=cost.total_seconds,
        tokens_per_second=cost.tokens_per_second,
        shortfalls=tuple(
            Shortfall(name, size, free)
            for name, size, free in limits
            if free is not None and size > free
        ),
    )


def _parts(
    request: PlanRequest, names: Sequence[str], counts: Sequence[int], head: str
) -> Iterator[StageParts]:
    """GPUs in order and then the CPU, as far as they hold anything; lm_head's device last."""
    spec = request.model
    everyone = [
        (name, count, request.gpu_precision, "") for name, count in zip(names, counts, strict=True)
    ]
    on_cpu = spec.blocks - sum(counts)
    everyone.append(("cpu", on_cpu, request.cpu_precision, request.cpu_backend or ""))
    everyone.sort(key=lambda one: one[0] == head)
    held = block_ranges([count for _, count, *_ in everyone])
    for (name, _, precision, backend), span in zip(everyone, held, strict=True):
        if span is not None or name == head:
            numbers = range(span[0], span[1] + 1) if span else range(0)
            lm_head = precision if name == head else None
            yield StageParts(name, precision, numbers, lm_head, backend)
