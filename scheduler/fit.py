"""The `fit` policy: the placement that the cost model finds fastest, within every memory budget.

Blocks and lm_head may live on any device, each device holding at most one run of blocks. Bytes are
those of `scheduler.memory`, all items of them; RAM binds as strictly as VRAM.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from scheduler.cost import (
    DeviceSpeed,
    Speeds,
    StageParts,
    block_decode_seconds,
    device_kind,
    hidden_bytes,
    lm_head_seconds,
)
from scheduler.errors import PlanError
from scheduler.fit_search import Assignment, Objective, Seat, search
from scheduler.memory import (
    ASSUMED_THREADS,
    DRIVER_BYTES,
    DeviceKind,
    gpu_host_bytes,
    hop_bytes,
    stage_memory,
)
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from scheduler.slots import decode_groups
from scheduler.units import format_size


@dataclass(frozen=True)
class Room:
    """A device that `fit` may use: the bytes it may fill (None: no limit) and its weights' form.

    `shares_ram`: a GPU whose memory is the RAM, so that what it holds is counted there too.
    `backend` is what runs the device; empty: MNN.
    """

    device: str
    budget_bytes: int | None
    precision: Precision
    shares_ram: bool = False
    backend: str = ""


@dataclass(frozen=True)
class FitQuestion:
    """What to place where: rooms are the GPUs in order, and the CPU last.

    The CPU's budget is the RAM of the host, for all processes. `context` in tokens for each of
    `slots`; `threads` are those of the CPU's stage.
    """

    spec: ModelSpec
    rooms: tuple[Room, ...]
    context: int
    slots: int
    speeds: Speeds
    objective: Objective = "latency"
    threads: int = ASSUMED_THREADS


@dataclass(frozen=True)
class Fitting:
    """The answer: stages in execution order, and predicted seconds of one step and its slowest."""

    stages: tuple[StageParts, ...]
    step_seconds: float
    slowest_stage_seconds: float


def fit(question: FitQuestion) -> Fitting:
    """Place a model as fast as the budgets allow.

    Raises PlanError with the bytes needed and available where no placement fits.
    """
    fitting = try_fit(question)
    if fitting is None:
        raise PlanError(does_not_fit(question, "Choose a smaller precision or context."))
    return fitting


def try_fit(question: FitQuestion) -> Fitting | None:
    """The same, with None where nothing fits: for sweeps."""
    spec, slots = question.spec, question.slots
    seats = [seat_of(question, room) for room in question.rooms]
    per_stage_bytes = hop_bytes(spec, 1, question.context, slots) - hop_bytes(
        spec, 0, question.context, slots
    )
    answer = search(
        seats,
        spec.blocks,
        question.speeds.hop.seconds(hidden_bytes(spec, slots), decode_groups(slots)),
        _ram_for_stages(question),
        per_stage_bytes,
        question.objective,
    )
    if answer is None:
        return None
    return Fitting(_stages(question, seats, answer), answer.total_seconds, answer.slowest_seconds)


def _ram_for_stages(question: FitQuestion) -> int | None:
    available = question.rooms[-1].budget_bytes
    if available is None:
        return None
    shared = hop_bytes(question.spec, 0, question.context, question.slots)
    return available - DRIVER_BYTES - shared


def seat_of(question: FitQuestion, room: Room) -> Seat:
    """A room as the search sees it: seconds, most blocks, and the RAM of each count."""
    spec, context, slots = question.spec, question.context, question.slots
    kind = device_kind(room.device, room.backend)
    speed = question.speeds.of(room.device, room.backend)
    tables = _device_bytes(spec, kind, room.precision, context, slots, question.threads)
    host = tables if room.device == "cpu" else _host_bytes(spec, room.precision, context, slots)
    if room.shares_ram:
        host = tuple(
            tuple(a + b for a, b in zip(own, beside, strict=True))
            for own, beside in zip(tables, host, strict=True)
        )
    limit = room.budget_bytes
    most = (spec.blocks, spec.blocks)
    if limit is not None:
        plain = bisect_right(tables[0], limit) - 1
        with_head = bisect_right(tables[1], limit) - 1
        most = (plain, with_head)
    block, head = _seconds(spec, speed, kind, room.precision, context, slots)
    return Seat(block, head, most, (host[0], host[1]))


def _seconds(
    spec: ModelSpec,
    speed: DeviceSpeed,
    kind: DeviceKind,
    precision: Precision,
    context: int,
    slots: int,
) -> tuple[float, float]:
    """Seconds of one block and of lm_head, for one step of all slots."""
    return (
        block_decode_seconds(spec, speed, kind, precision, context, slots),
        lm_head_seconds(spec, speed, kind, precision, slots),
    )


@lru_cache(maxsize=1024)
def _device_bytes(
    spec: ModelSpec,
    kind: DeviceKind,
    precision: Precision,
    context: int,
    slots: int,
    threads: int = ASSUMED_THREADS,
) -> tuple[tuple[int, ...], ...]:
    """Bytes on a device by number of blocks: without and with lm_head. No parts, no bytes."""
    return tuple(
        tuple(
            stage_memory(spec, kind, blocks, precision, head, context, slots, threads).total_bytes
            if blocks or head
            else 0
            for blocks in range(spec.blocks + 1)
        )
        for head in (None, precision)
    )


@lru_cache(maxsize=1024)
def _host_bytes(
    spec: ModelSpec, precision: Precision, context: int, slots: int
) -> tuple[tuple[int, ...], ...]:
    """RAM beside a GPU by number of blocks: without and with lm_head."""
    return tuple(
        tuple(
            gpu_host_bytes(spec, blocks, precision, head, context, slots) if blocks or head else 0
            for blocks in range(spec.blocks + 1)
        )
        for head in (None, precision)
    )


def _stages(
    question: FitQuestion, seats: Sequence[Seat], answer: Assignment
) -> tuple[StageParts, ...]:
    """Low blocks on the fastest device, but lm_head's device last: that saves a hop."""
    used = [seat for seat in range(len(seats)) if answer.counts[seat]]
    used.sort(key=lambda seat: (seat == answer.lm_head, seats[seat].block_seconds, seat))
    if answer.lm_head not in used:
        used.append(answer.lm_head)
    stages = []
    first = 0
    for seat in used:
        room = question.rooms[seat]
        count = answer.counts[seat]
        head = room.precision if seat == answer.lm_head else None
        numbers = range(first, first + count)
        stages.append(StageParts(room.device, room.precision, numbers, head, room.backend))
        first += count
    return tuple(stages)


