"""Advice: what a plan must say about itself, as sentences with their numbers."""

from __future__ import annotations

from bisect import bisect_right

from scheduler.hardware import Host
from scheduler.memory import held_block_bytes, stage_memory
from scheduler.model import block_bytes
from scheduler.plan import RamBudget, Stage
from scheduler.request import RUNNABLE_FAMILIES, PlanRequest
from scheduler.reserve import Decision, block_size_text
from scheduler.units import format_size


def notes_on(request: PlanRequest, decision: Decision, host: Host | None) -> list[str]:
    """What is in force and what to know about it; nothing here is a reason not to run."""
    gpu, cpu = request.gpu_precision, request.cpu_precision
    notes = [f"Precision: GPU {gpu}, CPU {cpu}; lm_head is on the CPU at {cpu}."]
    notes += _notes_on_count(request, decision)
    notes += [
        f"The free memory of {share.device} could not be read, so it gets no blocks; state it with"
        " --vram or set --gpu-blocks."
        for share in decision.shares
        if share.free_bytes is None and share.blocks == 0
    ]
    if request.model.family not in RUNNABLE_FAMILIES:
        notes.append(
            f"{request.model.name} can be planned but not run: this version exports and runs"
            " ChatGLM-6B models only."
        )
    elif decision.gpu_blocks:
        notes.append(
            "GPU stages need an MNN built with CUDA; its PyPI wheels have the CPU backend only."
            " `glm-plan devices` shows what works here."
        )
    if cpu == "fp16":
        held = held_block_bytes(request.model, cpu, "cpu")
        stored = block_bytes(request.model, cpu)
        notes.append(
            "MNN expands fp16 weights to fp32 in RAM on x86: a block takes"
            f" {format_size(held)} instead of {format_size(stored)}."
        )
    if cpu in ("int8", "int4"):
        notes.append(
            f"On the CPU {cpu} weights stay small because MNN also quantises activations to int8:"
            " faster, but not the arithmetic of fp32."
        )
    if request.vram_bytes is None and host is not None:
        notes += host.notes
    return notes


def _notes_on_count(request: PlanRequest, decision: Decision) -> list[str]:
    blocks = request.model.blocks
    if request.gpu_blocks is not None:
        by_rule = sum(share.by_rule for share in decision.shares)
        notes = [
            f"{decision.gpu_blocks} GPU blocks were set by hand with --gpu-blocks; the rule gives"
            f" {by_rule}."
        ]
        if request.gpu_blocks > blocks:
            notes.append(
                f"--gpu-blocks {request.gpu_blocks} is more than the {blocks} blocks of"
                f" {request.model.name}; all of them are on the GPU."
            )
        return notes
    if decision.published and len(decision.shares) == 1 and 0 < decision.gpu_blocks < blocks:
        return [
            "The published C++ loads one block more than its formula"
            f" ({decision.gpu_blocks + 1} of {blocks} here); this plan follows the formula."
        ]
    return []


def warnings_on(
    request: PlanRequest, decision: Decision, stages: list[Stage], ram: RamBudget
) -> list[str]:
    """Why this plan may fail or swap, with needed and available bytes."""
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


def _warnings_on_gpu(request: PlanRequest, decision: Decision, stage: Stage) -> list[str]:
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
    if request.gpu_precision == "int8":
        warnings.append(
            f"{stage.device}: MNN 3.6 computes int8 on CUDA wrongly for more than 16 tokens at once"
            " (an open bug); use fp16 or int4 there."
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
