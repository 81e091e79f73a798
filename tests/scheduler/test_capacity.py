"""Verdicts agree with the planner, and inverse answers are truly the largest or least there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler.capacity import judge, stage_bytes, sweep
from scheduler.cell import Cell
from scheduler.errors import PlanError
from scheduler.estimates import estimated_speeds
from scheduler.hardware import Cpu, Gpu, Host
from scheduler.inverse import (
    MORE_VRAM_BYTES,
    cheapest_gpu,
    largest_context,
    most_slots,
    vram_for_all_blocks,
    with_more_vram,
)
from scheduler.machine import Machine, name_of
from scheduler.memory import stage_memory
from scheduler.plan import Plan
from scheduler.planner import make_plan
from scheduler.profiles import load_gpus, load_model, model_names
from scheduler.request import LARGEST_SLOTS, PlanRequest
from scheduler.units import GIB, MIB

CHATGLM = load_model("chatglm-6b")
MODELS = [load_model(name) for name in model_names()]
GPUS = load_gpus()
precisions = st.sampled_from(["fp32", "fp16", "int8", "int4"])
_BEST_FIRST = ("resident", "hybrid", "cpu_only", "would_swap", "does_not_fit")


def machine(
    *free_bytes: int | None, ram_bytes: int = 32 * GIB, ram_total_bytes: int | None = None
) -> Machine:
    gpus = tuple(
        Gpu(f"gpu{number}", f"card {number}", 80 * GIB, free, bandwidth_gbps=448 + 100 * number)
        for number, free in enumerate(free_bytes)
    )
    host = Host(Cpu("a CPU", 8, 8, ram_total_bytes or ram_bytes, ram_bytes), gpus)
    return Machine(name_of(host), host, estimated_speeds(host))


@st.composite
def questions(draw: st.DrawFn) -> PlanRequest:
    spec = draw(st.sampled_from(MODELS))
    return PlanRequest(
        model=spec,
        gpu_precision=draw(precisions),
        cpu_precision=draw(precisions),
        context=draw(st.integers(1, min(spec.max_context, 16_384))),
        slots=draw(st.integers(1, 16)),
        policy=draw(st.sampled_from(["fit", "reserve"])),
    )


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    free = draw(st.lists(st.integers(0, 1 << 36), max_size=3))
    ram = draw(st.integers(GIB, 1 << 37))
    return machine(*free, ram_bytes=ram, ram_total_bytes=ram + draw(st.integers(0, 1 << 36)))


def numbers_of(plan: Plan, gpus: int) -> tuple[list[int], list[int]]:
    """Blocks and bytes per GPU, from the plan's own stages."""
    held = {stage.device: stage for stage in plan.stages}
    names = [f"gpu{number}" for number in range(gpus)]
    blocks = [len(held[name].blocks) if name in held else 0 for name in names]
    return blocks, [held[name].memory.total_bytes if name in held else 0 for name in names]


@settings(max_examples=300)
@given(questions(), machines())
def test_a_verdict_is_that_of_the_plan(request: PlanRequest, where: Machine) -> None:
    cell = judge(request, where)
    host = where.host
    try:
        plan = make_plan(request, host, where.speeds)
    except PlanError:
        assert request.policy == "fit"
        assert not cell.fits
        assert cell.limit.kind == "short"
        assert cell.limit.needed > cell.limit.available
        return
    blocks, needed = numbers_of(plan, len(host.gpus))
    assert (list(cell.blocks_by_gpu), list(cell.vram_needed_bytes)) == (blocks, needed)
    assert (cell.ram_needed_bytes, cell.gpu_blocks) == (plan.ram.needed_bytes, plan.gpu_blocks)
    (head,) = [stage for stage in plan.stages if stage.lm_head]
    assert cell.lm_head_device == head.device
    assert cell.verdict == expected_verdict(plan, host)
    if cell.fits:
        assert plan.speed is not None
        assert cell.step_seconds == pytest.approx(plan.speed.step_seconds)
        assert cell.ttft_seconds == pytest.approx(plan.speed.time_to_first_token_seconds)
        assert cell.tokens_per_second == pytest.approx(plan.speed.decode_tokens_per_second)
        assert cell.speed_provenance == plan.speed.provenance
    else:
        assert request.policy == "reserve"
        assert cell.step_seconds is cell.tokens_per_second is cell.ttft_seconds is None


def expected_verdict(plan: Plan, host: Host) -> str:
    """The definitions of docs/reports.md, applied to a plan."""
    for stage in plan.stages:
        if stage.device != "cpu" and stage.memory.total_bytes > (stage.free_bytes or 0):
            return "does_not_fit"
    if plan.ram.needed_bytes > host.cpu.total_bytes:
        return "does_not_fit"
    if plan.ram.needed_bytes > host.cpu.available_bytes:
        return "would_swap"
    if plan.gpu_blocks == 0:
        return "cpu_only"
    return "hybrid" if plan.cpu_blocks else "resident"


