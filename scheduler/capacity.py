"""Capacity: what fits where, for one question or for thousands, and what binds.

Cells hold the numbers of the plan that the planner would make, without making it: sweeps stay fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product

from scheduler.cell import Cell, Limit, LimitKind, Verdict
from scheduler.choose import Devices, question_of
from scheduler.cost import (
    StageParts,
    decode_seconds,
    device_kind,
    prefill_seconds,
)
from scheduler.fit import try_fit
from scheduler.machine import Machine
from scheduler.memory import (
    ASSUMED_THREADS,
    DRIVER_BYTES,
    DeviceKind,
    gpu_host_bytes,
    hop_bytes,
    stage_memory,
)
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from scheduler.planner import parts_by_rule
from scheduler.request import PlanRequest, Policy
from scheduler.reserve import decide
from scheduler.speed import DEFAULT_PROMPT


def judge(request: PlanRequest, machine: Machine) -> Cell:
    """Answer one question about one machine, as the planner would place it.

    A context beyond the model's is a verdict here, not an error, so that sweeps can cross models.
    """
    if request.context_tokens > request.model.max_context:
        return _beyond_context(request, machine)
    devices = machine.devices(request)
    stages = place(request, machine, devices)
    spec = request.model
    held = {stage.device: stage for stage in stages}
    needs = _needs(request, devices, stages)
    verdict, limit = _verdict(request, machine, devices, held, needs)
    context, slots, speeds = request.context_tokens, request.slots, machine.speeds
    prompt = min(DEFAULT_PROMPT, context)
    step = ttft = None
    if verdict not in ("would_swap", "does_not_fit"):
        step = decode_seconds(stages, spec, speeds, context, slots).total_seconds
        ttft = prefill_seconds(stages, spec, speeds, prompt).total_seconds
    return Cell(
        model=spec.name,
        machine=machine.name,
        policy=request.policy,
        gpu_precision=request.gpu_precision,
        cpu_precision=request.cpu_precision,
        context_tokens=context,
        slots=slots,
        verdict=verdict,
        limit=limit,
        blocks=spec.blocks,
        blocks_by_gpu=_blocks_by_gpu(devices, held),
        lm_head_device=next(s.device for s in stages if s.lm_head_precision is not None),
        vram_needed_bytes=tuple(needs.get(gpu.device, 0) for gpu in devices.gpus),
        vram_free_bytes=tuple(gpu.free_bytes or 0 for gpu in devices.gpus),
        ram_needed_bytes=needs["ram"],
        ram_available_bytes=machine.ram_bytes,
        step_seconds=step,
        tokens_per_second=None if step is None else slots / step,
        ttft_seconds=ttft,
        prompt_tokens=prompt,
        speed_provenance=machine.speed_provenance(held),
    )


def sweep(
    models: Sequence[ModelSpec],
    machines: Sequence[Machine],
    precisions: Sequence[tuple[Precision, Precision]],
    contexts: Sequence[int | None],
    slots: Sequence[int],
    policy: Policy,
) -> Iterator[Cell]:
    """Answer every combination, models outermost; precisions are pairs of GPU and CPU.

    A context of None is the model's usual one: 2048 tokens or its most.
    """
    for model, machine, (gpu, cpu), context, count in product(
        models, machines, precisions, contexts, slots
    ):
        yield judge(
            PlanRequest(
                model,
                gpu_precision=gpu,
                cpu_precision=cpu,
                context=context,
                slots=count,
                policy=policy,
            ),
            machine,
        )


def place(request: PlanRequest, machine: Machine, devices: Devices) -> Sequence[StageParts]:
    """Place the parts as the planner does under the request's policy.

    Where `fit` finds nothing within the available RAM, it may use all the RAM there is, and at last
    any amount: the numbers of such a placement say how much is lacking.
    """
    if request.policy == "reserve":
        return parts_by_rule(request, decide(request, machine.host))
    for ram_bytes in (machine.ram_bytes, machine.ram_total_bytes, None):
        ram = replace(devices.ram, free_bytes=ram_bytes)
        fitting = try_fit(question_of(request, replace(devices, ram=ram)))
        if fitting is not None:
            return fitting.stages
    raise AssertionError("without a limit of RAM everything fits")


@lru_cache(maxsize=1 << 16)
def stage_bytes(
    spec: ModelSpec,
    kind: DeviceKind,
    blocks: int,
    precision: Precision,
    lm_head_precision: Precision | None,
    context: int,
    slots: int,
    threads: int = ASSUMED_THREADS,
) -> int:
    """Compute the sum of `memory.stage_memory`, remembered, since sweeps ask again and again."""
    return stage_memory(
        spec, kind, blocks, precision, lm_head_precision, context, slots, threads
    ).total_bytes


def _needs(request: PlanRequest, devices: Devices, stages: Sequence[StageParts]) -> dict[str, int]:
    """Bytes that each GPU's stage takes there, and under `ram` those of all processes together."""
    spec, context, slots = request.model, request.context_tokens, request.slots
    shared = {gpu.device for gpu in devices.gpus if gpu.shares_ram}
    needs: dict[str, int] = {}
    ram = DRIVER_BYTES + hop_bytes(spec, len(stages), context, slots)
    for stage in stages:
        kind = device_kind(stage.device, stage.backend)
        count, head = len(stage.blocks), stage.lm_head_precision
        held_parts = (count, stage.precision, head)
        needed = stage_bytes(spec, kind, *held_parts, context, slots, devices.threads)
        if stage.device == "cpu" or stage.device in shared:
            ram += needed
        if stage.device != "cpu":
            needs[stage.device] = needed
            ram += gpu_host_bytes(spec, count, stage.precision, head, context, slots)
    return {**needs, "ram": ram}


