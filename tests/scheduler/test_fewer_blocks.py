"""A failed device loses one block at a time, then lm_head, to the CPU; nothing else moves."""

from __future__ import annotations

import pytest

from scheduler.errors import PlanError
from scheduler.fewer_blocks import one_block_fewer
from scheduler.plan import Plan
from scheduler.planner import make_plan
from scheduler.profiles import load_model
from scheduler.request import PlanRequest

SPEC = load_model("chatglm-6b")


def plan_of(*vram_gib: int, blocks: int) -> Plan:
    request = PlanRequest(
        SPEC, vram_bytes=tuple(one << 30 for one in vram_gib), gpu_blocks=blocks, slots=2
    )
    return make_plan(request)


def counts(plan: Plan) -> dict[str, int]:
    return {stage.device: len(stage.blocks) for stage in plan.stages}


def test_it_is_the_plan_that_the_count_gives_by_hand() -> None:
    fewer = one_block_fewer(plan_of(24, blocks=23), SPEC, "gpu0", "it failed")
    by_hand = plan_of(24, blocks=22)
    assert counts(fewer) == {"gpu0": 22, "cpu": 6}
    assert (fewer.gpu_blocks, fewer.cpu_blocks) == (22, 6)
    assert [stage.memory for stage in fewer.stages] == [stage.memory for stage in by_hand.stages]
    assert fewer.ram == by_hand.ram
    assert fewer.warnings[-1] == "one block of gpu0 moved to the CPU: it failed"
    assert Plan.model_validate_json(fewer.model_dump_json()) == fewer


def test_other_devices_keep_their_counts() -> None:
    plan = plan_of(8, 8, blocks=24)
    before = counts(plan)
    fewer = one_block_fewer(plan, SPEC, "gpu0", "it failed")
    assert counts(fewer) == {
        "gpu0": before["gpu0"] - 1,
        "gpu1": before["gpu1"],
        "cpu": before["cpu"] + 1,
    }


def test_a_device_can_lose_everything() -> None:
    plan = plan_of(24, blocks=2)
    for left in (1, 0):
        plan = one_block_fewer(plan, SPEC, "gpu0", "it failed")
        assert counts(plan).get("gpu0", 0) == left
    assert list(counts(plan)) == ["cpu"]
    with pytest.raises(PlanError, match="gpu0 has no blocks"):
        one_block_fewer(plan, SPEC, "gpu0", "it failed")


def test_the_cpu_has_nowhere_to_go() -> None:
    with pytest.raises(PlanError, match="cpu has no blocks that could move"):
        one_block_fewer(plan_of(24, blocks=2), SPEC, "cpu", "it failed")


def test_a_cpu_without_a_stage_gets_one() -> None:
    plan = plan_of(24, blocks=27)
    gpu, cpu = plan.stages
    everything = gpu.model_copy(
        update={"last_block": 27, "lm_head": True, "lm_head_precision": "fp16"}
    )
    plan = plan.model_copy(update={"stages": [everything], "gpu_blocks": 28, "cpu_blocks": 0})
    fewer = one_block_fewer(plan, SPEC, "gpu0", "it failed")
    assert [stage.device for stage in fewer.stages] == ["gpu0", "cpu"]
    assert (fewer.stages[0].lm_head, fewer.stages[1].lm_head) == (True, False)
    assert fewer.stages[1].precision == cpu.precision == "fp32"
    assert fewer.stages[1].backend == "mnn:cpu"
