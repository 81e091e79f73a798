"""Explain a plan: why each device holds what it holds, and what one more block would cost."""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.cost import Speeds, block_decode_seconds, device_kind, lm_head_seconds
from scheduler.cpu_backend import on_cpu_backend
from scheduler.memory import stage_memory
from scheduler.model import ModelSpec
from scheduler.plan import Plan, Precision, Stage
from scheduler.units import format_size


def explain(plan: Plan, spec: ModelSpec, speeds: Speeds) -> list[str]:
    """Sentences about each stage and lm_head, with bytes and milliseconds; all estimated.

    `speeds` are those that the plan was made with.
    """
    return [
        *(_on_stage(plan, spec, speeds, stage) for stage in plan.stages if stage.blocks),
        *_on_moving_a_block(plan, spec, speeds),
        *_on_lm_head(plan, spec, speeds),
        *on_cpu_backend(plan, spec, speeds),
    ]


def _on_stage(plan: Plan, spec: ModelSpec, speeds: Speeds, stage: Stage) -> str:
    blocks = len(stage.blocks)
    each = _block_seconds(plan, spec, speeds, stage)
    told = (
        f"{stage.device} holds {blocks} block{'s' * (blocks != 1)} at"
        f" {_milliseconds(each)} each a token"
    )
    if stage.device == "cpu":
        return f"{told}: {_why_on_cpu(plan)}."
    return f"{told}: {_why_on_gpu(plan, spec, stage)}."


def _why_on_cpu(plan: Plan) -> str:
    free = plan.ram.available_bytes
    room = "how much there is, is unknown" if free is None else f"{format_size(free)} are available"
    rest = "those that no GPU takes" if plan.gpu_blocks else "no GPU takes any"
    return f"{rest}; all processes need {format_size(plan.ram.needed_bytes)} of RAM, {room}"


def _why_on_gpu(plan: Plan, spec: ModelSpec, stage: Stage) -> str:
    if plan.decision["set_by"] == "hand":
        return "set by hand with --gpu-blocks"
    if len(stage.blocks) == spec.blocks:
        return "all there are"
    assert stage.free_bytes is not None  # no policy gives blocks to a GPU of unknown memory
    budget = stage.free_bytes - plan.decision["reserve_bytes"]
    if plan.policy == "reserve":
        return _by_rule(plan, stage, budget)
    taken, more = stage.memory.total_bytes, _with_one_more(plan, spec, stage)
    told = f"they take {format_size(taken)} of {format_size(budget)}"
    if more > budget:
        return f"{told}, and with one more {format_size(more)}: {format_size(more - budget)} short"
    return f"{told}; one more fits and would make the plan slower, or RAM too small"


def _by_rule(plan: Plan, stage: Stage, budget: int) -> str:
    block = plan.decision["block_bytes"]
    left = budget - len(stage.blocks) * block
    if left >= block:
        return "all that the GPUs before it leave"
    return (
        f"the rule keeps {format_size(plan.decision['reserve_bytes'])} free, and the"
        f" {format_size(left)} left beside that are less than the {format_size(block)} of one more"
    )


def _with_one_more(plan: Plan, spec: ModelSpec, stage: Stage) -> int:
    return stage_memory(
        spec,
        device_kind(stage.device, stage.backend),
        len(stage.blocks) + 1,
        stage.precision,
        stage.lm_head_precision,
        plan.context_tokens,
        plan.slots,
    ).total_bytes


def _on_moving_a_block(plan: Plan, spec: ModelSpec, speeds: Speeds) -> Iterator[str]:
    """What the next block would cost on each GPU, against the CPU where it is now."""
    cpu = next((stage for stage in plan.stages if stage.device == "cpu" and stage.blocks), None)
    if cpu is None:
        return
    here = _block_seconds(plan, spec, speeds, cpu)
    for stage in plan.stages:
        if stage.device == "cpu" or not stage.blocks:
            continue
        there = _block_seconds(plan, spec, speeds, stage)
        step = plan.speed.step_seconds if plan.speed else here
        change = here - there
        verb = "save" if change > 0 else "cost"
        growth = _with_one_more(plan, spec, stage) - stage.memory.total_bytes
        yield (
            f"One more block on {stage.device} would take {format_size(growth)} there and {verb}"
            f" {_milliseconds(abs(change))} a token, {100 * abs(change) / step:.1f} % of it."
        )


def _on_lm_head(plan: Plan, spec: ModelSpec, speeds: Speeds) -> Iterator[str]:
    home = next(stage for stage in plan.stages if stage.lm_head)
    assert home.lm_head_precision is not None
    spent = _head_seconds(plan, spec, speeds, home, home.lm_head_precision)
    told = (
        f"lm_head is on {home.device}: {_milliseconds(spent)} a token"
        f" and {format_size(home.memory.lm_head_bytes)} there"
    )
    if plan.policy == "reserve":
        told += "; the rule always leaves it on the CPU"
    for stage in plan.stages:
        if stage is home:
            continue
        other = _head_seconds(plan, spec, speeds, stage, stage.precision)
        size = stage_memory(
            spec,
            device_kind(stage.device, stage.backend),
            0,
            stage.precision,
            stage.precision,
            plan.context_tokens,
            plan.slots,
        ).lm_head_bytes
        told += f"; on {stage.device} it would take {_milliseconds(other)} and {format_size(size)}"
    yield f"{told}."


def _block_seconds(plan: Plan, spec: ModelSpec, speeds: Speeds, stage: Stage) -> float:
    return block_decode_seconds(
        spec,
        speeds.of(stage.device, stage.backend),
        device_kind(stage.device, stage.backend),
        stage.precision,
        plan.context_tokens,
        plan.slots,
    )


def _head_seconds(
    plan: Plan, spec: ModelSpec, speeds: Speeds, stage: Stage, precision: Precision
) -> float:
    kind = device_kind(stage.device, stage.backend)
    speed = speeds.of(stage.device, stage.backend)
    return lm_head_seconds(spec, speed, kind, precision, plan.slots)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
