"""Planner: a request and a host in, a Plan out. Pure."""

from __future__ import annotations

from scheduler.advice import notes_on, warnings_on
from scheduler.cost import Speeds
from scheduler.estimates import estimated_speeds
from scheduler.hardware import Host
from scheduler.memory import (
    DRIVER_BYTES,
    gpu_host_bytes,
    hop_bytes,
    stage_memory,
)
from scheduler.model import embedding_bytes
from scheduler.placement import block_ranges
from scheduler.plan import Plan, RamBudget, Stage
from scheduler.request import RUNNABLE_FAMILIES, PlanRequest, check_request, run_command
from scheduler.reserve import Decision, GpuShare, decide, decision_document
from scheduler.speed import predict_speed


def make_plan(request: PlanRequest, host: Host | None = None, speeds: Speeds | None = None) -> Plan:
    """Place every block of the model, budget the memory of each device, and predict the speed.

    Without a `host`, free RAM is unknown and only the GPUs in `request.vram_bytes` exist. Without
    `speeds`, constants are estimated from the host. Raises UserInputError for numbers that make no
    sense; a plan that does not fit carries warnings.
    """
    check_request(request)
    spec = request.model
    decision = decide(request, host)
    stages = _stages(request, decision, host)
    ram = _ram_budget(request, stages, host)
    if speeds is None:
        speeds = estimated_speeds(host, [share.device for share in decision.shares])
    return Plan(
        model=spec.name,
        policy=request.policy,
        gpu_blocks=decision.gpu_blocks,
        cpu_blocks=spec.blocks - decision.gpu_blocks,
        stages=stages,
        ram=ram,
        embedding_bytes=embedding_bytes(spec),
        context_tokens=request.context_tokens,
        slots=request.slots,
        decision=decision_document(request, decision),
        notes=notes_on(request, decision, host),
        warnings=warnings_on(request, decision, stages, ram),
        command=run_command(request) if spec.family in RUNNABLE_FAMILIES else None,
        speed=predict_speed(stages, spec, speeds, request.context_tokens, request.slots),
    )


def _stages(request: PlanRequest, decision: Decision, host: Host | None) -> list[Stage]:
    on_cpu = request.model.blocks - decision.gpu_blocks
    ranges = block_ranges([*(share.blocks for share in decision.shares), on_cpu])
    stages = [
        _gpu_stage(request, share, held)
        for share, held in zip(decision.shares, ranges, strict=False)
        if held is not None
    ]
    return [*stages, _cpu_stage(request, on_cpu, ranges[-1], host)]


def _gpu_stage(request: PlanRequest, share: GpuShare, held: tuple[int, int]) -> Stage:
    spec, context, slots = request.model, request.context_tokens, request.slots
    return Stage(
        device=share.device,
        backend="mnn:cuda",
        precision=request.gpu_precision,
        first_block=held[0],
        last_block=held[1],
        memory=stage_memory(
            spec, "cuda", share.blocks, request.gpu_precision, None, context, slots
        ),
        host_bytes=gpu_host_bytes(spec, share.blocks, request.gpu_precision, None, context, slots),
        free_bytes=share.free_bytes,
        free_provenance=share.free_provenance,
    )


def _cpu_stage(
    request: PlanRequest, blocks: int, held: tuple[int, int] | None, host: Host | None
) -> Stage:
    first, last = held or (None, None)
    precision = request.cpu_precision
    return Stage(
        device="cpu",
        backend="mnn:cpu",
        precision=precision,
        first_block=first,
        last_block=last,
        lm_head=True,
        lm_head_precision=precision,
        memory=stage_memory(
            request.model,
            "cpu",
            blocks,
            precision,
            precision,
            request.context_tokens,
            request.slots,
        ),
        free_bytes=host.cpu.available_bytes if host else None,
        free_provenance="measured" if host else None,
    )


def _ram_budget(request: PlanRequest, stages: list[Stage], host: Host | None) -> RamBudget:
    hops = hop_bytes(request.model, len(stages), request.context_tokens, request.slots)
    on_cpu = sum(stage.memory.total_bytes for stage in stages if stage.device == "cpu")
    beside_gpus = sum(stage.host_bytes for stage in stages)
    return RamBudget(
        needed_bytes=DRIVER_BYTES + hops + on_cpu + beside_gpus,
        driver_bytes=DRIVER_BYTES + hops,
        available_bytes=host.cpu.available_bytes if host else None,
        available_provenance="measured" if host else None,
    )
