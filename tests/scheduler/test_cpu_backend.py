"""Which engine runs the CPU: the faster one where both were measured, or the one that is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scheduler.block_table import split_rows
from scheduler.cost import DeviceSpeed, HopSpeed, Speeds, WeightSpeed, decode_seconds
from scheduler.explain import explain
from scheduler.hardware import Cpu, Host
from scheduler.host_profile import DeviceConstants, HopConstants, HostProfile
from scheduler.plan import Plan, Precision
from scheduler.planner import make_plan, planning_devices
from scheduler.profiles import load_model
from scheduler.request import PlanRequest
from scheduler.units import GIB

CHATGLM = load_model("chatglm-6b")
HOST = Host(Cpu("any", 2, 2, 64 * GIB, 60 * GIB))
ALL: frozenset[Precision] = frozenset(("fp32", "fp16", "int8", "int4"))


def speed(fp32_gbps: float, int4_gbps: float, source: str) -> DeviceSpeed:
    rates: dict[Precision, WeightSpeed] = {
        "fp32": WeightSpeed(fp32_gbps * 1e9),
        "fp16": WeightSpeed(fp32_gbps * 1e9),
        "int8": WeightSpeed(int4_gbps * 1e9),
        "int4": WeightSpeed(int4_gbps * 1e9),
    }
    return DeviceSpeed(fp32_gbps * 1e9, 1e12, 1e-4, "calibrated", source, rates)


# ONNX Runtime is faster at int4, and slower at fp32.
SPEEDS = Speeds(
    {"cpu": speed(20, 10, "with mnn:cpu"), "gpu0": speed(300, 300, "a card")},
    HopSpeed(1e-4, 5e9),
    {"ort:cpu": speed(18, 25, "with ort:cpu")},
)


def plan_for(precision: Precision = "int4", **changes: object) -> Plan:
    asked = PlanRequest(
        CHATGLM, cpu_precision=precision, context=512, policy="fit", ort_precisions=ALL
    )
    return make_plan(replace(asked, **changes), HOST, SPEEDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["fit", "reserve"])
@pytest.mark.parametrize(("precision", "backend"), [("int4", "ort:cpu"), ("fp32", "mnn:cpu")])
def test_the_faster_of_two_measured_engines_is_taken(
    policy: str, precision: Precision, backend: str
) -> None:
    plan = plan_for(precision, policy=policy)
    (stage,) = plan.stages
    assert stage.backend == backend
    assert plan.speed is not None
    assert plan.speed.stages[0].source == f"with {backend}"
    others = [
        decode_seconds([stage.model_copy(update={"backend": name})], CHATGLM, SPEEDS, 512)
        for name in ("mnn:cpu", "ort:cpu")
    ]
    assert plan.speed.step_seconds == min(one.total_seconds for one in others)
    named = "--cpu-backend ort:cpu" in str(plan.command)
    assert named == (backend == "ort:cpu")
    assert any("against" in note for note in plan.notes) == named


def test_the_gpu_side_is_left_alone() -> None:
    plan = plan_for(policy="reserve", vram_bytes=(6 * GIB,), gpu_precision="fp16")
    assert [stage.backend for stage in plan.stages] == ["mnn:cuda", "ort:cpu"]


@pytest.mark.parametrize("name", ["mnn:cpu", "ort:cpu"])
def test_a_named_backend_wins(name: str) -> None:
    for precision in ("fp32", "int4"):
        plan = plan_for(precision, cpu_backend=name)
        assert plan.stages[0].backend == name
        assert plan.decision["cpu_backend_set_by"] == "hand"
        assert f"--cpu-backend {name}" in str(plan.command)


@pytest.mark.parametrize(
    ("stored", "speeds"),
    [
        (frozenset(), SPEEDS),  # no files for ONNX Runtime
        (frozenset(("int8",)), SPEEDS),  # none at this precision
        (ALL, replace(SPEEDS, backends={})),  # not measured
        (ALL, None),  # nothing measured
    ],
)
def test_otherwise_it_stays_mnn(stored: frozenset[Precision], speeds: Speeds | None) -> None:
    request = PlanRequest(
        CHATGLM, cpu_precision="int4", context=512, policy="fit", ort_precisions=stored
    )
    plan = make_plan(request, HOST, speeds)
    assert plan.stages[0].backend == "mnn:cpu"
    assert plan.decision["cpu_backend_set_by"] == "default"
    assert "--cpu-backend" not in str(plan.command)


def test_fit_compares_engines_at_every_precision() -> None:
    """At int8 only ONNX Runtime gives 3 tok/s, so that int8 need not be given up."""
    plan = make_plan(
        PlanRequest(
            CHATGLM,
            policy="fit",
            context=128,
            ort_precisions=ALL,
            open_choices=frozenset(("cpu_precision",)),
        ),
        HOST,
        SPEEDS,
    )
    assert (plan.stages[0].precision, plan.stages[0].backend) == ("int8", "ort:cpu")


def test_an_engine_that_does_not_fit_is_not_taken() -> None:
    needs = {name: plan_for(cpu_backend=name).ram.needed_bytes for name in ("mnn:cpu", "ort:cpu")}
    smaller = min(needs, key=lambda name: needs[name])
    free = (needs["mnn:cpu"] + needs["ort:cpu"]) // 2
    host = Host(Cpu("any", 2, 2, 64 * GIB, free))
    for policy in ("fit", "reserve"):
        request = PlanRequest(
            CHATGLM,
            cpu_precision="int4",
            context=512,
            policy=policy,  # type: ignore[arg-type]
            ort_precisions=ALL,
        )
        assert make_plan(request, host, SPEEDS).stages[0].backend == smaller


def test_explain_says_why() -> None:
    def told(plan: Plan, speeds: Speeds = SPEEDS) -> str:
        return next(one for one in explain(plan, CHATGLM, speeds) if "is run by" in one)

    assert "the faster one" in told(plan_for())
    assert "ort:cpu at" in told(plan_for())
    assert "ms with mnn:cpu (calibrated)" in told(plan_for())
    assert "named with --cpu-backend" in told(plan_for(cpu_backend="mnn:cpu"))
    assert "without files for ort:cpu" in told(plan_for(ort_precisions=frozenset()))
    alone = replace(SPEEDS, backends={})
    default = make_plan(PlanRequest(CHATGLM, cpu_precision="int4", context=512), HOST, alone)
    assert "has not been measured" in told(default, alone)


def test_the_table_is_of_the_chosen_engine() -> None:
    request = PlanRequest(
        CHATGLM, cpu_precision="int4", context=512, policy="fit", ort_precisions=ALL
    )
    plan = make_plan(request, HOST, SPEEDS)
    (row,) = split_rows(request, plan, planning_devices(request, HOST, SPEEDS))
    assert plan.speed is not None
    assert row.step_seconds == pytest.approx(plan.speed.step_seconds)
    assert row.ram_bytes == plan.ram.needed_bytes


def test_profiles_keep_both_and_older_ones_are_read() -> None:
    profile = HostProfile(
        name="here",
        made="2026-11-24T00:00:00+00:00",
        devices={"cpu": DeviceConstants.of(SPEEDS.devices["cpu"], "any")},
        backends={"ort:cpu": DeviceConstants.of(SPEEDS.backends["ort:cpu"], "any")},
        hop=HopConstants(latency_seconds=1e-4, bytes_per_second=5e9),
    )
    document = profile.model_dump(mode="json", by_alias=True)
    again = HostProfile.model_validate_json(json.dumps(document))
    assert again.over(SPEEDS, HOST).backends == SPEEDS.backends
    del document["backends"]
    older = HostProfile.model_validate_json(json.dumps(document))
    assert older.over(SPEEDS, HOST).backends == {}
    assert older.over(SPEEDS, HOST).devices["cpu"] == SPEEDS.devices["cpu"]
