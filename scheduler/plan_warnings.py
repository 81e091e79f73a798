"""Warnings: why a plan may fail or swap, with needed and available bytes, and what would help."""

from __future__ import annotations

from bisect import bisect_right

from scheduler.memory import stage_memory
from scheduler.plan import RamBudget, Stage
from scheduler.request import PlanRequest
from scheduler.reserve import Decision, block_size_text
from scheduler.units import format_size


def warnings_on(
    request: PlanRequest, decision: Decision | None, stages: list[Stage], ram: RamBudget
) -> list[str]:
    """Why this plan may fail or swap, with needed and available bytes.

    `decision` is that of the rule, whose reserve is compared with what is needed beside weights.
    """
    warnings = []
    for stage in stages:
        if stage.device != "cpu":
            warnings += _warnings_on_gpu(request, decision, stage)
    if ram.available_bytes is not None and ram.needed_bytes > ram.available_bytes:
        warnings.append(
            f"RAM: the CPU side needs {format_size(ram.needed_bytes)} and"
            f" {format_size(ram.available_bytes)} are available: it would swap. Choose a smaller"
            " --cpu-precision or --context, or more GPU blocks."
        )
    return warnings


def _warnings_on_gpu(request: PlanRequest, decision: Decision | None, stage: Stage) -> list[str]:
    warnings = [] if decision is None else _warnings_on_rule(request, decision, stage)
    if stage.precision == "int8":
        warnings.append(
            f"{stage.device}: MNN 3.6 computes int8 on CUDA wrongly for more than 16 tokens at once"
            " (an open bug); use fp16 or int4 there."
        )
    return warnings


def _warnings_on_rule(request: PlanRequest, decision: Decision, stage: Stage) -> list[str]:
    warnings = []
    memory, free_bytes = stage.memory, stage.free_bytes
    beside_bytes = memory.total_bytes - memory.weights_bytes
    need = (
        f"{stage.device} needs {format_size(memory.total_bytes)} (estimated: weights"
        f" {format_size(memory.weights_bytes)}, KV cache {format_size(memory.kv_cache_bytes)},"
        f" workspace {format_size(memory.workspace_bytes)}, runtime"
        f" {format_size(memory.runtime_bytes)}) for {len(stage.blocks)} blocks and a prompt of"
        f" {request.context_tokens} tokens"
    )
    if free_bytes is None:
        warnings.append(f"{need}; its free memory is unknown.")
    elif memory.total_bytes > free_bytes:
        warnings.append(
            f"{need}; {format_size(free_bytes)} are free. {_remedy(request, stage, free_bytes)}"
        )
    elif beside_bytes > decision.reserve_bytes:
        warnings.append(
            f"{stage.device}: KV cache, workspace and runtime take {format_size(beside_bytes)}"
            f" (estimated) at {request.context_tokens} tokens, more than the reserve of"
            f" {format_size(decision.reserve_bytes)}; what the blocks leave free covers it."
        )
    by_formula = len(stage.blocks) * decision.block_bytes + decision.reserve_bytes
    if free_bytes is not None and by_formula > free_bytes:
        warnings.append(
            f"{stage.device}: {len(stage.blocks)} blocks of"
            f" {block_size_text(decision.block_bytes)} and the reserve of"
            f" {format_size(decision.reserve_bytes)} come to {format_size(by_formula)};"
            f" {format_size(free_bytes)} are free."
        )
    return warnings


def _remedy(request: PlanRequest, stage: Stage, free_bytes: int) -> str:
    """What makes an overfull GPU fit: the largest context, or the most blocks, that do."""

    def needed_bytes(blocks: int, context: int) -> int:
        memory = stage_memory(
            request.model, "cuda", blocks, stage.precision, None, context, request.slots
        )
        return memory.total_bytes

    blocks, context = len(stage.blocks), request.context_tokens
    fitting = bisect_right(range(1, context), free_bytes, key=lambda n: needed_bytes(blocks, n))
    fewer = bisect_right(range(1, blocks), free_bytes, key=lambda n: needed_bytes(n, context))
    ways = []
    if fitting:
        ways.append(f"--context {fitting} fits")
    if fewer:
        ways.append(f"{fewer} blocks fit at this context")
    return f"By the same estimate {' and '.join(ways)}." if ways else "Nothing smaller fits either."
