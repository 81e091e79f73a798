"""Split fit: speed constants of a GPU and a CPU from a few measured splits of one model.

A decode step takes T(n) = gpu_bytes(n) / gpu_rate + cpu_bytes(n) / cpu_rate + hops(n) x hop, as
`scheduler.cost` says, which is linear in the two inverse rates and the hop. Two splits give the
rates, with the hop as estimated; a third one beside a split without GPU gives the hop as well.
lm_head is on the CPU and read at the CPU's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise

from scheduler.cost import (
    DeviceSpeed,
    HopSpeed,
    Speeds,
    StageParts,
    hidden_bytes,
    hop_count,
    read_block_bytes,
    read_lm_head_bytes,
)
from scheduler.errors import UserInputError
from scheduler.estimates import HOP, estimated_speed
from scheduler.hardware import Cpu, Gpu
from scheduler.host_profile import DeviceConstants, Evidence, HopConstants, HostProfile
from scheduler.memory import DeviceKind, value_bytes
from scheduler.model import (
    ModelSpec,
    block_kv_bytes_per_token,
    block_parameters,
    lm_head_parameters,
)
from scheduler.plan import Precision
from scheduler.slots import kv_capacity
from scheduler.split_rows import SplitRow

_MOST_BITS = 64.0


@dataclass(frozen=True)
class SplitQuestion:
    """What the rows were measured with; `context` in tokens of KV cache.

    `weight_bits` is the mean size of a weight on both sides, scales included, for engines whose
    formats MNN does not have (4.85 for llama.cpp's Q4_K_M); None: as MNN holds the two precisions.
    """

    model: ModelSpec
    gpu_precision: Precision = "fp16"
    cpu_precision: Precision = "fp32"
    context: int = 64
    weight_bits: float | None = None


@dataclass(frozen=True)
class SplitPoint:
    """A row beside what the fitted constants say of it; tokens per second."""

    row: SplitRow
    predicted: float

    @property
    def residual(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted / self.row.tokens_per_second - 1


@dataclass(frozen=True)
class VramLine:
    """VRAM as a line in the number of blocks, in MiB, and the largest distance from it."""

    base_mib: float
    block_mib: float
    largest_residual_mib: float


@dataclass(frozen=True)
class SplitFit:
    """Fitted constants, seconds per block as measured, residuals and remarks in sentences."""

    speeds: Speeds
    gpu_block_seconds: float
    cpu_block_seconds: float
    lm_head_seconds: float
    hop_fitted: bool
    points: tuple[SplitPoint, ...]
    vram: VramLine | None
    notes: tuple[str, ...]


def fit_splits(rows: Sequence[SplitRow], question: SplitQuestion, source: str) -> SplitFit:
    """Fit by least squares of relative errors; `source` names the rows in a few words.

    Raises UserInputError for rows with more blocks than the model has, and for rows that would need
    a negative time per block.
    """
    spec = question.model
    _check(rows, question)
    hop_fitted = len(rows) > 2 and rows[0].gpu_blocks == 0
    lines = [_line(question, row.gpu_blocks) for row in rows]
    copying = hidden_bytes(spec, 1) / HOP.bytes_per_second  # of each hop; too short to be fitted
    seconds = [
        1 / row.tokens_per_second - line[2] * copying for row, line in zip(rows, lines, strict=True)
    ]
    solution = _solve(lines, seconds) if hop_fitted else None
    if solution is None or solution[2] < 0:
        hop_fitted = False
        rest = [
            total - line[2] * HOP.latency_seconds
            for total, line in zip(seconds, lines, strict=True)
        ]
        solution = [*_solve([line[:2] for line in lines], rest), HOP.latency_seconds]
    gpu_inverse, cpu_inverse, latency = solution
    if gpu_inverse <= 0 or cpu_inverse <= 0:
        side = "GPU" if gpu_inverse <= 0 else "CPU"
        raise UserInputError(
            f"{source} contradict each other: with {spec.name} they leave no time for a block on"
            f" the {side}; check the numbers and --model."
        )
    speeds = _speeds(1 / gpu_inverse, 1 / cpu_inverse, latency, question, source)
    points = tuple(
        SplitPoint(row, 1 / (_predicted(line, solution) + line[2] * copying))
        for row, line in zip(rows, lines, strict=True)
    )
    return SplitFit(
        speeds=speeds,
        gpu_block_seconds=gpu_inverse * _side_bytes(question, "cuda"),
        cpu_block_seconds=cpu_inverse * _side_bytes(question, "cpu"),
        lm_head_seconds=cpu_inverse * _head_bytes(question),
        hop_fitted=hop_fitted,
        points=points,
        vram=_vram_line(rows),
        notes=tuple(_falls(rows)),
    )


def _check(rows: Sequence[SplitRow], question: SplitQuestion) -> None:
    spec = question.model
    if rows[-1].gpu_blocks > spec.blocks:
        raise UserInputError(
            f"A row has {rows[-1].gpu_blocks} gpu_blocks and {spec.name} has {spec.blocks} blocks;"
            " name the measured model with --model."
        )
    bits = question.weight_bits
    if bits is not None and not 1 <= bits <= _MOST_BITS:
        raise UserInputError(f"--weight-bits is {bits:g}; expected 1 to {_MOST_BITS:g}.")
    if not 1 <= question.context <= spec.max_context:
        raise UserInputError(
            f"--context is {question.context}; {spec.name} takes 1 to {spec.max_context} tokens."
        )


def _line(question: SplitQuestion, gpu_blocks: int) -> list[float]:
    """Coefficients of the inverse GPU rate, the inverse CPU rate and the hop in one step's time."""
    spec = question.model
    on_cpu = spec.blocks - gpu_blocks
    gpu_bytes = gpu_blocks * _side_bytes(question, "cuda")
    cpu_bytes = on_cpu * _side_bytes(question, "cpu") + _head_bytes(question)
    return [float(gpu_bytes), float(cpu_bytes), float(hop_count(_stages(question, gpu_blocks)))]


def _side_bytes(question: SplitQuestion, kind: DeviceKind) -> float:
    """Bytes that one block reads in a step: weights, and its KV cache at capacity."""
    spec = question.model
    precision = question.cpu_precision if kind == "cpu" else question.gpu_precision
    cache = kv_capacity(question.context) * block_kv_bytes_per_token(
        spec, value_bytes(precision, kind)
    )
    if question.weight_bits is not None:
        return block_parameters(spec) * question.weight_bits / 8 + cache
    return read_block_bytes(spec, precision, kind) + cache


def _head_bytes(question: SplitQuestion) -> float:
    if question.weight_bits is not None:
        return lm_head_parameters(question.model) * question.weight_bits / 8
    return read_lm_head_bytes(question.model, question.cpu_precision, "cpu")


def _stages(question: SplitQuestion, gpu_blocks: int) -> list[StageParts]:
    blocks = question.model.blocks
    cpu = StageParts(
        "cpu", question.cpu_precision, range(gpu_blocks, blocks), question.cpu_precision
    )
    if not gpu_blocks:
        return [cpu]
    return [StageParts("gpu0", question.gpu_precision, range(gpu_blocks)), cpu]


def _predicted(line: Sequence[float], solution: Sequence[float]) -> float:
    return sum(part * value for part, value in zip(line, solution, strict=True))


def _solve(lines: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Least squares of relative errors, by the normal equations of scaled columns."""
    count = len(lines[0])
    scale = [max(abs(line[one]) for line in lines) or 1.0 for one in range(count)]
    weighted = [
        [part / size / total for part, size in zip(line, scale, strict=True)]
        for line, total in zip(lines, seconds, strict=True)
    ]
    matrix = [
        [sum(row[i] * row[j] for row in weighted) for j in range(count)]
        + [sum(row[i] for row in weighted)]
        for i in range(count)
    ]
    for pivot in range(count):  # Gauss-Jordan with the largest pivot
        best = max(range(pivot, count), key=lambda one: abs(matrix[one][pivot]))
        matrix[pivot], matrix[best] = matrix[best], matrix[pivot]
        head = matrix[pivot][pivot]
        matrix[pivot] = [value / head for value in matrix[pivot]]
        for other in range(count):
            if other != pivot:
                factor = matrix[other][pivot]
                matrix[other] = [
                    value - factor * lead
                    for value, lead in zip(matrix[other], matrix[pivot], strict=True)
                ]
    return [matrix[one][count] / scale[one] for one in range(count)]


def _speeds(
    gpu_rate: float, cpu_rate: float, latency: float, question: SplitQuestion, source: str
) -> Speeds:
    def speed(rate: float, precision: str, guess: DeviceSpeed) -> DeviceSpeed:
        stored = precision if question.weight_bits is None else f"{question.weight_bits:g} bits"
        return DeviceSpeed(
            bandwidth_bytes_per_second=rate,
            flops_per_second=guess.flops_per_second,
            fp32_flops_per_second=guess.fp32_flops_per_second,
            block_overhead_seconds=0.0,
            provenance="calibrated",
            source=f"{source} of {question.model.name} ({stored}); other precisions by their"
            " bytes, prefill estimated",
        )

    gpu = estimated_speed(Gpu("gpu0", "a GPU", None, None), "mnn:cuda")
    cpu = estimated_speed(Cpu("a CPU", 8, 8, 0, 0), "mnn:cpu")
    return Speeds(
        {
            "gpu0": speed(gpu_rate, question.gpu_precision, gpu),
            "cpu": speed(cpu_rate, question.cpu_precision, cpu),
        },
        HopSpeed(latency, HOP.bytes_per_second),
    )


def _vram_line(rows: Sequence[SplitRow]) -> VramLine | None:
    known = [(row.gpu_blocks, row.vram_mib) for row in rows if row.vram_mib is not None]
    if len(known) < 2:
        return None
    mean_n = sum(n for n, _ in known) / len(known)
    mean_mib = sum(mib for _, mib in known) / len(known)
    slope = sum((n - mean_n) * (mib - mean_mib) for n, mib in known)
    slope /= sum((n - mean_n) ** 2 for n, _ in known)
    base = mean_mib - slope * mean_n
    return VramLine(base, slope, max(abs(base + slope * n - mib) for n, mib in known))


def _falls(rows: Sequence[SplitRow]) -> list[str]:
    return [
        f"Speed falls from {one.tokens_per_second:g} to {other.tokens_per_second:g} tok/s between"
        f" {one.gpu_blocks} and {other.gpu_blocks} GPU blocks; the fit cannot follow that."
        for one, other in pairwise(rows)
        if other.tokens_per_second < one.tokens_per_second
    ]


def profile_of_splits(fit: SplitFit, name: str) -> HostProfile:
    """Put the constants under a name; no machine takes them unasked."""
    facts: dict[str, str | float | int | None] = {
        "gpu_block_seconds": fit.gpu_block_seconds,
        "cpu_block_seconds": fit.cpu_block_seconds,
        "lm_head_seconds": fit.lm_head_seconds,
    }
    if fit.vram is not None:
        facts |= {"vram_base_mib": fit.vram.base_mib, "vram_block_mib": fit.vram.block_mib}
    return HostProfile(
        name=name,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        devices={
            device: DeviceConstants.of(speed, None) for device, speed in fit.speeds.devices.items()
        },
        hop=HopConstants(
            latency_seconds=fit.speeds.hop.latency_seconds,
            bytes_per_second=fit.speeds.hop.bytes_per_second,
        ),
        evidence=[
            Evidence(
                what=f"one token, {point.row.gpu_blocks} GPU blocks",
                measured_seconds=1 / point.row.tokens_per_second,
                predicted_seconds=1 / point.predicted,
            )
            for point in fit.points
        ],
        facts=facts,
    )
