"""What an export needs of the machine: disk that must be free, and conversions at once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from runtime.export.request import Encoding
from scheduler.errors import UserInputError
from scheduler.model import (
    ModelSpec,
    block_bytes,
    block_matrices,
    embedding_parameters,
    lm_head_bytes,
    lm_head_matrix,
)
from scheduler.units import format_size

_FP32_BYTES = 4
_GRAPH_BYTES = 64 << 10
_PROCESS_BYTES = 64 << 20  # an interpreter with the converter loaded
_DISK_SPARE = 1.02


def weight_bytes(spec: ModelSpec, part: str, encoding: Encoding) -> int:
    """Bytes of one part's weights, without the norms that its graph holds twice."""
    size = lm_head_bytes if part == "lm_head" else block_bytes
    block = encoding.weight_block
    if block is not None and any(matrix.inner % block for matrix in block_matrices(spec)):
        block = None  # ONNX Runtime pads; a scale per row is the closest that is counted
    return size(spec, encoding.precision, block)


def work_bytes(spec: ModelSpec, part: str) -> int:
    """Bytes of a part's weights as fp32: the unit in which progress is counted."""
    return lm_head_bytes(spec, "fp32") if part == "lm_head" else block_bytes(spec, "fp32")


def choose_jobs(spec: ModelSpec, asked: int | None, available_bytes: int, cores: int) -> int:
    """How many blocks are converted at once: as asked, or what cores and free RAM allow.

    At least 1; lm_head, which takes most, is converted alone.
    """
    if asked is not None:
        return asked
    spare = available_bytes - work_bytes(spec, "block_0")  # the parent holds one block
    return max(1, min(cores, spec.blocks, spare // converter_bytes(spec, "block_0")))


def converter_bytes(spec: ModelSpec, part: str) -> int:
    """Estimate the RAM that a conversion takes at its peak.

    The part as fp32 and two copies of its largest matrix: measured 6.4 GB for the lm_head of
    ChatGLM-6B (2.1 GB, one matrix) and 1.1 GB for a block (0.8 GB, matrices up to 0.27 GB).
    """
    matrices = (lm_head_matrix(spec),) if part == "lm_head" else block_matrices(spec)
    largest = max(matrix.rows * matrix.inner for matrix in matrices)
    return _PROCESS_BYTES + work_bytes(spec, part) + 2 * _FP32_BYTES * largest


def require_disk(
    folder: Path,
    spec: ModelSpec,
    tasks: Sequence[tuple[str, Encoding]],
    jobs: int,
    embedding_value_bytes: int = 2,
) -> None:
    """Refuse to start what the disk cannot hold; ``tasks`` are the conversions still to do.

    Raises UserInputError with the bytes needed and free.
    """
    outputs = sum(weight_bytes(spec, part, encoding) + _GRAPH_BYTES for part, encoding in tasks)
    parts = sorted({part for part, _ in tasks}, key=lambda part: -work_bytes(spec, part))
    temporary = sum(work_bytes(spec, part) for part in parts[:jobs])
    embedding = embedding_parameters(spec) * embedding_value_bytes
    needed = int((outputs + temporary + embedding) * _DISK_SPARE)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserInputError(
            f"{folder} has {format_size(free)} free and this export needs {format_size(needed)}"
            f" (of it {format_size(temporary)} for a while); choose another --out or fewer"
            " precisions."
        )
