"""`fit` against a search through every placement, and what must hold for any machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler.cost import (
    DeviceSpeed,
    HopSpeed,
    Speeds,
    StageParts,
    WeightSpeed,
    decode_seconds,
    device_kind,
)
from scheduler.errors import PlanError
from scheduler.fit import FitQuestion, Room, fit, try_fit
from scheduler.fit_search import EXACT_DEVICES, Seat, search
from scheduler.memory import DRIVER_BYTES, gpu_host_bytes, hop_bytes, stage_memory
from scheduler.profiles import load_model
from scheduler.units import GIB, MIB
from tests.scheduler.clusters import small_model

CHATGLM = load_model("chatglm-6b")
SMALL = small_model(5)
precisions = st.sampled_from(["fp32", "fp16", "int8", "int4"])


def device_speeds() -> st.SearchStrategy[DeviceSpeed]:
    rates = st.sampled_from([1e9, 5e9, 5.1e9, 4e10, 3e11])  # few values, so that ties happen
    return st.builds(
        DeviceSpeed,
        bandwidth_bytes_per_second=rates,
        flops_per_second=st.sampled_from([1e11, 1e13]),
        block_overhead_seconds=st.sampled_from([0.0, 1e-4, 3e-3]),
        provenance=st.just("estimated"),
        source=st.just("invented"),
        weights=st.just({}) | st.just({"int4": WeightSpeed(1e9, 0.3)}),
        kv_bytes_per_second=st.none() | rates,
        rows_per_pass=st.none() | st.just(4),
    )


@st.composite
def questions(draw: st.DrawFn, most_gpus: int = 2, most_blocks: int = 5) -> FitQuestion:
    spec = replace(SMALL, blocks=draw(st.integers(1, most_blocks)))
    gpus = draw(st.integers(0, most_gpus))
    ram = draw(st.none() | st.integers(0, 2200))
    cpu_precision = draw(precisions)
    gpu_precision = draw(precisions)
    rooms = [
        Room(
            f"gpu{number}",
            draw(st.integers(400, 1600)) * MIB,
            gpu_precision,
            shares_ram=draw(st.booleans()) and draw(st.booleans()),
        )
        for number in range(gpus)
    ]
    rooms.append(Room("cpu", None if ram is None else ram * MIB, cpu_precision))
    speeds = Speeds(
        {room.device: draw(device_speeds()) for room in rooms},
        HopSpeed(draw(st.sampled_from([0.0, 2e-4, 0.1])), 5e9),
    )
    return FitQuestion(
        spec,
        tuple(rooms),
        draw(st.sampled_from([64, 100, 1024])),
        draw(st.sampled_from([1, 3, 8])),
        speeds,
        draw(st.sampled_from(["latency", "throughput"])),
    )


def every_placement(question: FitQuestion) -> Iterator[tuple[StageParts, ...]]:
    """All counts, all orders of the devices that run blocks, all homes of lm_head."""
    rooms, blocks = question.rooms, question.spec.blocks
    for counts in product(range(blocks + 1), repeat=len(rooms)):
        if sum(counts) != blocks:
            continue
        running = [number for number, count in enumerate(counts) if count]
        for order in permutations(running):
            for head in range(len(rooms)):
                stages = []
                first = 0
                for number in [*order, *([] if head in order else [head])]:
                    room = rooms[number]
                    stages.append(
                        StageParts(
                            room.device,
                            room.precision,
                            range(first, first + counts[number]),
                            room.precision if number == head else None,
                        )
                    )
                    first += counts[number]
                yield tuple(stages)


def holds(question: FitQuestion, stages: tuple[StageParts, ...]) -> bool:
    """Whether every budget holds, from the planner's own items and nothing of the search."""
    spec, context, slots = question.spec, question.context, question.slots
    rooms = {room.device: room for room in question.rooms}
    ram = DRIVER_BYTES + hop_bytes(spec, len(stages), context, slots)
    for stage in stages:
        room = rooms[stage.device]
        parts = (len(stage.blocks), stage.precision, stage.lm_head_precision, context, slots)
        needed = stage_memory(spec, device_kind(stage.device), *parts).total_bytes
        if stage.device == "cpu":
            ram += needed
            continue
        ram += gpu_host_bytes(spec, *parts) + (needed if room.shares_ram else 0)
        if room.budget_bytes is not None and needed > room.budget_bytes:
            return False
    available = rooms["cpu"].budget_bytes
    return available is None or ram <= available


