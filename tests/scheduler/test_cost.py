"""The cost model: against sums done by hand, measured times, and the published speeds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.cost import (
    DeviceSpeed,
    HopSpeed,
    Speeds,
    StageParts,
    WeightSpeed,
    block_decode_seconds,
    block_prefill_seconds,
    decode_seconds,
    hop_count,
    prefill_seconds,
    time_to_first_token,
)
from scheduler.estimates import estimated_speed, estimated_speeds
from scheduler.hardware import Cpu, Gpu, Host
from scheduler.model import ModelSpec
from scheduler.plan import Precision
from scheduler.planner import make_plan
from scheduler.profiles import find_cpu, find_gpu, find_ram, load_gpus, load_model
from scheduler.request import PlanRequest
from scheduler.units import GIB

CHATGLM = load_model("chatglm-6b")

# ChatGLM-6B by hand: 12 x 4096^2 weights and 53,248 fp32 values of biases and norms in a block,
# 130,528 x 4096 weights and a norm of 8,192 in lm_head.
BLOCK_FP32 = 4 * 12 * 4096**2 + 4 * 53_248
BLOCK_FP16 = 2 * 12 * 4096**2 + 4 * 53_248
HEAD_FP32 = 4 * (130_528 * 4096 + 8_192)
HOP = HopSpeed(0.001, 1e9)
SPEEDS = Speeds(
    {
        "gpu0": DeviceSpeed(100e9, 1e12, 0.002, "calibrated", "by hand"),
        "cpu": DeviceSpeed(20e9, 1e11, 0.001, "estimated", "by hand"),
    },
    HOP,
)


def split(gpu_blocks: int, head: str = "cpu") -> list[StageParts]:
    gpu = StageParts("gpu0", "fp16", range(gpu_blocks), "fp16" if head == "gpu0" else None)
    cpu = StageParts("cpu", "fp32", range(gpu_blocks, 28), "fp32" if head == "cpu" else None)
    return [stage for stage in (gpu, cpu) if stage.blocks or stage.lm_head_precision]


def test_a_decode_step_by_hand() -> None:
    cost = decode_seconds(split(23), CHATGLM, SPEEDS, context=1000)
    gpu_kv = 1024 * 2 * 4096 * 2  # the cache is read at its capacity, keys and values, fp16
    cpu_kv = 1024 * 2 * 4096 * 4
    on_gpu = 23 * ((BLOCK_FP16 + gpu_kv) / 100e9 + 0.002)
    on_cpu = 5 * ((BLOCK_FP32 + cpu_kv) / 20e9 + 0.001)
    head = HEAD_FP32 / 20e9 + 0.001
    hops = 2 * (0.001 + 16_384 / 1e9)  # embedding to GPU, GPU to CPU; 16 KiB each
    assert cost.stage_seconds == pytest.approx((on_gpu, on_cpu))
    assert cost.lm_head_seconds == pytest.approx(head)
    assert cost.hop_seconds == pytest.approx(hops)
    assert cost.total_seconds == pytest.approx(on_gpu + on_cpu + head + hops)
    assert cost.slowest_stage_seconds == pytest.approx(on_cpu + head)
    assert cost.tokens_per_second == pytest.approx(1 / cost.total_seconds)


def test_a_prompt_by_hand() -> None:
    cost = prefill_seconds(split(28, "cpu"), CHATGLM, SPEEDS, tokens=100)
    # 2 operations per weight, and 4 x (prompt and one empty step of the cache) x width for scores.
    flops = 100 * (2 * 12 * 4096**2 + 4 * 164 * 4096)
    assert cost.stage_seconds[0] == pytest.approx(28 * (flops / 1e12 + 0.002))
    assert cost.lm_head_seconds == pytest.approx(HEAD_FP32 / 20e9 + 0.001)  # the last row only
    assert cost.hop_seconds == pytest.approx(2 * (0.001 + 100 * 16_384 / 1e9))
    assert time_to_first_token(split(28, "cpu"), CHATGLM, SPEEDS, 100) == cost.total_seconds


def test_a_causal_prompt_by_hand() -> None:
    """300 tokens are 128, 128 and 44, over caches with room for 64, 128 and 256."""
    cost = prefill_seconds(split(28, "cpu"), replace(CHATGLM, family="llama"), SPEEDS, tokens=300)
    flops = sum(
        new * (2 * 12 * 4096**2 + 4 * seen * 4096)
        for new, seen in ((128, 192), (128, 256), (44, 300))
    )
    assert cost.stage_seconds[0] == pytest.approx(28 * (flops / 1e12 + 3 * 0.002))
    assert cost.hop_seconds == pytest.approx(2 * (3 * 0.001 + 300 * 16_384 / 1e9))


def test_a_short_prompt_still_reads_the_weights() -> None:
    speed = SPEEDS.devices["cpu"]
    seconds = block_prefill_seconds(CHATGLM, speed, "cpu", "fp32", 1)
    assert seconds == pytest.approx(BLOCK_FP32 / 20e9 + 0.001)


@pytest.mark.parametrize(
    ("stages", "hops"),
    [
        (split(0), 1),
        (split(23), 2),
        (split(23, "gpu0"), 3),  # back to the GPU for lm_head
        (split(28), 2),
        (split(28, "gpu0"), 1),
    ],
)
def test_hops_are_counted(stages: list[StageParts], hops: int) -> None:
    assert hop_count(stages) == hops


# Milliseconds of one ChatGLM-6B block on 2 x86 cores with MNN 3.6.1, one run.
@pytest.mark.parametrize(
    ("precision", "by_rows"),
    [
        ("fp32", {1: 36, 2: 36, 4: 41, 8: 81}),
        ("int8", {1: 15.5, 2: 18, 4: 23, 8: 46}),
        ("int4", {1: 10, 2: 13, 4: 18, 8: 36}),
    ],
)
def test_rows_cost_what_was_measured(precision: Precision, by_rows: dict[int, float]) -> None:
    """The estimate for 2 cores beside fast RAM, without overhead and cache."""
    two_cores = estimated_speed(Cpu("x86", 2, 2, 0, 0), "mnn:cpu")
    bare = replace(two_cores, block_overhead_seconds=0.0, kv_bytes_per_second=1e15)
    for rows, milliseconds in by_rows.items():
        seconds = block_decode_seconds(CHATGLM, bare, "cpu", precision, 64, rows)
        assert 1000 * seconds == pytest.approx(milliseconds, rel=0.15)


def test_history_costs_what_was_measured() -> None:
    """An int4 block took 10 ms with a cache of 64 tokens and 18 ms with 1,024."""
    two_cores = estimated_speed(Cpu("x86", 2, 2, 0, 0), "mnn:cpu")
    short, long = (
        block_decode_seconds(CHATGLM, two_cores, "cpu", "int4", tokens) for tokens in (64, 1024)
    )
    assert 1000 * (long - short) == pytest.approx(8, rel=0.15)


def article_speeds() -> Speeds:
    cpu = estimated_speed(find_cpu("Ryzen 9 3900X"), "mnn:cpu", find_ram("dual DDR4-3200"))
    gpu = estimated_speed(find_gpu("RTX 2080 Ti"), "mnn:cuda")
    return Speeds({"gpu0": gpu, "cpu": cpu}, estimated_speeds(None).hop)


@pytest.mark.parametrize(
    ("gpu_blocks", "published"), [(0, (1.14, 1.2)), (23, (3.4, 3.5)), (24, (3.4, 3.5))]
)
def test_the_published_machine(gpu_blocks: int, published: tuple[float, float]) -> None:
    """One set of constants gives both published speeds, for 23 blocks by the rule and for the 24
    that the published program loads. They were chosen to: this is no validation.
    """
    cost = decode_seconds(split(gpu_blocks), CHATGLM, article_speeds(), context=128)
    for speed in published:
        assert cost.tokens_per_second == pytest.approx(speed, rel=0.15)


def test_the_plan_carries_the_same_numbers() -> None:
    plan = make_plan(PlanRequest(CHATGLM, (11 * GIB,), context=128), speeds=article_speeds())
    cost = decode_seconds(split(23), CHATGLM, article_speeds(), context=128)
    assert plan.speed is not None
    assert plan.speed.decode_tokens_per_second == pytest.approx(cost.tokens_per_second)
    assert [stage.decode_seconds for stage in plan.speed.stages] == list(cost.stage_seconds)
    assert plan.speed.prompt_tokens == 128
    assert plan.speed.provenance == "estimated"


def test_the_least_certain_constant_labels_the_plan() -> None:
    plan = make_plan(PlanRequest(CHATGLM, (11 * GIB,)), speeds=SPEEDS)
    assert plan.speed is not None
    assert [stage.provenance for stage in plan.speed.stages] == ["calibrated", "estimated"]
    assert plan.speed.provenance == "estimated"


def test_more_slots_share_the_reading_of_weights() -> None:
    one, four, eight = (
        decode_seconds(split(23), CHATGLM, article_speeds(), 128, rows) for rows in (1, 4, 8)
    )
    assert four.tokens_per_second > 2 * one.tokens_per_second
    assert four.tokens_per_second_per_slot < one.tokens_per_second_per_slot
    # Slots 5 to 8 are a second group, on every device.
    assert eight.total_seconds == pytest.approx(2 * four.total_seconds)


def test_slots_cost_as_many_rows_as_are_computed_for_them() -> None:
    def seconds(slots: int) -> float:
        return decode_seconds(split(23), CHATGLM, article_speeds(), 128, slots).total_seconds

    assert seconds(3) == pytest.approx(seconds(4), rel=1e-4)  # all but the hidden states
    assert seconds(1) < seconds(2) < seconds(4)
    assert seconds(6) == pytest.approx(seconds(4) + seconds(2))


def test_every_gpu_has_a_plausible_estimate() -> None:
    for gpu in load_gpus():
        speed = estimated_speed(gpu, "mnn:cuda")
        peak = gpu.bandwidth_gbps * 1e9
        assert 0.4 * peak <= speed.bandwidth_bytes_per_second <= 0.9 * peak
        assert speed.flops("fp16") >= 0.999 * speed.flops("fp32") > 1e10
        assert gpu.name in speed.source


def test_what_is_assumed_is_said() -> None:
    speeds = estimated_speeds(Host(Cpu("a CPU", 8, 8, 0, 0), (Gpu("gpu0", "X", None, None),)))
    assert "assumed 448 GB/s" in speeds.devices["gpu0"].source
    assert "unknown speed" in speeds.devices["cpu"].source
    probed = Gpu("gpu0", "Quadro", None, None, bandwidth_gbps=300.0)
    source = estimated_speed(probed, "mnn:cuda").source
    assert "Quadro by its driver" in source
    assert "assumed 20 TFLOPS" in source


@given(
    st.integers(0, 28),
    st.integers(1, 2048),
    st.integers(1, 16),
    st.sampled_from(["fp32", "fp16", "int8", "int4"]),
    st.floats(1e9, 1e12),
    st.floats(0, 1),
)
def test_more_work_never_takes_less(
    gpu_blocks: int, context: int, rows: int, precision: Precision, rate: float, share: float
) -> None:
    speed = DeviceSpeed(
        rate, 1e12, 1e-4, "estimated", "any", {precision: WeightSpeed(rate, share)}, rate, 4
    )
    speeds = Speeds({"gpu0": speed, "cpu": speed}, HOP)
    stages = [replace(stage, precision=precision) for stage in split(gpu_blocks)]

    def total(model: ModelSpec, tokens: int, slots: int) -> float:
        return decode_seconds(stages, model, speeds, tokens, slots).total_seconds

    base = total(CHATGLM, context, rows)
    assert base > 0
    assert total(CHATGLM, context + 100, rows) >= base
    assert total(CHATGLM, context, rows + 1) >= base
    longer = prefill_seconds(stages, CHATGLM, speeds, context + 1).total_seconds
    assert longer >= prefill_seconds(stages, CHATGLM, speeds, context).total_seconds
