"""Planner: a request and a host in, a Plan out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.advice import common_notes, notes_on_fit, notes_on_rule
from scheduler.choose import Devices, choose
from scheduler.cost import Speeds, StageParts, decode_seconds, device_kind
from scheduler.cpu_backend import backend_set_by, note_on_choice, with_cpu_backends
from scheduler.estimates import estimated_speeds
from scheduler.fit_document import fit_document
from scheduler.free_memory import FreeMemory, free_of_gpus, free_of_ram
from scheduler.hardware import Host
from scheduler.memory import (
    ASSUMED_THREADS,
    DRIVER_BYTES,
    gpu_host_bytes,
    hop_bytes,
    stage_memory,
)
from scheduler.model import embedding_bytes
from scheduler.placement import block_ranges
from scheduler.plan import Plan, RamBudget, Stage
from scheduler.plan_warnings import warnings_on
from scheduler.request import RUNNABLE_FAMILIES, PlanRequest, check_request, run_command
from scheduler.reserve import Decision, decide, decision_document
from scheduler.speed import predict_speed


def make_plan(request: PlanRequest, host: Host | None = None, speeds: Speeds | None = None) -> Plan:
    """Place every block of the model, budget the memory of each device, and predict the speed.

    Without a `host`, free RAM is unknown and only the GPUs in `request.vram_bytes` exist. Without
    `speeds`, constants are estimated from the host. Raises UserInputError for numbers that make no
    sense. By the rule of `reserve`, a plan that does not fit carries warnings; under `fit` it
    raises PlanError.
    """
    check_request(request)
    devices = planning_devices(request, host, speeds)
    if request.policy == "fit":
        chosen = choose(request, devices)
        settled = chosen.request
        stages = _stages(settled, chosen.fitting.stages, devices)
        budget = _ram_budget(settled, stages, devices)
        document = fit_document(settled, devices, chosen.fitting)
        notes = [*chosen.notes, *notes_on_fit(stages, devices)]
        warnings = warnings_on(settled, None, stages, budget)
    else:
        decision = decide(request, host)
        settled, stages, budget = _by_rule(request, decision, devices)
        document = decision_document(settled, decision)
        notes = notes_on_rule(settled, decision)
        warnings = warnings_on(settled, decision, stages, budget)
    document["cpu_backend_set_by"] = backend_set_by(request, settled)
    spec = settled.model
    on_gpus = sum(len(stage.blocks) for stage in stages if stage.device != "cpu")
    return Plan(
        model=spec.name,
        policy=settled.policy,
        gpu_blocks=on_gpus,
        cpu_blocks=spec.blocks - on_gpus,
        stages=stages,
        ram=budget,
        embedding_bytes=embedding_bytes(spec),
        context_tokens=settled.context_tokens,
        slots=settled.slots,
        decision=document,
        notes=[
            *notes,
            *note_on_choice(request, settled, stages, devices.speeds),
            *common_notes(settled, stages, devices.gpus, host),
        ],
        warnings=warnings,
        command=run_command(settled) if spec.family in RUNNABLE_FAMILIES else None,
        speed=predict_speed(stages, spec, devices.speeds, settled.context_tokens, settled.slots),
    )


def planning_devices(
    request: PlanRequest, host: Host | None = None, speeds: Speeds | None = None
) -> Devices:
    """The devices of a plan: free memory by request and host; speeds as given, else estimated."""
    gpus = free_of_gpus(request, host)
    if speeds is None or not all(gpu.device in speeds.devices for gpu in gpus):
        estimated = estimated_speeds(host, [gpu.device for gpu in gpus])
        known = speeds.devices if speeds else {}
        hop, backends = (speeds.hop, speeds.backends) if speeds else (estimated.hop, {})
        speeds = Speeds({**estimated.devices, **known}, hop, backends)
    threads = host.cpu.usable_cores if host else ASSUMED_THREADS
    return Devices(gpus, free_of_ram(request, host), speeds, threads)


def parts_by_rule(request: PlanRequest, decision: Decision) -> list[StageParts]:
    """GPUs in order, and the CPU with what is left and lm_head."""
    on_cpu = request.model.blocks - decision.gpu_blocks
    ranges = block_ranges([*(share.blocks for share in decision.shares), on_cpu])
    stages = [
        StageParts(share.device, request.gpu_precision, range(held[0], held[1] + 1))
        for share, held in zip(decision.shares, ranges, strict=False)
        if held is not None
    ]
    first = request.model.blocks - on_cpu
    rest = range(first, first + on_cpu)
    cpu = request.cpu_precision
    return [*stages, StageParts("cpu", cpu, rest, cpu, request.cpu_backend or "")]


def _by_rule(
    request: PlanRequest, decision: Decision, devices: Devices
) -> tuple[PlanRequest, list[Stage], RamBudget]:
    """The rule's stages, the CPU's on the faster of the backends that fit the RAM."""

    def placed(candidate: PlanRequest) -> tuple[PlanRequest, list[Stage], RamBudget]:
        stages = _stages(candidate, parts_by_rule(candidate, decision), devices)
        return candidate, stages, _ram_budget(candidate, stages, devices)

    def order(one: tuple[PlanRequest, list[Stage], RamBudget]) -> tuple[bool, float]:
        _, stages, ram = one
        short = ram.available_bytes is not None and ram.needed_bytes > ram.available_bytes
        spec, context, slots = request.model, request.context_tokens, request.slots
        return short, decode_seconds(stages, spec, devices.speeds, context, slots).total_seconds

    return min(map(placed, with_cpu_backends(request, devices.speeds)), key=order)


def _stages(request: PlanRequest, parts: Sequence[StageParts], devices: Devices) -> list[Stage]:
    free = {memory.device: memory for memory in (*devices.gpus, devices.ram)}
    return [_stage(request, stage, free[stage.device], devices.threads) for stage in parts]


def _stage(request: PlanRequest, parts: StageParts, free: FreeMemory, threads: int) -> Stage:
    contents = (
        len(parts.blocks),
        parts.precision,
        parts.lm_head_precision,
        request.context_tokens,
        request.slots,
    )
    on_gpu = parts.device != "cpu"
    return Stage(
        device=parts.device,
        backend=parts.backend or free.backend,
        precision=parts.precision,
        first_block=parts.blocks[0] if parts.blocks else None,
        last_block=parts.blocks[-1] if parts.blocks else None,
        lm_head=parts.lm_head_precision is not None,
        lm_head_precision=parts.lm_head_precision,
        memory=stage_memory(
            request.model, device_kind(parts.device, parts.backend), *contents, threads
        ),
        host_bytes=gpu_host_bytes(request.model, *contents) if on_gpu else 0,
        free_bytes=free.free_bytes,
        free_provenance=free.provenance,
    )


def _ram_budget(request: PlanRequest, stages: list[Stage], devices: Devices) -> RamBudget:
    """RAM of all processes; what a GPU holds in shared memory counts here too."""
    hops = hop_bytes(request.model, len(stages), request.context_tokens, request.slots)
    in_ram = {"cpu"} | {gpu.device for gpu in devices.gpus if gpu.shares_ram}
    held = sum(stage.memory.total_bytes for stage in stages if stage.device in in_ram)
    beside_gpus = sum(stage.host_bytes for stage in stages)
    return RamBudget(
        needed_bytes=DRIVER_BYTES + hops + held + beside_gpus,
        driver_bytes=DRIVER_BYTES + hops,
        available_bytes=devices.ram.free_bytes,
        available_provenance=devices.ram.provenance,
    )