def value(question: FitQuestion, stages: tuple[StageParts, ...]) -> float:
    cost = decode_seconds(stages, question.spec, question.speeds, question.context, question.slots)
    if question.objective == "latency":
        return cost.total_seconds
    return cost.slowest_stage_seconds


@settings(max_examples=300, deadline=None)
@given(questions())
def test_nothing_is_better(question: FitQuestion) -> None:
    fitting = try_fit(question)
    possible = [stages for stages in every_placement(question) if holds(question, stages)]
    if fitting is None:
        assert not possible
        return
    assert holds(question, fitting.stages)
    best = min(value(question, stages) for stages in possible)
    assert value(question, fitting.stages) == pytest.approx(best, rel=1e-12)
    cost = decode_seconds(
        fitting.stages, question.spec, question.speeds, question.context, question.slots
    )
    assert fitting.step_seconds == pytest.approx(cost.total_seconds)
    assert fitting.slowest_stage_seconds == pytest.approx(cost.slowest_stage_seconds)


@settings(max_examples=40, deadline=None)
@given(questions(most_gpus=3, most_blocks=3))
def test_nothing_is_better_on_four_devices(question: FitQuestion) -> None:
    test_nothing_is_better.hypothesis.inner_test(question)  # type: ignore[attr-defined]


@st.composite
def seats(draw: st.DrawFn, number: int, blocks: int) -> list[Seat]:
    """Devices whose RAM tables grow unevenly, so that filling the fastest first may not fit."""
    made = []
    for _ in range(number):
        grown = [0]
        for _ in range(blocks):
            grown.append(grown[-1] + draw(st.integers(0, 9)))
        head = draw(st.integers(0, 9))
        plain = draw(st.integers(0, blocks))
        made.append(
            Seat(
                draw(st.integers(1, 6)),
                draw(st.integers(0, 6)),
                (plain, draw(st.integers(-1, plain))),
                (grown, [amount + head for amount in grown]),
            )
        )
    return made


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_the_search_is_exact_where_ram_binds(data: st.DataObject) -> None:
    number, blocks = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    chosen = data.draw(seats(number, blocks))
    ram = data.draw(st.none() | st.integers(0, 60))
    hop = data.draw(st.sampled_from([0.0, 1.0]))
    objective = data.draw(st.sampled_from(["latency", "throughput"]))
    answer = search(chosen, blocks, hop, ram, 2, objective)
    best = None
    for counts in product(*(range(seat.most_blocks[0] + 1) for seat in chosen)):
        if sum(counts) != blocks:
            continue
        for head, seat in enumerate(chosen):
            if counts[head] > seat.most_blocks[1]:
                continue
            used = [n for n in range(number) if counts[n] or n == head]
            taken = sum(chosen[n].ram_bytes[n == head][counts[n]] + 2 for n in used)
            if ram is not None and taken > ram:
                continue
            times = [
                counts[n] * chosen[n].block_seconds + (n == head) * chosen[n].lm_head_seconds
                for n in used
            ]
            seconds = max(times) if objective == "throughput" else sum(times) + len(used) * hop
            if best is None or seconds < best:
                best = seconds
    if best is None:
        assert answer is None
    else:
        assert answer is not None
        found = answer.total_seconds if objective == "latency" else answer.slowest_seconds
        assert found == pytest.approx(best)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_beyond_nine_devices_the_gap_is_small(data: st.DataObject) -> None:
    """Idle devices push a small case into the heuristic; what can be placed, it places."""
    blocks = data.draw(st.integers(4, 12))
    chosen = data.draw(seats(5, blocks))
    exact = search(chosen, blocks, 0.5, None, 0, "latency")
    idle = Seat(1000.0, 1000.0, (0, -1), ([0] * (blocks + 1), [0] * (blocks + 1)))
    guessed = search([*chosen, *[idle] * EXACT_DEVICES], blocks, 0.5, None, 0, "latency")
    assert (exact is None) == (guessed is None)
    if exact is not None and guessed is not None:
        assert guessed.total_seconds <= 1.1 * exact.total_seconds