def _blocks_by_gpu(devices: Devices, held: dict[str, StageParts]) -> tuple[int, ...]:
    return tuple(len(held[gpu.device].blocks) if gpu.device in held else 0 for gpu in devices.gpus)


def _verdict(
    request: PlanRequest,
    machine: Machine,
    devices: Devices,
    held: dict[str, StageParts],
    needs: dict[str, int],
) -> tuple[Verdict, Limit]:
    available = {gpu.device: gpu.free_bytes or 0 for gpu in devices.gpus}
    available["ram"] = machine.ram_bytes
    for name, needed in needs.items():
        if needed > available[name]:
            swaps = name == "ram" and needed <= machine.ram_total_bytes
            short = Limit("short", name, needed, available[name])
            return ("would_swap" if swaps else "does_not_fit"), short
    placed = sum(_blocks_by_gpu(devices, held))
    if placed == request.model.blocks or not devices.gpus:
        fullest = max(needs, key=lambda name: needs[name] / max(1, available[name]))
        room = Limit("headroom", fullest, needs[fullest], available[fullest])
        return ("resident" if placed else "cpu_only"), room
    return ("hybrid" if placed else "cpu_only"), _next_block(
        request, machine, devices, held, needs["ram"]
    )


def _next_block(
    request: PlanRequest,
    machine: Machine,
    devices: Devices,
    held: dict[str, StageParts],
    ram_bytes: int,
) -> Limit:
    """What one more block would need, on the GPU that lacks the least for it, or in RAM beside."""
    decision = decide(request, machine.host) if request.policy == "reserve" else None
    limits = []
    for gpu in devices.gpus:
        stage = held.get(gpu.device)
        count = len(stage.blocks) if stage else 0
        if decision is not None:
            needed = decision.reserve_bytes + (count + 1) * decision.block_bytes
        else:
            needed = _stage_bytes(
                request,
                "cuda",
                count + 1,
                request.gpu_precision,
                stage.lm_head_precision if stage else None,
            )
        free_bytes = gpu.free_bytes or 0
        kind: LimitKind = "next_block" if needed > free_bytes else "speed"
        limits.append(Limit(kind, gpu.device, needed, free_bytes))
    limit = min(limits, key=lambda limit: limit.needed - limit.available)
    if limit.kind == "speed":
        moved = ram_bytes + _ram_of_next_block(request, held, limit.where, machine.threads)
        if moved > machine.ram_bytes:
            return Limit("next_block", "ram", moved, machine.ram_bytes)
    return limit


def _ram_of_next_block(
    request: PlanRequest, held: dict[str, StageParts], device: str, threads: int
) -> int:
    """How the RAM of all processes changes when one block moves from the CPU to a GPU."""
    spec, context, slots = request.model, request.context_tokens, request.slots
    gpu, cpu = held.get(device), held.get("cpu")
    count, head = (len(gpu.blocks), gpu.lm_head_precision) if gpu else (0, None)
    after = gpu_host_bytes(spec, count + 1, request.gpu_precision, head, context, slots)
    if gpu is None:
        before = 0
        after += hop_bytes(spec, 1, context, slots) - hop_bytes(spec, 0, context, slots)
    else:
        before = gpu_host_bytes(spec, count, request.gpu_precision, head, context, slots)
    if cpu is not None and cpu.blocks:
        own = (request.cpu_precision, cpu.lm_head_precision)
        before += _stage_bytes(request, "cpu", len(cpu.blocks), *own, threads)
        after += _stage_bytes(request, "cpu", len(cpu.blocks) - 1, *own, threads)
    return after - before


def _stage_bytes(
    request: PlanRequest,
    kind: DeviceKind,
    blocks: int,
    precision: Precision,
    lm_head_precision: Precision | None,
    threads: int = ASSUMED_THREADS,
) -> int:
    return stage_bytes(
        request.model,
        kind,
        blocks,
        precision,
        lm_head_precision,
        request.context_tokens,
        request.slots,
        threads,
    )


def _beyond_context(request: PlanRequest, machine: Machine) -> Cell:
    spec = request.model
    nothing = (0,) * len(machine.host.gpus)
    return Cell(
        model=spec.name,
        machine=machine.name,
        policy=request.policy,
        gpu_precision=request.gpu_precision,
        cpu_precision=request.cpu_precision,
        context_tokens=request.context_tokens,
        slots=request.slots,
        verdict="does_not_fit",
        limit=Limit("context", "context", request.context_tokens, spec.max_context),
        blocks=spec.blocks,
        blocks_by_gpu=nothing,
        lm_head_device="cpu",
        vram_needed_bytes=nothing,
        vram_free_bytes=machine.vram_bytes,
        ram_needed_bytes=0,
        ram_available_bytes=machine.ram_bytes,
        step_seconds=None,
        tokens_per_second=None,
        ttft_seconds=None,
        prompt_tokens=0,
        speed_provenance=machine.speed_provenance(["cpu"]),
    )
