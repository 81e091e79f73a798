"""What ONNX Runtime holds on processors (`ort:cpu`): weights, and prompts.

Each block is a session of its own, without an arena, on arrays that the stage keeps
(`runtime.backends.ort`). Loading copies nothing: files are mapped, and their pages can be dropped
at any time. Checked against the resident memory of ONNX Runtime on x86: docs/memory.md
has the figures.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.model import (
    Matrix,
    ModelSpec,
    block_bytes,
    block_kv_bytes_per_token,
    block_matrices,
    lm_head_bytes,
    lm_head_matrix,
)
from scheduler.plan import Precision
from scheduler.slots import (
    GROUP_ROWS,
    WHOLE_PROMPT_FAMILY,
    decoded_rows,
    kv_capacity,
    largest_prefill,
    smaller_capacity,
)
from scheduler.units import MIB

# Python with NumPy and ONNX Runtime, and the pages of its library that MNN's does not have.
ORT_WORKER_BYTES = 48 * MIB

_FP32_BYTES = 4
_SCALE_AND_SUM_BYTES = 8  # fp32 each, packed with the integers
_STORED_SCALE_BYTES = 4  # of the file, whose pages stay mapped
# As `runtime.export.ort_encodings` chooses for a bundle.
_WEIGHT_BLOCKS = (128, 64, 32, 16)


def ort_block_bytes(spec: ModelSpec, precision: Precision) -> int:
    """Compute the bytes of one block's weights.

    fp32 is read where the file is mapped; fp16 is widened to fp32. int8 and int4 are packed for the
    processor, with a scale and a sum per group of weights, and the file's scales and zero points
    stay mapped.
    """
    if precision in ("fp32", "fp16"):
        return block_bytes(spec, "fp32")
    bits = 8 if precision == "int8" else 4
    # What `block_bytes` counts beside weights and scales: norms and biases.
    vectors = block_bytes(spec, "fp32") - _FP32_BYTES * _weights(block_matrices(spec))
    return _packed_bytes(spec, block_matrices(spec), bits) + vectors


def ort_lm_head_bytes(spec: ModelSpec, precision: Precision) -> int:
    """Compute the bytes of final norm and vocabulary matrix, as `ort_block_bytes` does."""
    if precision in ("fp32", "fp16"):
        return lm_head_bytes(spec, "fp32")
    matrices = (lm_head_matrix(spec),)
    vectors = lm_head_bytes(spec, "fp32") - _FP32_BYTES * _weights(matrices)
    return _packed_bytes(spec, matrices, 8 if precision == "int8" else 4) + vectors


def _packed_bytes(spec: ModelSpec, matrices: Iterable[Matrix], bits: int) -> int:
    group = _weight_block(spec)
    total = 0
    for rows, inner, _ in matrices:
        groups = rows * -(-inner // group)
        total += groups * (group * bits // 8 + _SCALE_AND_SUM_BYTES + _STORED_SCALE_BYTES)
        total += -(-groups * bits // 8)  # zero points
    return total


def _weight_block(spec: ModelSpec) -> int:
    widths = {matrix.inner for matrix in block_matrices(spec)}
    fitting = (size for size in _WEIGHT_BLOCKS if all(width % size == 0 for width in widths))
    return next(fitting, 32)


def _weights(matrices: Iterable[Matrix]) -> int:
    return sum(matrix.rows * matrix.inner for matrix in matrices)


def ort_running_bytes(spec: ModelSpec, context: int, slots: int) -> int:
    """Compute what a stage needs beside weights and KV cache during a full prompt.

    The arrays that all blocks share: hidden states twice, the mask twice, new keys and values. What
    one block has alive at once; and where other rows decode between its blocks, or a prompt comes
    in parts, what a block's cache grows from.
    """
    tokens, cached = largest_prefill(spec.family, context)
    seen = tokens + kv_capacity(cached)
    per_token = block_kv_bytes_per_token(spec, _FP32_BYTES)
    shared = tokens * (2 * (spec.hidden_size + seen) * _FP32_BYTES + per_token)
    alive = max(_attention_values(spec, seen), _feed_forward_values(spec))
    growing = 0
    if slots > 1 or spec.family != WHOLE_PROMPT_FAMILY:
        rows = min(decoded_rows(slots), GROUP_ROWS)
        capacity = kv_capacity(context)
        growing = max(rows // 2 * capacity, rows * smaller_capacity(capacity)) * per_token
    return shared + tokens * alive * _FP32_BYTES + growing


def _attention_values(spec: ModelSpec, seen: int) -> int:
    """Values per token: scores over cached and new tokens, joined; hidden states."""
    return 2 * (spec.heads * seen + spec.hidden_size)


def _feed_forward_values(spec: ModelSpec) -> int:
    """Values per token: what GELU reads and writes, or gate and up; hidden states."""
    return 2 * spec.ffn_size + 5 * spec.hidden_size
