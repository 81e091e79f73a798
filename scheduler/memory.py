"""Memory: the bytes that each part of a model really takes on a device, item by item.

Device kinds are `cpu` (MNN on x86: fp32 arithmetic, low-memory mode) and `cuda` (MNN's CUDA
backend). CPU formulas were checked against the resident memory of MNN 3.6.1; CUDA formulas are
estimated, from MNN's source.
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
from scheduler.plan import Precision, StageMemory
from scheduler.units import MIB

DeviceKind = Literal["cpu", "cuda"]

KV_FIRST_STEP = 64
"""Tokens of the smallest KV cache; capacity doubles from here, so that shapes change rarely."""

# llama.cpp's developers report 107 MiB (RTX 4060 Ti) to 555 MiB (RTX PRO 6000) for a CUDA context.
CUDA_CONTEXT_BYTES = 512 * MIB
# Python with NumPy, MNN and a runtime manager: 47 MiB resident on Linux with Python 3.11.
CPU_WORKER_BYTES = 64 * MIB
# The same beside a CUDA context, whose driver and libraries hold host memory too (not measured).
CUDA_WORKER_HOST_BYTES = 384 * MIB
# The process with tokenizer, sampler and command line: 50 MiB resident. Pages of the mapped
# embedding can be dropped at any time and do not count.
DRIVER_BYTES = 64 * MIB

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
    return _FP32_BYTES if kind == "cpu" or precision == "fp32" else _FP16_BYTES


def kv_capacity(context: int) -> int:
    """Round a context up to the size its KV cache grows to: 64, 128, 256, ... tokens."""
    capacity = KV_FIRST_STEP
    while capacity < context:
        capacity *= 2
    return capacity


def kv_cache_bytes(
    spec: ModelSpec, blocks: int, context: int, slots: int, bytes_per_value: int
) -> int:
    """Compute the KV cache of `blocks` blocks at full capacity, and the copy of one that grows.

    `context` in tokens per slot.
    """
    if blocks == 0:
        return 0
    capacity = kv_capacity(context)
    per_block = capacity * slots * block_kv_bytes_per_token(spec, bytes_per_value)
    return (blocks + (1 if capacity > KV_FIRST_STEP else 0)) * per_block


def prefill_bytes(spec: ModelSpec, context: int, bytes_per_value: int) -> int:
    """Compute the activations of one block over a prompt that fills the context (estimated).

    Four times the hidden states, three times the attention scores (joined, after softmax, split
    again) over the prompt and one empty step of the cache, and the mask; or the feed-forward's
    inner values where these are more. MNN 3.6.1 on x86 took 0.87 to 1.05 of this for prompts of 512
    to 2,048 tokens at hidden size 1,024 and 4,096. Blocks run in turn and share this memory.
    """
    seen = context + KV_FIRST_STEP
    attention = 3 * spec.heads * seen + seen
    feed_forward = spec.ffn_size * (3 if spec.gated_mlp else 2)
    return context * (4 * spec.hidden_size + max(attention, feed_forward)) * bytes_per_value


def new_kv_bytes(spec: ModelSpec, blocks: int, context: int, bytes_per_value: int) -> int:
    """Compute the new keys and values of one full prompt, which all modules keep as outputs."""
    return blocks * context * block_kv_bytes_per_token(spec, bytes_per_value)


def workspace_bytes(
    spec: ModelSpec,
    kind: DeviceKind,
    blocks: int,
    precision: Precision,
    lm_head_precision: Precision | None,
    context: int,
    slots: int,
) -> int:
    """Compute transient memory: prefill, new keys and values, logits; or a part's copy as it loads.

    One slot prefills at a time. Loading holds a second copy of a part's largest matrix, and so does
    MNN's fp32 matrix product on the CPU (Strassen's method; both measured).
    """
    running = loading = 0
    if blocks:
        per_value = value_bytes(precision, kind)
        running = prefill_bytes(spec, context, per_value)
        running += new_kv_bytes(spec, blocks, context, per_value)
        loading = _largest_matrix_bytes(block_matrices(spec), precision, kind)
        if kind == "cpu" and precision in ("fp32", "fp16"):
            running += loading
    if lm_head_precision is not None:
        running += slots * spec.vocab_size * _FP32_BYTES
        head = _largest_matrix_bytes((lm_head_matrix(spec),), lm_head_precision, kind)
        loading = max(loading, head)
    return max(running, loading)


def _largest_matrix_bytes(
    matrices: tuple[Matrix, ...], precision: Precision, kind: DeviceKind
) -> int:
    bits = {"fp32": 32, "fp16": 32 if kind == "cpu" else 16, "int8": 8, "int4": 4}[precision]
    return max(matrix.rows * matrix.inner for matrix in matrices) * bits // 8


def hop_bytes(spec: ModelSpec, stages: int, context: int, slots: int) -> int:
    """Compute the shared memory between processes: fp32 hidden states per boundary, and logits."""
    boundaries = (stages + 1) * context * spec.hidden_size
    return slots * (boundaries + spec.vocab_size) * _FP32_BYTES


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


def stage_memory(
    spec: ModelSpec,
    kind: DeviceKind,
    blocks: int,
    precision: Precision,
    lm_head_precision: Precision | None,
    context: int,
    slots: int,
) -> StageMemory:
    """Itemise what a stage holds on its device; `lm_head_precision` None: lm_head is elsewhere."""
    return StageMemory(
        weights_bytes=blocks * held_block_bytes(spec, precision, kind),
        lm_head_bytes=held_lm_head_bytes(spec, lm_head_precision, kind) if lm_head_precision else 0,
        kv_cache_bytes=kv_cache_bytes(spec, blocks, context, slots, value_bytes(precision, kind)),
        workspace_bytes=workspace_bytes(
            spec, kind, blocks, precision, lm_head_precision, context, slots
        ),
        runtime_bytes=CPU_WORKER_BYTES if kind == "cpu" else CUDA_CONTEXT_BYTES,
    )
