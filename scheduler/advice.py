"""Notes: what a plan must say about itself, as sentences with their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.choose import Devices
from scheduler.free_memory import FreeMemory
from scheduler.hardware import Host
from scheduler.memory import held_block_bytes
from scheduler.model import block_bytes
from scheduler.plan import Stage
from scheduler.request import RUNNABLE_FAMILIES, PlanRequest
from scheduler.reserve import Decision
from scheduler.units import format_size
from scheduler.wording import listing

_NEARLY_FULL = 0.9


def common_notes(
    request: PlanRequest, stages: list[Stage], gpus: Sequence[FreeMemory], host: Host | None
) -> list[str]:
    """What is in force and what to know about any plan; nothing here is a reason not to run."""
    gpu, cpu = request.gpu_precision, request.cpu_precision
    (head,) = [stage for stage in stages if stage.lm_head]
    where = "the CPU" if head.device == "cpu" else head.device
    notes = [f"Precision: GPU {gpu}, CPU {cpu}; lm_head is on {where} at {head.lm_head_precision}."]
    used = {stage.device for stage in stages}
    notes += [
        f"The free memory of {one.device} could not be read, so it gets no blocks; state it with"
        " --vram or set --gpu-blocks."
        for one in gpus
        if one.free_bytes is None and one.device not in used
    ]
    notes += _notes_on_cap(gpus)
    if request.model.family not in RUNNABLE_FAMILIES:
        notes.append(
            f"{request.model.name} can be planned but not run: its family {request.model.family} is"
            f" none of {', '.join(sorted(RUNNABLE_FAMILIES))}."
        )
    elif used - {"cpu"}:
        notes.append(_note_on_backend({stage.backend for stage in stages if stage.device != "cpu"}))
    if "cpu" in used:
        notes += _notes_on_cpu_precision(request)
    notes += _note_on_spilling(stages)
    if request.vram_bytes is None and host is not None:
        notes += host.notes
    return notes


def _note_on_backend(backends: set[str]) -> str:
    """What a GPU stage needs installed, and the command that installs it."""
    on_ort = sorted(name for name in backends if name.startswith("ort:"))
    if on_ort:
        extra = on_ort[0].partition(":")[2].replace("webgpu", "gpu")
        return (
            f"{on_ort[0]} needs pip install 'glm-plan[{extra}]' and a bundle exported with"
            " --backend ort; memory and speed are estimated as for MNN with CUDA."
        )
    if "mnn:cuda" in backends:
        return (
            "GPU stages need an MNN built with CUDA; its PyPI wheels have the CPU backend only. Or"
            " pip install 'glm-plan[gpu]' and plan with --gpu-backend ort:webgpu; `glm-plan"
            " devices` shows what works here."
        )
    return (
        "GPU stages need an MNN built with the backend that the plan names; its memory and speed"
        " are estimated as for CUDA."
    )


def _notes_on_cpu_precision(request: PlanRequest) -> list[str]:
    cpu, on_ort = request.cpu_precision, (request.cpu_backend or "").startswith("ort:")
    engine = "ONNX Runtime" if on_ort else "MNN"
    if cpu == "fp16":
        held = held_block_bytes(request.model, cpu, "cpu")
        stored = block_bytes(request.model, cpu)
        where = "in RAM" if on_ort else "in RAM on x86"
        return [
            f"{engine} expands fp16 weights to fp32 {where}: a block takes"
            f" {format_size(held)} instead of {format_size(stored)}."
        ]
    if cpu in ("int8", "int4"):
        return [
            f"On the CPU {cpu} weights stay small because {engine} also quantises activations to"
            " int8: faster, but not the arithmetic of fp32."
        ]
    return []


def _notes_on_cap(gpus: Sequence[FreeMemory]) -> list[str]:
    return [
        f"--max-vram holds {one.device} to {format_size(one.free_bytes)} of the"
        f" {format_size(one.uncapped_bytes)} that are free."
        for one in gpus
        if one.free_bytes is not None
        and one.uncapped_bytes is not None
        and one.free_bytes < one.uncapped_bytes
    ]


def _note_on_spilling(stages: list[Stage]) -> list[str]:
    """Drivers for Windows move VRAM to RAM without a word; that looks like a bad plan."""
    full = [
        stage.device
        for stage in stages
        if stage.device != "cpu"
        and stage.free_bytes is not None
        and stage.memory.total_bytes > _NEARLY_FULL * stage.free_bytes
    ]
    if not full:
        return []
    return [
        f"{listing(full, 'and')} will be over nine tenths full. On Windows the NVIDIA driver then"
        " moves memory to RAM silently instead of failing, and everything slows down several"
        ' times: watch "Shared GPU memory" in the Task Manager; if it grows, lower --max-vram or'
        ' set "CUDA - Sysmem Fallback Policy" to "Prefer No Sysmem Fallback".'
    ]


def notes_on_fit(stages: list[Stage], devices: Devices) -> list[str]:
    """What only a plan by `fit` must say: devices left idle, and budgets nobody knew."""
    used = {stage.device for stage in stages}
    notes = [
        f"{one.device} stays idle: with it a token would take longer, or nothing fits there."
        for one in devices.gpus
        if one.free_bytes is not None and one.device not in used
    ]
    if devices.ram.free_bytes is None:
        notes.append("The free RAM is unknown; the plan takes it as unlimited.")
    return notes


def notes_on_rule(request: PlanRequest, decision: Decision) -> list[str]:
    """Who set the count of GPU blocks, and how the published program differs."""
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
