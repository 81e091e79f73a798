"""Memory: the bytes that each part of a model really takes on a device, item by item.

Device kinds are `cpu` (MNN on x86: fp32 arithmetic, low-memory mode) and `cuda` (MNN's CUDA
backend). CPU formulas were checked against the resident memory of MNN 3.6.1; CUDA formulas are
estimated, from MNN's source.
"""

from __future__ import annotations

from typing import Literal

from scheduler.model import (
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
# A Python process that has imported MNN and NumPy and created a runtime manager.
CPU_WORKER_BYTES = 96 * MIB
# The same, with the CUDA driver's and libraries' own host memory.
CUDA_WORKER_HOST_BYTES = 384 * MIB
# The process with the tokenizer, sampler and command line. Pages of the mapped embedding can be
# dropped at any time and do not count.
DRIVER_BYTES = 128 * MIB

_FP32_BYTES = 4
_FP16_BYTES = 2
_SCALE_PAIR_GROWTH_BYTES = 4  # a file keeps scale and zero point in fp16, MNN in fp32


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


def workspace_bytes(
    spec: ModelSpec, blocks: int, context: int, lm_head: bool, slots: int, bytes_per_value: int
) -> int:
    """Compute transient memory: prefill of a prompt that fills the context, and logits (estimated).

    Prefill holds hidden states, query/key/value or the feed-forward's inner values, and attention
    scores before and after softmax over the prompt and one empty step of the cache; also the new
    keys and values of every block until they are stored. Logits are fp32, one row per slot.
    """
    logits = slots * spec.vocab_size * _FP32_BYTES if lm_head else 0
    if blocks == 0:
        return logits
    query = spec.heads * spec.head_dim
    new_kv = 2 * spec.kv_heads * spec.head_dim
    scores = 2 * spec.heads * (context + KV_FIRST_STEP)
    attention = 2 * spec.hidden_size + 2 * query + new_kv + scores
    feed_forward = 2 * spec.hidden_size + spec.ffn_size * (3 if spec.gated_mlp else 2)
    per_token = max(attention, feed_forward) + blocks * new_kv
    return context * per_token * bytes_per_value + logits


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
    per_value = value_bytes(precision, kind)
    lm_head = lm_head_precision is not None
    return StageMemory(
        weights_bytes=blocks * held_block_bytes(spec, precision, kind),
        lm_head_bytes=held_lm_head_bytes(spec, lm_head_precision, kind) if lm_head_precision else 0,
        kv_cache_bytes=kv_cache_bytes(spec, blocks, context, slots, per_value),
        workspace_bytes=workspace_bytes(spec, blocks, context, lm_head, slots, per_value),
        runtime_bytes=CPU_WORKER_BYTES if kind == "cpu" else CUDA_CONTEXT_BYTES,
    )
