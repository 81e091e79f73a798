"""Memory: the bytes that each part of a model really takes on a device, item by item.

Device kinds are `cpu` (MNN on x86: fp32 arithmetic, low-memory mode), `ort` (ONNX Runtime on
processors, see `scheduler.ort_memory`) and `cuda` (MNN's CUDA backend). Formulas of the first two
were checked against resident memory; CUDA formulas are estimated, from MNN's source.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from scheduler.model import (
    Matrix,
    ModelSpec,
    block_bytes,
    block_kv_bytes_per_token,
    block_matrices,
    default_weight_block,
    lm_head_bytes,
    lm_head_matrix,
)
from scheduler.ort_memory import (
    ORT_WORKER_BYTES,
    ort_block_bytes,
    ort_lm_head_bytes,
    ort_running_bytes,
)
from scheduler.plan import Precision, StageMemory
from scheduler.prefill_memory import block_output_bytes, fp32_prefill_bytes, prefill_bytes
from scheduler.slots import (
    GROUP_ROWS,
    WHOLE_PROMPT_FAMILY,
    decoded_rows,
    kv_capacity,
    largest_prefill,
    smaller_capacity,
)
from scheduler.units import MIB

DeviceKind = Literal["cpu", "ort", "cuda"]

ASSUMED_THREADS = 8
"""Threads of a CPU stage where the processor is unknown; a known one has one per usable core."""

# llama.cpp's developers report 107 MiB (RTX 4060 Ti) to 555 MiB (RTX PRO 6000) for a CUDA context.
CUDA_CONTEXT_BYTES = 512 * MIB
# Python with NumPy, MNN and a runtime manager: 22 to 28 MiB on Linux with Python 3.11, without the
# pages of libraries (30 MiB), which all processes share and `DRIVER_BYTES` counts.
CPU_WORKER_BYTES = 40 * MIB
# The same beside a CUDA context, whose driver and libraries hold host memory too (not measured).
CUDA_WORKER_HOST_BYTES = 384 * MIB
# The process with tokenizer, sampler and command line, 31 MiB, Python's resource tracker, 6 MiB,
# and libraries, 30 MiB. Pages of the mapped embedding can be dropped at any time: not counted.
DRIVER_BYTES = 72 * MIB

_RUNTIME_BYTES: dict[DeviceKind, int] = {
    "cpu": CPU_WORKER_BYTES,
    "ort": ORT_WORKER_BYTES,
    "cuda": CUDA_CONTEXT_BYTES,
}

# What a loaded block takes beside its weights: its graph and small buffers.
MODULE_BYTES = MIB // 2

_FP32_BYTES = 4
_FP16_BYTES = 2
_SCALE_PAIR_GROWTH_BYTES = 4  # a file keeps scale and zero point in fp16, MNN in fp32


@lru_cache(maxsize=1024)
def held_block_bytes(spec: ModelSpec, precision: Precision, kind: DeviceKind) -> int:
    """Compute the bytes of one block's weights in the device's memory (the file may be smaller).

    On x86 MNN expands fp16 to fp32; int8 and int4 stay as they are, with scale and zero point in
    fp32 (checked: 193 and 108 MiB for a ChatGLM-6B block). On CUDA they stay as well, but each
    block carries an fp16 copy of its largest matrix to compute with (estimated).
    """
    if kind == "ort":
        return ort_block_bytes(spec, precision)
    if precision in ("fp32", "fp16"):
        return block_bytes(spec, "fp32" if kind == "cpu" else precision)
    matrices = block_matrices(spec)
    held = block_bytes(spec, precision) + sum(
        _scale_growth_bytes(spec, matrix.rows, matrix.inner, precision) for matrix in matrices
    )
    if kind == "cuda":
        held += _FP16_BYTES * max(matrix.rows * matrix.inner for matrix in matrices)
    return held


@lru_cache(maxsize=1024)
def held_lm_head_bytes(spec: ModelSpec, precision: Precision, kind: DeviceKind) -> int:
    """Compute the bytes of the final norm and vocabulary matrix, as `held_block_bytes` does."""
    if kind == "ort":
        return ort_lm_head_bytes(spec, precision)
    if precision in ("fp32", "fp16"):
        return lm_head_bytes(spec, "fp32" if kind == "cpu" else precision)
    rows, inner, _ = lm_head_matrix(spec)
    held = lm_head_bytes(spec, precision) + _scale_growth_bytes(spec, rows, inner, precision)
    return held + (_FP16_BYTES * rows * inner if kind == "cuda" else 0)


def _scale_growth_bytes(spec: ModelSpec, rows: int, inner: int, precision: Precision) -> int:
    group = (default_weight_block(spec) if precision == "int4" else None) or inner
    return rows * (inner // group) * _SCALE_PAIR_GROWTH_BYTES


def value_bytes(precision: Precision, kind: DeviceKind) -> int:
    """Bytes of an activation, key or value: fp16 on CUDA unless the weights are fp32; else fp32."""
    return _FP32_BYTES if kind != "cuda" or precision == "fp32" else _FP16_BYTES


def kv_cache_bytes(
    spec: ModelSpec, blocks: int, context: int, slots: int, bytes_per_value: int
) -> int:
    """Compute the KV cache of `blocks` blocks at full capacity; `context` in tokens per slot.

    To continue a prompt, a row of one block is copied to where products read it; the copy stays.
    """
    if blocks == 0:
        return 0
    capacity = kv_capacity(context)
    _, cached = largest_prefill(spec.family, context)
    copied = kv_capacity(cached) if cached else 0
    per_token = block_kv_bytes_per_token(spec, bytes_per_value)
    return (blocks * decoded_rows(slots) * capacity + copied) * per_token


def kv_growth_bytes(spec: ModelSpec, context: int, slots: int, bytes_per_value: int) -> int:
    """Compute what a group's cache in one block takes while it grows, beside what it grows to.

    Blocks grow one after another, from at most half the rows or the capacity below; MNN copies the
    new keys, and then the new values, from an array of zeros (measured with 3.6.1).
    """
    rows = min(decoded_rows(slots), GROUP_ROWS)
    capacity = kv_capacity(context)
    before = max(rows // 2 * capacity, rows * smaller_capacity(capacity))
    return (before + rows * capacity // 2) * block_kv_bytes_per_token(spec, bytes_per_value)


def running_bytes(
    spec: ModelSpec,
    kind: DeviceKind,
    blocks: int,
    precision: Precision,
    context: int,
    slots: int,
    threads: int,
) -> int:
    """Compute what the blocks of a stage need beside weights and KV cache during a full prompt.

    One slot prefills at a time. What a prompt needed stays until other steps follow, so that a
    cache may grow beside it. Where prompts are computed whole, that is a prompt that filled the
    capacity below, if there is one slot; with more slots, others have decoded meanwhile, which
    leaves the outputs of one block.
    """
    if blocks == 0:
        return 0
    if kind == "ort":
        return ort_running_bytes(spec, context, slots)
    prompt, outputs = _prompt_bytes(spec, kind, blocks, precision, context, threads)
    growing = kv_growth_bytes(spec, context, slots, value_bytes(precision, kind))
    if spec.family != WHOLE_PROMPT_FAMILY:
        return prompt + growing + outputs
    if slots > 1:
        return prompt + max(outputs, growing + outputs // blocks)
    shorter = smaller_capacity(kv_capacity(context))
    before = sum(_prompt_bytes(spec, kind, blocks, precision, shorter, threads)) if shorter else 0
    return max(prompt + outputs, before + growing)


def _prompt_bytes(
    spec: ModelSpec,
    kind: DeviceKind,
    blocks: int,
    precision: Precision,
    context: int,
    threads: int,
) -> tuple[int, int]:
    """What a prompt that fills the context needs in one block, and what all blocks return."""
    per_value = value_bytes(precision, kind)
    if kind == "cpu" and precision in ("fp32", "fp16"):
        prefill = fp32_prefill_bytes(spec, context, threads)
    else:
        prefill = prefill_bytes(spec, context, per_value)
    return prefill, block_output_bytes(spec, blocks, context, per_value)


def logits_bytes(spec: ModelSpec, slots: int) -> int:
    """Compute the bytes of logits, fp32, of one decode step of each group."""
    return decoded_rows(slots) * spec.vocab_size * _FP32_BYTES


def loading_bytes(
    spec: ModelSpec,
    kind: DeviceKind,
    blocks: int,
    precision: Precision,
    lm_head_precision: Precision | None,
) -> int:
    """Compute the most that loading a part takes beside its weights: copies of its largest matrix.

    One copy of fp32 weights, two of int8 and int4 (measured with MNN 3.6.1 on x86).
    """
    if kind == "ort":
        return 0  # files are mapped
    copies = [0]
    if blocks:
        copies.append(_loading_copy_bytes(block_matrices(spec), precision, kind))
    if lm_head_precision is not None:
        copies.append(_loading_copy_bytes((lm_head_matrix(spec),), lm_head_precision, kind))
    return max(copies)


def _loading_copy_bytes(
    matrices: tuple[Matrix, ...], precision: Precision, kind: DeviceKind
) -> int:
    bits = {"fp32": 32, "fp16": 32 if kind == "cpu" else 16, "int8": 16, "int4": 8}[precision]
    return max(matrix.rows * matrix.inner for matrix in matrices) * bits // 8


def hop_bytes(spec: ModelSpec, stages: int, context: int, slots: int) -> int:
    """Compute the shared memory between processes: fp32 hidden states per boundary, and logits.

    There is room for one prompt and, beside it, a decode step of every group.
    """
    rows = decoded_rows(slots)
    boundaries = (stages + 1) * (context + rows) * spec.hidden_size
    return (boundaries + (rows + 1) * spec.vocab_size) * _FP32_BYTES


def gpu_host_bytes(
    spec: ModelSpec,
    blocks: int,
    precision: Precision,
    lm_head_precision: Precision | None,
    context: int,
    slots: int,
) -> int:
    """Compute the RAM that a GPU stage's process holds beside the device's memory (estimated).

    A part passes through RAM as it loads; later the worker keeps keys and values there, as fp32,
    and hands them to the device.
    """
    parts = [kv_cache_bytes(spec, blocks, context, slots, _FP32_BYTES)]
    if blocks:
        parts.append(block_bytes(spec, precision))
    if lm_head_precision is not None:
        parts.append(lm_head_bytes(spec, lm_head_precision))
    return CUDA_WORKER_HOST_BYTES + max(parts)


def stage_peaks(
    spec: ModelSpec,
    kind: DeviceKind,
    blocks: int,
    precision: Precision,
    lm_head_precision: Precision | None,
    context: int,
    slots: int,
    threads: int = ASSUMED_THREADS,
) -> tuple[int, int]:
    """Compute the most that a stage holds while it loads, and while it runs a full prompt.

    Stages load all at once and run one after another, so these sums differ over several stages.
    """
    contents = (spec, kind, blocks, precision, lm_head_precision, context, slots, threads)
    memory = stage_memory(*contents)
    held = memory.total_bytes - memory.workspace_bytes
    loading = loading_bytes(spec, kind, blocks, precision, lm_head_precision)
    running = running_bytes(spec, kind, blocks, precision, context, slots, threads)
    if lm_head_precision is not None:
        running += logits_bytes(spec, slots)
    return held - memory.kv_cache_bytes + loading, held + running


def stage_memory(
    spec: ModelSpec,
    kind: DeviceKind,
    blocks: int,
    precision: Precision,
    lm_head_precision: Precision | None,
    context: int,
    slots: int,
    threads: int = ASSUMED_THREADS,
) -> StageMemory:
    """Itemise what a stage holds on its device; `lm_head_precision` None: lm_head is elsewhere.

    `threads` of a CPU stage matter with fp32 weights.
    """
    kv_cache = kv_cache_bytes(spec, blocks, context, slots, value_bytes(precision, kind))
    running = running_bytes(spec, kind, blocks, precision, context, slots, threads)
    if lm_head_precision is not None:
        running += logits_bytes(spec, slots)
    # Parts load before there is a cache.
    loading = loading_bytes(spec, kind, blocks, precision, lm_head_precision) - kv_cache
    return StageMemory(
        weights_bytes=blocks * (held_block_bytes(spec, precision, kind) + MODULE_BYTES),
        lm_head_bytes=held_lm_head_bytes(spec, lm_head_precision, kind) if lm_head_precision else 0,
        kv_cache_bytes=kv_cache,
        workspace_bytes=max(running, loading),
        runtime_bytes=_RUNTIME_BYTES[kind],
    )