@settings(deadline=None)
@given(questions(), st.integers(0, 2000), st.integers(0, 1))
def test_more_memory_is_never_slower(question: FitQuestion, more_mib: int, which: int) -> None:
    room = question.rooms[min(which, len(question.rooms) - 1)]
    assume(room.budget_bytes is not None)
    larger = replace(room, budget_bytes=(room.budget_bytes or 0) + more_mib * MIB)
    rooms = tuple(larger if other is room else other for other in question.rooms)
    few, many = try_fit(question), try_fit(replace(question, rooms=rooms))
    if few is None:
        return
    assert many is not None
    if question.objective == "latency":
        assert many.step_seconds <= few.step_seconds * (1 + 1e-12)
    else:
        assert many.slowest_stage_seconds <= few.slowest_stage_seconds * (1 + 1e-12)


def chatglm(vram_gib: float, ram_gib: float, **changes: object) -> FitQuestion:
    gpu = DeviceSpeed(3.7e11, 1.6e13, 2e-3, "estimated", "a GPU")
    cpu = DeviceSpeed(2.9e10, 5e11, 1e-4, "estimated", "a CPU")
    question = FitQuestion(
        CHATGLM,
        (Room("gpu0", int(vram_gib * GIB), "fp16"), Room("cpu", int(ram_gib * GIB), "fp32")),
        context=2048,
        slots=1,
        speeds=Speeds({"gpu0": gpu, "cpu": cpu}, HopSpeed(2e-4, 5e9)),
    )
    return replace(question, **changes)  # type: ignore[arg-type]


def test_a_large_gpu_holds_everything() -> None:
    (stage,) = fit(chatglm(24, 32)).stages
    assert (stage.device, stage.blocks, stage.lm_head_precision) == ("gpu0", range(28), "fp16")


def test_lm_head_moves_to_the_gpu_where_it_pays() -> None:
    """lm_head at fp32 in RAM takes as long as 2.7 blocks there, and less VRAM than 3 at fp16."""
    fitting = fit(chatglm(11, 32))
    last = fitting.stages[-1]
    assert (last.device, last.lm_head_precision) == ("gpu0", "fp16")


def test_equal_devices_leave_low_blocks_to_the_first() -> None:
    question = chatglm(24, 32)
    gpu, cpu = question.rooms
    twins = tuple(replace(gpu, device=f"gpu{n}", budget_bytes=10 * GIB) for n in range(2))
    devices = {f"gpu{n}": question.speeds.devices["gpu0"] for n in range(2)}
    hop = HopSpeed(0.0, 1e30)  # nothing to save by the order
    speeds = Speeds({**devices, "cpu": question.speeds.devices["cpu"]}, hop)
    stages = fit(replace(question, rooms=(*twins, cpu), speeds=speeds)).stages
    assert {stage.device for stage in stages} == {"gpu0", "gpu1"}


def test_what_does_not_fit_is_refused_with_numbers() -> None:
    with pytest.raises(PlanError) as caught:
        fit(chatglm(6, 12))
    message = str(caught.value)
    for fact in ("gpu0 may fill 6.00 GiB", "12.00 GiB are available: it would swap", "at fp32"):
        assert fact in message
    assert "\n" not in message
