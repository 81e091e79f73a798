"""Plans: what the planner makes for any question, and what is refused when a plan is read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.errors import PlanError, UserInputError
from scheduler.hardware import Cpu, Gpu, Host
from scheduler.model import ModelSpec
from scheduler.plan import Plan, Precision
from scheduler.plan_file import plan_json, read_plan, write_plan
from scheduler.planner import make_plan
from scheduler.profiles import load_model, model_names
from scheduler.request import PlanRequest
from scheduler.units import GIB, MIB, parse_size

CHATGLM = load_model("chatglm-6b")
MODELS = [load_model(name) for name in model_names()]
precisions = st.sampled_from(["fp32", "fp16", "int8", "int4"])


def host(*free_bytes: int | None, ram_bytes: int = 32 * GIB) -> Host:
    gpus = tuple(
        Gpu(f"gpu{index}", "a GPU", 24 * GIB, free) for index, free in enumerate(free_bytes)
    )
    return Host(Cpu("a CPU", 8, 8, ram_bytes, ram_bytes), gpus)


@st.composite
def requests(draw: st.DrawFn) -> PlanRequest:
    spec: ModelSpec = draw(st.sampled_from(MODELS))
    vram = st.lists(st.integers(0, 1 << 37), min_size=1, max_size=5).map(tuple)
    return PlanRequest(
        model=spec,
        vram_bytes=draw(st.none() | vram),
        gpu_precision=draw(precisions),
        cpu_precision=draw(precisions),
        reserve_bytes=draw(st.none() | st.integers(0, 1 << 35)),
        gpu_blocks=draw(st.none() | st.integers(0, 2 * spec.blocks)),
        context=draw(st.none() | st.integers(1, spec.max_context)),
        slots=draw(st.integers(1, 64)),
    )


@given(st.fractions(0, 64, max_denominator=1 << 20))
@example(Fraction(11))
def test_chatglm_follows_the_published_rule(vram_gib: Fraction) -> None:
    reference = max(0, min(math.floor((vram_gib - 2) * 1024 / 385), 28))
    plan = make_plan(PlanRequest(CHATGLM, vram_bytes=(math.floor(vram_gib * GIB),)))
    assert (plan.gpu_blocks, plan.cpu_blocks) == (reference, 28 - reference)


@pytest.mark.parametrize(
    ("precision", "gpu_blocks", "block_mib"), [("fp16", 23, 385), ("fp32", 11, 769)]
)
def test_eleven_gibibytes(precision: Precision, gpu_blocks: int, block_mib: int) -> None:
    plan = make_plan(PlanRequest(CHATGLM, (11 * GIB,), gpu_precision=precision))
    assert plan.gpu_blocks == gpu_blocks
    assert plan.decision["block_bytes"] == block_mib * MIB
    assert plan.decision["text"] == (
        f"floor((11.00 GiB - 2.00 GiB) / {block_mib} MiB) = {gpu_blocks}, of 28"
    )
    gpu, cpu = plan.stages
    assert (gpu.device, gpu.backend, gpu.precision) == ("gpu0", "mnn:cuda", precision)
    assert (gpu.first_block, gpu.last_block) == (0, gpu_blocks - 1)
    assert (cpu.first_block, cpu.last_block) == (gpu_blocks, 27)
    assert (cpu.precision, cpu.lm_head, cpu.lm_head_precision) == ("fp32", True, "fp32")
    assert any(f"{gpu_blocks + 1} of 28 here" in note for note in plan.notes)


@given(requests(), st.none() | st.lists(st.none() | st.integers(0, 1 << 37), max_size=3))
def test_any_plan_is_whole(request: PlanRequest, measured: list[int | None] | None) -> None:
    plan = make_plan(request, None if measured is None else host(*measured))
    held = [block for stage in plan.stages for block in stage.blocks]
    assert held == list(range(request.model.blocks))
    assert plan.gpu_blocks + plan.cpu_blocks == request.model.blocks
    assert plan.stages[-1].device == "cpu"
    assert plan.stages[-1].lm_head
    assert all(stage.blocks and not stage.lm_head for stage in plan.stages[:-1])
    for stage in plan.stages:
        assert min(stage.memory.model_dump(exclude={"provenance"}).values()) >= 0
    assert plan.ram.needed_bytes >= plan.stages[-1].memory.total_bytes
    if request.gpu_blocks is not None:
        gpus = request.vram_bytes or measured or request.gpu_blocks
        wanted = min(request.gpu_blocks, request.model.blocks) if gpus else 0
        assert plan.gpu_blocks == wanted
    for sentence in [*plan.notes, *plan.warnings]:
        assert "\n" not in sentence
    assert Plan.model_validate_json(plan_json(plan)) == plan
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@given(requests(), st.integers(0, 1 << 37), st.integers(0, 1 << 36))
def test_more_memory_never_means_fewer_gpu_blocks(
    request: PlanRequest, free: int, more: int
) -> None:
    few, many = (
        make_plan(
            PlanRequest(
                request.model,
                vram_bytes=(vram,),
                gpu_precision=request.gpu_precision,
                reserve_bytes=request.reserve_bytes,
            )
        ).gpu_blocks
        for vram in (free, free + more)
    )
    assert few <= many


@given(requests())
def test_the_command_states_the_memory_exactly(request: PlanRequest) -> None:
    request = replace(request, model=CHATGLM, context=None)
    words = (make_plan(request).command or "").split()
    amounts = tuple(parse_size(size) for flag, size in pairwise(words) if flag == "--vram")
    assert amounts == (request.vram_bytes or ())


def test_only_what_runs_gets_a_command() -> None:
    spec = replace(load_model("llama-2-7b"), name="dolly", family="gpt_neox")
    plan = make_plan(PlanRequest(spec, (11 * GIB,)))
    assert plan.command is None
    assert any("dolly can be planned but not run: its family gpt_neox" in one for one in plan.notes)
    assert make_plan(PlanRequest(load_model("llama-2-7b"), (11 * GIB,))).command is not None


def test_two_gpus_fill_in_order() -> None:
    plan = make_plan(PlanRequest(CHATGLM, (6 * GIB, 5 * GIB)))
    # By hand: (6 - 2) x 1024 / 385 = 10.6 and (5 - 2) x 1024 / 385 = 7.98.
    spans = [(stage.device, stage.first_block, stage.last_block) for stage in plan.stages]
    assert spans == [("gpu0", 0, 9), ("gpu1", 10, 16), ("cpu", 17, 27)]


def test_all_blocks_on_the_gpu_leave_lm_head_on_the_cpu() -> None:
    plan = make_plan(PlanRequest(CHATGLM, (24 * GIB,)))
    assert (plan.gpu_blocks, plan.cpu_blocks) == (28, 0)
    cpu = plan.stages[-1]
    assert (cpu.first_block, cpu.last_block, cpu.lm_head) == (None, None, True)


def test_no_gpu_blocks_is_one_cpu_stage() -> None:
    for vram in ((), (0,), (2 * GIB,)):
        plan = make_plan(PlanRequest(CHATGLM, vram or None), host())
        assert [stage.device for stage in plan.stages] == ["cpu"]
        assert not plan.warnings


def test_measured_memory_is_used_unless_stated() -> None:
    measured = make_plan(PlanRequest(CHATGLM), host(11 * GIB))
    assert (measured.gpu_blocks, measured.stages[0].free_provenance) == (23, "measured")
    stated = make_plan(PlanRequest(CHATGLM, (3 * GIB,)), host(11 * GIB))
    assert (stated.gpu_blocks, stated.stages[0].free_provenance) == (2, "given")


def test_unknown_memory_means_cpu_with_a_note() -> None:
    plan = make_plan(PlanRequest(CHATGLM), host(None))
    assert plan.gpu_blocks == 0
    assert any("gpu0 could not be read" in note for note in plan.notes)


@pytest.mark.parametrize(("free", "word"), [(6 * GIB, "6.00 GiB are free"), (None, "unknown")])
def test_a_count_by_hand_wins_and_warns(free: int | None, word: str) -> None:
    plan = make_plan(PlanRequest(CHATGLM, gpu_blocks=20), host(free))
    assert plan.gpu_blocks == 20
    assert plan.decision["set_by"] == "hand"
    assert any("20 GPU blocks were set by hand" in note for note in plan.notes)
    assert any(word in warning for warning in plan.warnings)
    if free is not None:  # by hand: 20 x 385 MiB + 2 GiB = 9.52 GiB
        assert any("come to 9.52 GiB" in warning for warning in plan.warnings)


def test_a_count_by_hand_above_the_model_is_all_of_it() -> None:
    plan = make_plan(PlanRequest(CHATGLM, (64 * GIB,), gpu_blocks=99))
    assert plan.gpu_blocks == 28
    assert any("99 is more than the 28 blocks" in note for note in plan.notes)


def test_short_ram_would_swap() -> None:
    plan = make_plan(PlanRequest(CHATGLM), host(ram_bytes=16 * GIB))
    assert any("16.00 GiB are available: it would swap" in text for text in plan.warnings)
    assert plan.ram.needed_bytes > 28 * 768 * MIB  # fp32 in RAM
    assert not make_plan(PlanRequest(CHATGLM, cpu_precision="int4"), host()).warnings


def test_the_remedy_for_a_full_gpu_fits() -> None:
    full = make_plan(PlanRequest(CHATGLM, (6 * GIB,), gpu_blocks=12))
    (warning,) = [text for text in full.warnings if "--context" in text]
    context = int(warning.split("--context ")[1].split()[0])
    blocks = int(warning.split(" blocks fit")[0].split()[-1])
    for better in (
        PlanRequest(CHATGLM, (6 * GIB,), gpu_blocks=12, context=context),
        PlanRequest(CHATGLM, (6 * GIB,), gpu_blocks=blocks),
    ):
        assert make_plan(better).stages[0].memory.total_bytes <= 6 * GIB
    for worse in (
        PlanRequest(CHATGLM, (6 * GIB,), gpu_blocks=12, context=context + 1),
        PlanRequest(CHATGLM, (6 * GIB,), gpu_blocks=blocks + 1),
    ):
        assert make_plan(worse).stages[0].memory.total_bytes > 6 * GIB


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"context": 0}, "takes 1 to 2048 tokens"),
        ({"context": 2049}, "takes 1 to 2048 tokens"),
        ({"slots": 0}, "expected 1 to 1024"),
        ({"gpu_blocks": -1}, "expected 0 to 28"),
    ],
)
def test_numbers_without_sense_are_refused(wrong: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserInputError, match=sentence):
        make_plan(PlanRequest(CHATGLM, **wrong))  # type: ignore[arg-type]


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = make_plan(PlanRequest(CHATGLM, (11 * GIB,)), host())
    path = tmp_path / "plan.json"
    path.write_text("old")
    write_plan(plan, path)
    assert read_plan(path) == plan
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
    assert json.loads(path.read_text())["stages"][0]["memory"]["total_bytes"] > 0


def test_a_plan_is_not_left_half_written(tmp_path: Path) -> None:
    plan = make_plan(PlanRequest(CHATGLM, (11 * GIB,)))
    (tmp_path / "taken").mkdir()
    for target in (tmp_path / "taken", tmp_path / "missing" / "plan.json"):
        with pytest.raises(UserInputError, match="cannot be written"):
            write_plan(plan, target)
    assert [file.name for file in tmp_path.rglob("*")] == ["taken"]


def _shift_cpu_stage(document: dict[str, Any], first_block: int) -> None:
    document["stages"][1]["first_block"] = first_block


def _split_gpu_stage(document: dict[str, Any]) -> None:
    stage = document["stages"][0]
    document["stages"].insert(1, {**stage, "first_block": 10})
    stage["last_block"] = 9


def _second_lm_head(document: dict[str, Any]) -> None:
    document["stages"][0].update(lm_head=True, lm_head_precision="fp16")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: d.update(schema="glm-plan/plan/2"), "has schema 'glm-plan/plan/2', expected"),
        (lambda d: d.pop("schema"), "has no schema"),
        (lambda d: _shift_cpu_stage(d, 24), "leave a gap: cpu starts at block 24, expected 23"),
        (lambda d: _shift_cpu_stage(d, 22), "overlap: cpu starts at block 22, expected 23"),
        (lambda d: d.update(gpu_blocks=24), "gpu_blocks 24 and cpu_blocks 5 disagree"),
        (lambda d: d["stages"].reverse(), "leave a gap"),
        (lambda d: d["stages"].pop(), "disagree"),
        (lambda d: d["stages"][1].update(device="gpu0"), "disagree"),
        (_split_gpu_stage, "a device appears twice among the stages: gpu0, gpu0, cpu"),
        (_second_lm_head, "2 stages hold lm_head"),
        (lambda d: d["stages"][1].update(lm_head=False), "lm_head_precision must be given"),
        (lambda d: d["stages"][1].update(last_block=None), "both be numbers or both be null"),
        (lambda d: d["stages"][0].update(first_block=23, last_block=22), "lies before"),
        (lambda d: d["stages"][0].update(last_block=1 << 63), "less than 1024"),
        (lambda d: d["stages"][0]["memory"].update(total_bytes=1), "total_bytes is 1 but"),
        (lambda d: d["stages"][0]["memory"].update(weights_bytes=-1), "weights_bytes"),
        (lambda d: d["stages"][0].update(precision="fp8"), "precision"),
        (lambda d: d["stages"][0].update(device="tpu0"), "device"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d.pop("stages"), "stages: Field required"),
    ],
)
def test_an_unsound_plan_is_refused_in_one_sentence(
    tmp_path: Path, spoil: Any, sentence: str
) -> None:
    document = json.loads(plan_json(make_plan(PlanRequest(CHATGLM, (11 * GIB,)))))
    spoil(document)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    message = str(caught.value)
    assert sentence in message
    assert "plan.json" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b" " * (17 << 20)]
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r"plan\.json"):
        read_plan(path)


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(PlanError, match="cannot be read"):
            read_plan(path)
