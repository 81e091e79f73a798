"""What `fit` places, runs: any order of devices, and lm_head wherever it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.bundle import open_bundle
from runtime.bundle_spec import spec_of_bundle
from scheduler.cost import DeviceSpeed, HopSpeed, Speeds
from scheduler.hardware import Cpu, Host
from scheduler.memory import stage_memory
from scheduler.plan import Plan
from scheduler.plan_file import write_plan
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from scheduler.units import GIB
from tests.e2e.test_commands import glm_plan
from tests.support.tiny import TINY_BUNDLE

CONTEXT = 256
QUESTION, ANSWER = "法国的首都是哪里？", "法国的首都是巴黎。"


def fit_plan(vram_bytes: int, gpu_rate: float) -> Plan:
    """A plan for a GPU of invented speed; here its stages run on the CPU."""
    speeds = Speeds(
        {
            "gpu0": DeviceSpeed(gpu_rate, 1e13, 1e-6, "estimated", "invented"),
            "cpu": DeviceSpeed(1e9, 1e10, 1e-4, "estimated", "invented"),
        },
        HopSpeed(1e-9, 1e15),
    )
    spec = spec_of_bundle(open_bundle(TINY_BUNDLE))
    request = PlanRequest(spec, (vram_bytes,), policy="fit", context=CONTEXT)
    return make_plan(request, Host(Cpu("any", 2, 2, 8 * GIB, 8 * GIB)), speeds)


@pytest.mark.parametrize(
    ("room_for", "devices", "lm_head"),
    [
        (8, ["gpu0"], "gpu0"),  # no CPU stage at all
        (4, ["cpu", "gpu0"], "gpu0"),  # the CPU first
        (None, ["cpu"], "cpu"),
    ],
)
def test_any_placement_answers(
    tmp_path: Path, room_for: int | None, devices: list[str], lm_head: str
) -> None:
    spec = spec_of_bundle(open_bundle(TINY_BUNDLE))
    vram_bytes = 0
    if room_for is not None:
        held = stage_memory(spec, "cuda", room_for, "fp16", "fp16", CONTEXT, 1)
        vram_bytes = held.total_bytes
    plan = fit_plan(vram_bytes, 1e12)
    assert [stage.device for stage in plan.stages] == devices
    assert next(stage.device for stage in plan.stages if stage.lm_head) == lm_head
    path = tmp_path / "plan.json"
    write_plan(plan, path)
    done = glm_plan("run", "--plan", str(path), "--json", QUESTION)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["text"] == ANSWER
    assert [stage["device"] for stage in answer["timing"]["stages"]] == devices


def test_fit_from_the_command_line_keeps_to_the_bundle() -> None:
    done = glm_plan("run", "--policy", "fit", "--vram", "8", QUESTION)
    assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n"), done.stderr
