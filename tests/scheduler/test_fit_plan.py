"""Plans by `fit`: every budget holds, nothing that fits is faster, and choices are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler.choose import LEVELS, USABLE_TOKENS_PER_SECOND
from scheduler.errors import PlanError, UserInputError
from scheduler.hardware import Cpu, Gpu, Host, Planned
from scheduler.plan import Plan, Precision
from scheduler.plan_file import plan_json
from scheduler.planned_host import SHARED_SHARE, Wanted, plan_host
from scheduler.planner import make_plan
from scheduler.profiles import find_gpu, load_model
from scheduler.request import PlanRequest
from scheduler.units import GIB, MIB

CHATGLM = load_model("chatglm-6b")
MODELS = [load_model(name) for name in ("chatglm-6b", "llama-3.1-8b", "smollm2-135m", "tiny-glm")]
EVERYTHING = frozenset({"gpu_precision", "cpu_precision", "context", "slots"})
precisions = st.sampled_from(["fp32", "fp16", "int8", "int4"])


def host(*free_bytes: int | None, ram_bytes: int = 32 * GIB) -> Host:
    gpus = tuple(
        Gpu(f"gpu{number}", "a GPU", 24 * GIB, free) for number, free in enumerate(free_bytes)
    )
    return Host(Cpu("a CPU", 8, 8, ram_bytes, ram_bytes), gpus)


@st.composite
def requests(draw: st.DrawFn) -> PlanRequest:
    spec = draw(st.sampled_from(MODELS))
    return PlanRequest(
        spec,
        gpu_precision=draw(precisions),
        cpu_precision=draw(precisions),
        reserve_bytes=draw(st.none() | st.integers(0, 3 * GIB)),
        max_vram_bytes=draw(st.none() | st.integers(4 * GIB, 16 * GIB)),
        context=draw(st.none() | st.integers(1, min(spec.max_context, 8192))),
        slots=draw(st.integers(1, 8)),
        policy="fit",
        open_choices=draw(st.sets(st.sampled_from(sorted(EVERYTHING)))),
    )


vrams = st.lists(st.none() | st.integers(0, 24 * GIB), max_size=3)
rams = st.integers(256 * MIB, 64 * GIB)


@settings(deadline=None)
@given(requests(), vrams, rams)
def test_no_plan_exceeds_a_budget(request: PlanRequest, vram: list[int | None], ram: int) -> None:
    try:
        plan = make_plan(request, host(*vram, ram_bytes=ram))
    except PlanError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert "it would swap" in refusal
        assert "\n" not in refusal
        return
    assert plan.ram.needed_bytes <= ram
    for stage in plan.stages:
        if stage.device == "cpu":
            continue
        free = vram[int(stage.device.removeprefix("gpu"))]
        assert free is not None
        limit = min(free, request.max_vram_bytes or free) - (request.reserve_bytes or 0)
        assert stage.memory.total_bytes <= limit
    assert Plan.model_validate_json(plan_json(plan)) == plan
    assert all("\n" not in sentence for sentence in [*plan.notes, *plan.warnings])


@settings(deadline=None)
@given(requests(), vrams, rams)
def test_no_rule_that_fits_is_faster(
    request: PlanRequest, vram: list[int | None], ram: int
) -> None:
    request = replace(request, open_choices=frozenset(), reserve_bytes=None)
    machine = host(*vram, ram_bytes=ram)
    by_rule = make_plan(replace(request, policy="reserve"), machine)
    assume(
        by_rule.ram.needed_bytes <= ram
        and all(
            stage.device == "cpu" or stage.memory.total_bytes <= (stage.free_bytes or 0)
            for stage in by_rule.stages
        )
    )
    fitted = make_plan(request, machine)
    assert fitted.speed is not None
    assert by_rule.speed is not None
    assert fitted.speed.step_seconds <= by_rule.speed.step_seconds * (1 + 1e-12)


@settings(deadline=None)
@given(requests(), st.integers(0, 24 * GIB), st.integers(0, 8 * GIB), rams)
def test_more_vram_is_never_slower(request: PlanRequest, free: int, more: int, ram: int) -> None:
    request = replace(request, open_choices=frozenset())
    try:
        few = make_plan(request, host(free, ram_bytes=ram))
    except PlanError:
        return
    many = make_plan(request, host(free + more, ram_bytes=ram))
    assert few.speed is not None
    assert many.speed is not None
    assert many.speed.step_seconds <= few.speed.step_seconds * (1 + 1e-12)


@pytest.mark.parametrize("vram_gib", [0, 4, 6, 8, 11, 16, 24])
@pytest.mark.parametrize("ram_gib", [6, 16, 64])
def test_the_most_faithful_usable_precision_is_chosen(vram_gib: int, ram_gib: int) -> None:
    machine = host(vram_gib * GIB, ram_bytes=ram_gib * GIB)
    request = PlanRequest(CHATGLM, policy="fit", open_choices=EVERYTHING, context=512)
    chosen = make_plan(replace(request, open_choices=EVERYTHING - {"context"}), machine)
    rates = {}
    for gpu, cpu in LEVELS:
        one = replace(request, open_choices=frozenset(), gpu_precision=gpu, cpu_precision=cpu)
        try:
            plan = make_plan(one, machine)
        except PlanError:
            continue
        assert plan.speed is not None
        rates[gpu, cpu] = plan.speed.decode_tokens_per_second
    usable = [pair for pair, rate in rates.items() if rate >= USABLE_TOKENS_PER_SECOND]
    assert chosen.speed is not None
    expected = rates[usable[0]] if usable else max(rates.values())
    assert chosen.speed.decode_tokens_per_second == pytest.approx(expected)
    assert any(note.startswith("Chosen: ") for note in chosen.notes)


@pytest.mark.parametrize(
    ("stored", "allowed"),
    [
        ({"fp16"}, {"fp16", "fp32"}),
        ({"int4"}, {"int4"}),
        ({"int8"}, {"int8"}),
        ({"fp16", "int4"}, {"fp16", "fp32", "int4"}),
    ],
)
def test_a_bundle_bounds_the_choice(stored: set[Precision], allowed: set[Precision]) -> None:
    request = PlanRequest(
        CHATGLM, policy="fit", open_choices=EVERYTHING, stored=frozenset(stored), context=512
    )
    for vram_gib in (0, 4, 12, 24):
        plan = make_plan(request, host(vram_gib * GIB, ram_bytes=64 * GIB))
        assert {stage.precision for stage in plan.stages} <= allowed


def test_what_more_memory_would_buy_is_true() -> None:
    """The note's promise is kept by the plan for the larger machine."""
    request = PlanRequest(CHATGLM, policy="fit", gpu_precision="int4", cpu_precision="int4")
    plan = make_plan(request, host(4 * GIB))
    (note,) = [note for note in plan.notes if "more VRAM" in note]
    more, promised = float(note.split()[1]), float(note.split(": ")[1].split()[0])
    better = make_plan(request, host(int((4 + more) * GIB)))
    assert better.speed is not None
    assert better.speed.decode_tokens_per_second == pytest.approx(promised, rel=0.01)