@given(questions(), machines())
def test_the_limit_says_what_binds(request: PlanRequest, where: Machine) -> None:
    cell = judge(request, where)
    limit = cell.limit
    available = {f"gpu{n}": free for n, free in enumerate(where.vram_bytes)}
    assert limit.available == (available | {"ram": where.ram_bytes})[limit.where]
    assert (limit.needed > limit.available) == (limit.kind in ("short", "next_block"))
    assert (limit.kind == "short") == (not cell.fits)
    if cell.verdict == "resident":
        assert limit.kind == "headroom"
    if limit.kind == "next_block" and request.policy == "fit" and limit.where != "ram":
        place = int(limit.where.removeprefix("gpu"))
        head = request.gpu_precision if cell.lm_head_device == limit.where else None
        memory = stage_memory(
            request.model,
            "cuda",
            cell.blocks_by_gpu[place] + 1,
            request.gpu_precision,
            head,
            request.context_tokens,
            request.slots,
        )
        assert limit.needed == memory.total_bytes


@given(questions(), machines())
def test_ram_decides_between_swapping_and_not_fitting(request: PlanRequest, where: Machine) -> None:
    cell = judge(request, where)
    assume(cell.limit.where == "ram" and not cell.fits)
    total = where.ram_total_bytes
    assert (cell.verdict == "would_swap") == (cell.limit.needed <= total)
    cpu = replace(where.host.cpu, available_bytes=cell.limit.needed, total_bytes=1 << 62)
    roomy = replace(where, host=replace(where.host, cpu=cpu))
    assert judge(request, roomy).fits


@given(questions(), machines(), st.integers(0, 1 << 35))
def test_more_vram_is_never_worse_under_fit(
    request: PlanRequest, where: Machine, more: int
) -> None:
    assume(where.host.gpus)
    request = replace(request, policy="fit")
    few = judge(request, where)
    many = judge(request, where.with_vram(where.vram_bytes[0] + more))
    assert many.fits or not few.fits
    if few.step_seconds is not None and many.step_seconds is not None:
        assert many.step_seconds <= few.step_seconds * (1 + 1e-12)


@settings(max_examples=40)
@given(questions(), machines())
def test_the_largest_context_has_no_larger_that_fits(request: PlanRequest, where: Machine) -> None:
    answer = largest_context(request, where)
    largest = request.model.max_context
    assert 0 <= answer.count <= largest
    assert answer.capped == (answer.count == largest)
    if answer.count:
        at = judge(replace(request, context=answer.count), where)
        assert at == answer.cell
        assert at.fits
    if not answer.capped:
        for beyond in {answer.count + 1, min(largest, 2 * answer.count + 64), largest}:
            assert not judge(replace(request, context=beyond), where).fits


@settings(max_examples=40)
@given(questions(), machines())
def test_the_most_slots_have_no_more_that_fit(request: PlanRequest, where: Machine) -> None:
    answer = most_slots(request, where)
    assert answer.capped == (answer.count == LARGEST_SLOTS)
    if answer.count:
        assert judge(replace(request, slots=answer.count), where).fits
    if not answer.capped:
        for beyond in {answer.count + 1, 2 * answer.count + 1, LARGEST_SLOTS}:
            assert not judge(replace(request, slots=beyond), where).fits


@given(questions(), st.booleans())
def test_the_least_vram_for_all_blocks_is_the_least(request: PlanRequest, head: bool) -> None:
    request = replace(request, policy="fit")
    least = vram_for_all_blocks(request, with_lm_head=head)
    memory = stage_memory(
        request.model,
        "cuda",
        request.model.blocks,
        request.gpu_precision,
        request.gpu_precision if head else None,
        request.context_tokens,
        request.slots,
    )
    assert least == memory.total_bytes
    # A CPU so slow that every block goes to the GPU if it can.
    base = machine(least, ram_bytes=1 << 50)
    slow = replace(
        base.speeds.devices["cpu"], bandwidth_bytes_per_second=1e3, weights={}, rows_per_pass=None
    )
    where = replace(base, speeds=replace(base.speeds, devices={**base.speeds.devices, "cpu": slow}))
    if head:
        assert judge(request, where).verdict == "resident"
        assert judge(request, where).lm_head_device == "gpu0"
        tight = judge(request, where.with_vram(least - 1))
        assert not (tight.verdict == "resident" and tight.lm_head_device == "gpu0")
    else:
        assert judge(request, where.with_vram(least - 1)).verdict != "resident"