def does_not_fit(question: FitQuestion, way_out: str) -> str:
    """Say what is needed and available on every device, and the way out."""
    spec, context, slots = question.spec, question.context, question.slots
    shared = any(room.shares_ram for room in question.rooms)
    told = _shared_shortage(question) if shared else _shortages(question)
    return (
        f"{spec.name} does not fit with {context} tokens and {slots} slot{'s' * (slots > 1)}:"
        f" {told}: it would swap. {way_out}"
    )


def _shortages(question: FitQuestion) -> str:
    """Each GPU filled in turn, and what the RAM would then have to hold."""
    spec, context, slots = question.spec, question.context, question.slots
    remaining = spec.blocks
    told = []
    beside_bytes = 0
    stages = 1
    for room in question.rooms[:-1]:
        own = _device_bytes(spec, "cuda", room.precision, context, slots)[0]
        budget = room.budget_bytes or 0
        count = min(remaining, bisect_right(own, budget) - 1)
        remaining -= count
        stages += count > 0
        beside_bytes += _host_bytes(spec, room.precision, context, slots)[0][count]
        told.append(
            f"{room.device} may fill {format_size(budget)} and takes {count} of {spec.blocks}"
            f" blocks ({format_size(own[min(count + 1, spec.blocks)])} for one more)"
        )
    cpu = question.rooms[-1]
    kind = device_kind("cpu", cpu.backend)
    cpu_bytes = _device_bytes(spec, kind, cpu.precision, context, slots, question.threads)
    needed = cpu_bytes[1][remaining]
    needed += beside_bytes + DRIVER_BYTES + hop_bytes(spec, stages, context, slots)
    told.append(
        f"with {remaining} blocks and lm_head at {cpu.precision}, RAM needs {format_size(needed)}"
        f" for all processes, and {format_size(cpu.budget_bytes or 0)} are available"
    )
    return "; ".join(told)


def _shared_shortage(question: FitQuestion) -> str:
    """What the whole model takes on its smaller side, against the memory that both share."""
    spec, context, slots = question.spec, question.context, question.slots
    cpu = question.rooms[-1]
    kind = device_kind("cpu", cpu.backend)
    needed = _device_bytes(spec, kind, cpu.precision, context, slots, question.threads)[1][-1]
    for room in question.rooms[:-1]:
        on_gpu = _device_bytes(spec, "cuda", room.precision, context, slots)[1][-1]
        needed = min(needed, on_gpu + _host_bytes(spec, room.precision, context, slots)[1][-1])
    needed += DRIVER_BYTES + hop_bytes(spec, 1, context, slots)
    return (
        f"GPU and CPU share {format_size(cpu.budget_bytes or 0)}, and all of it on one of them"
        f" needs {format_size(needed)}"
    )
