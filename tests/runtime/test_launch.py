"""What starts for a plan, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.bundle import Bundle, open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.launch import check_ram, launches_of
from scheduler.errors import BundleError, PlanError
from scheduler.plan import Plan, Precision
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from tests.support.bundles import write_bundle
from tests.support.tiny import TINY_BUNDLE, TINY_CHECKPOINT

CPU_ONLY = frozenset({"mnn:cpu"})


def plan_of(bundle: Bundle, gpu_precision: Precision = "fp16") -> Plan:
    return make_plan(
        PlanRequest(
            spec_of_bundle(bundle), vram_bytes=(1 << 30,), gpu_blocks=5, gpu_precision=gpu_precision
        )
    )


def test_a_missing_gpu_backend_falls_back_and_says_so() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    gpu, cpu = launches_of(plan_of(bundle), bundle, CPU_ONLY, {}, 2)
    assert (gpu.device, gpu.backend, gpu.cuda_device) == ("gpu0", "mnn:cpu", None)
    assert gpu.fallback == "asked for CUDA, running on CPU"
    assert cpu.fallback is None
    # MNN with CUDA has to be built; one command brings another backend.
    assert gpu.notice == (
        "gpu0: asked for CUDA, running on CPU; pip install 'glm-plan[gpu]' adds GPUs of any vendor,"
        " for --gpu-backend ort:webgpu"
    )
    assert cpu.notice is None
    assert [number for number, _ in gpu.block_files] == [0, 1, 2, 3, 4]
    assert [number for number, _ in cpu.block_files] == [5, 6, 7]
    assert gpu.lm_head_file is None
    assert cpu.lm_head_file is not None


def test_a_working_gpu_backend_sees_its_own_gpu_only() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    working = CPU_ONLY | {"mnn:cuda"}
    gpu, cpu = launches_of(plan_of(bundle), bundle, working, {"gpu0": "GPU-abc"}, 2)
    assert (gpu.backend, gpu.cuda_device, gpu.fallback) == ("mnn:cuda", "GPU-abc", None)
    assert cpu.cuda_device is None


def test_a_precision_that_was_not_exported_is_named() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    with pytest.raises(BundleError, match="export it with --precision int4"):
        launches_of(plan_of(bundle, "int4"), bundle, CPU_ONLY, {}, 2)


def test_ram_that_is_too_small_is_refused_with_numbers_before_loading() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    plan = plan_of(bundle)
    launches = launches_of(plan, bundle, CPU_ONLY, {}, 2)
    spec = spec_of_bundle(bundle)
    check_ram(plan, spec, launches, 8 << 30)
    said = (
        r"needs .* MiB of RAM .*CUDA.* and 100.0 MiB are available.*pip install 'glm-plan\[gpu\]'"
    )
    with pytest.raises(PlanError, match=said):
        check_ram(plan, spec, launches, 100 << 20)


def test_backends_are_what_the_user_says_and_fall_back_to_the_files_there_are(
    tmp_path: Path,
) -> None:
    """The planner takes the names; a bundle for ONNX Runtime alone falls back to ort:cpu."""
    out = tmp_path / "bundle"
    export_bundle(ExportRequest(TINY_CHECKPOINT, out, ("fp16",), engines=("ort",)))
    bundle = open_bundle(out)
    request = PlanRequest(
        spec_of_bundle(bundle),
        vram_bytes=(1 << 30,),
        gpu_blocks=5,
        gpu_backend="ort:webgpu",
        cpu_backend="ort:cpu",
    )
    plan = make_plan(request)
    assert "--gpu-backend ort:webgpu --cpu-backend ort:cpu" in str(plan.command)
    assert any("pip install 'glm-plan[gpu]'" in note for note in plan.notes)
    gpu, cpu = launches_of(plan, bundle, frozenset({"ort:cpu", "ort:webgpu"}), {}, 2)
    assert (gpu.backend, gpu.precision, gpu.fallback) == ("ort:webgpu", "fp16", None)
    assert cpu.lm_head_file == out / "ort-fp16" / "lm_head.onnx"
    gpu, _ = launches_of(plan, bundle, frozenset({"mnn:cpu", "ort:cpu"}), {}, 2)
    assert (gpu.backend, gpu.fallback) == ("ort:cpu", "asked for WEBGPU, running on CPU")
    assert gpu.remedy == "pip install 'glm-plan[gpu]' adds ort:webgpu"


def test_a_device_stage_is_told_what_the_plan_was_given() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    plan = plan_of(bundle)
    gpu, cpu = launches_of(plan, bundle, CPU_ONLY | {"mnn:cuda"}, {"gpu0": "GPU-abc"}, 2)
    assert (gpu.memory_limit_bytes, cpu.memory_limit_bytes) == (1 << 30, None)
    gpu, _ = launches_of(plan, bundle, CPU_ONLY, {}, 2)
    assert gpu.memory_limit_bytes is None  # it runs in RAM


def test_webgpu_knows_one_adapter() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    plan = plan_of(bundle)
    both = [
        stage.model_copy(update={"device": f"gpu{number}", "backend": "ort:webgpu"})
        for number, stage in enumerate(plan.stages)
    ]
    two_gpus = plan.model_copy(update={"stages": both})
    with pytest.raises(PlanError, match="gpu0 and gpu1 on ort:webgpu, which knows one adapter"):
        launches_of(two_gpus, bundle, frozenset({"ort:webgpu", "mnn:cpu"}), {}, 2)


@pytest.mark.parametrize(("block", "fine"), [(32, True), (64, True), (128, False), (None, False)])
def test_small_groups_of_weights_bring_fine_scales_of_activations(
    tmp_path: Path, block: int | None, fine: bool
) -> None:
    write_bundle(tmp_path / "b", encodings=(("int8", block),))
    bundle = open_bundle(tmp_path / "b")
    plan = make_plan(PlanRequest(spec_of_bundle(bundle), gpu_blocks=0, cpu_precision="int8"))
    assert [one.fine_scales for one in launches_of(plan, bundle, CPU_ONLY, {}, 2)] == [fine]