@given(questions())
def test_the_least_vram_under_the_rule_is_the_least(request: PlanRequest) -> None:
    request = replace(request, policy="reserve")
    least = vram_for_all_blocks(request)
    where = machine(least, ram_bytes=1 << 50)
    assert judge(request, where).verdict == "resident"
    assert judge(request, where.with_vram(least - 1)).verdict != "resident"


def test_eleven_gibibytes_by_the_rule() -> None:
    cell = judge(PlanRequest(CHATGLM, context=512), machine(11 * GIB))
    # By hand: (11 - 2) x 1024 / 385 = 23.9; the 24th block ends at 2048 + 24 x 385 = 11,288 MiB.
    assert (cell.verdict, cell.blocks_by_gpu) == ("hybrid", (23,))
    assert cell.limit == type(cell.limit)("next_block", "gpu0", 11_288 * MIB, 11 * GIB)


def test_a_context_beyond_the_models_does_not_fit() -> None:
    cell = judge(PlanRequest(CHATGLM, context=2049), machine(80 * GIB))
    assert cell.verdict == "does_not_fit"
    assert (cell.limit.kind, cell.limit.needed, cell.limit.available) == ("context", 2049, 2048)


def test_unknown_memory_holds_nothing() -> None:
    for policy in ("fit", "reserve"):
        cell = judge(PlanRequest(CHATGLM, policy=policy), machine(None))  # type: ignore[arg-type]
        assert (cell.verdict, cell.blocks_by_gpu) == ("cpu_only", (0,))


@pytest.mark.parametrize("target", [1.0, 5.0, 10.0])
def test_no_cheaper_listed_card_reaches_the_target(target: float) -> None:
    request = PlanRequest(CHATGLM, policy="fit")
    where = machine(11 * GIB)
    buy = cheapest_gpu(request, where, GPUS, target)
    assert buy is not None
    assert (buy.cell.tokens_per_second_per_slot or 0) >= target
    (card,) = [gpu for gpu in GPUS if gpu.name == buy.gpu]
    assert card.release_price_usd == buy.price_usd
    cheaper = [
        gpu
        for gpu in GPUS
        if gpu.vendor == "NVIDIA"
        and not gpu.unified_memory
        and (gpu.release_price_usd or 1 << 30) < buy.price_usd
    ]
    assert cheaper or buy.price_usd == min(
        gpu.release_price_usd or 1 << 30 for gpu in GPUS if gpu.vendor == "NVIDIA"
    )
    for gpu in cheaper:
        with_it = where.with_card(gpu)
        plan = make_plan(request, with_it.host, with_it.speeds)
        assert plan.speed is not None
        assert plan.speed.decode_tokens_per_second_per_slot < target


def test_no_card_reaches_the_impossible() -> None:
    assert cheapest_gpu(PlanRequest(CHATGLM), machine(), GPUS, 1e9) is None


def test_more_vram_is_judged_on_the_first_gpu() -> None:
    request = PlanRequest(CHATGLM, policy="fit")
    for more in MORE_VRAM_BYTES:
        cell = with_more_vram(request, machine(4 * GIB, 6 * GIB), more)
        assert cell == judge(request, machine(4 * GIB + more, 6 * GIB))
    assert with_more_vram(request, machine(), GIB) is None


def test_a_sweep_is_every_combination_in_order() -> None:
    models, places = MODELS[:2], [machine(4 * GIB), machine(24 * GIB)]
    pairs = [("fp16", "fp32"), ("int4", "int4")]
    cells = list(sweep(models, places, pairs, [None, 256], [1, 4], "fit"))  # type: ignore[arg-type]
    assert len(cells) == 2 * 2 * 2 * 2 * 2
    assert [cell.model for cell in cells[:16]] == [models[0].name] * 16
    first = PlanRequest(models[0], gpu_precision="fp16", cpu_precision="fp32", policy="fit")
    assert cells[0] == judge(first, places[0])
    assert cells[1] == judge(replace(first, slots=4), places[0])


@given(st.sampled_from(MODELS), precisions, st.integers(0, 80), st.integers(1, 4096))
def test_remembered_bytes_are_the_memory_models(
    spec: object, precision: object, blocks: int, context: int
) -> None:
    args = (spec, "cuda", blocks, precision, None, context, 2)
    assert stage_bytes(*args) == stage_memory(*args).total_bytes  # type: ignore[arg-type]


def test_verdicts_are_ordered_and_explained() -> None:
    from scheduler.cell import VERDICTS

    assert tuple(VERDICTS) == _BEST_FIRST
    assert isinstance(judge(PlanRequest(CHATGLM), machine()), Cell)