def test_slots_that_fit_are_offered_truthfully() -> None:
    request = PlanRequest(CHATGLM, policy="fit", open_choices=frozenset({"slots"}), context=512)
    plan = make_plan(request, host(24 * GIB))
    (note,) = [note for note in plan.notes if "--slots" in note]
    slots = int(note.split("--slots ")[1].split()[0])
    more = make_plan(replace(request, slots=slots), host(24 * GIB))
    assert more.speed is not None
    assert plan.speed is not None
    assert more.speed.decode_tokens_per_second > plan.speed.decode_tokens_per_second


def test_unknown_vram_stays_idle_and_is_said() -> None:
    plan = make_plan(PlanRequest(CHATGLM, policy="fit"), host(None))
    assert [stage.device for stage in plan.stages] == ["cpu"]
    assert any("gpu0 could not be read" in note for note in plan.notes)


def test_a_full_gpu_names_silent_spilling() -> None:
    plan = make_plan(PlanRequest(CHATGLM, policy="fit"), host(10 * GIB))
    (note,) = [note for note in plan.notes if "Windows" in note]
    assert "Shared GPU memory" in note
    assert "--max-vram" in note


def test_throughput_evens_out_the_stages() -> None:
    request = PlanRequest(CHATGLM, policy="fit")
    machine = host(12 * GIB, 12 * GIB)
    fast, even = (
        make_plan(replace(request, objective=objective), machine).speed
        for objective in ("latency", "throughput")
    )
    assert fast is not None
    assert even is not None
    assert even.slowest_stage_seconds < fast.slowest_stage_seconds
    assert fast.step_seconds <= even.step_seconds


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"policy": "fit", "gpu_blocks": 3}, "leave one of them out"),
        ({"objective": "throughput"}, "is for --policy fit"),
        ({"max_vram_bytes": GIB, "reserve_bytes": GIB}, "leaves nothing beside"),
    ],
)
def test_contradictions_are_refused(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserInputError, match=sentence):
        make_plan(replace(PlanRequest(CHATGLM), **wrong), host(8 * GIB))  # type: ignore[arg-type]


def test_shared_memory_counts_once() -> None:
    """A GPU that shares the RAM can hold no more than a CPU with that RAM could."""
    gpu = find_gpu("Apple M2 Pro 32 GB")
    machine, speeds = plan_host(Wanted(gpus=("Apple M2 Pro 32 GB",)), host())
    assert machine.gpus[0].free_bytes == machine.cpu.available_bytes
    assert machine.cpu.available_bytes == int(gpu.memory_bytes * (1 - SHARED_SHARE))
    plan = make_plan(PlanRequest(CHATGLM, policy="fit"), machine, speeds)
    held = sum(stage.memory.total_bytes + stage.host_bytes for stage in plan.stages)
    assert plan.ram.needed_bytes == held + plan.ram.driver_bytes
    assert plan.ram.needed_bytes <= machine.cpu.available_bytes


def test_an_own_card_may_share_memory() -> None:
    machine = host(10 * GIB, ram_bytes=10 * GIB)
    shared = replace(machine, planned={"gpu0": Planned("given", shares_ram=True)})
    request = PlanRequest(CHATGLM, policy="fit", gpu_precision="int4", cpu_precision="int4")
    separate, together = make_plan(request, machine), make_plan(request, shared)
    assert separate.speed is not None
    assert together.speed is not None
    assert together.speed.step_seconds > separate.speed.step_seconds
    with pytest.raises(PlanError, match=r"GPU and CPU share 3\.00 GiB"):
        make_plan(request, replace(shared, cpu=replace(machine.cpu, available_bytes=3 * GIB)))
