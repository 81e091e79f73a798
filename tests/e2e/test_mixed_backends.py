"""MNN and ONNX Runtime in one plan: the same tokens wherever the model is cut, on any device."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from runtime.bundle import Bundle, open_bundle
from runtime.bundle_spec import spec_of_bundle
from runtime.engine import Engine, Generation
from runtime.export.exporter import export_bundle
from runtime.export.request import ExportRequest
from runtime.launch import launches_of
from runtime.sampling import Sampling
from runtime.stage import Step
from runtime.step_inputs import Row
from scheduler.plan import Precision
from scheduler.planner import make_plan
from scheduler.request import PlanRequest
from tests.reference import chatglm_numpy
from tests.support import webgpu
from tests.support.mixed_bundle import SHAPE, export_mixed, stage_of
from tests.support.tiny import TINY_CHECKPOINT

pytest.importorskip("onnxruntime")

WORKING = frozenset({"mnn:cpu", "ort:cpu", "ort:webgpu"})
CONTEXT = 192
HOST_BACKENDS = ("mnn:cpu", "ort:cpu")


# Relative error of logits after three random blocks against NumPy at the checkpoint's precision.
# MNN alone loses 4.1e-2 at int8 and 0.34 at int4 here; activations are rounded to int8 as well.
TOLERANCE: dict[Precision, float] = {"fp32": 2e-5, "int8": 6e-2, "int4": 0.45}


@pytest.fixture(scope="module")
def random_model(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Bundle, chatglm_numpy.Model]:
    return export_mixed(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def random_bundle(random_model: tuple[Bundle, chatglm_numpy.Model]) -> Bundle:
    return random_model[0]


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("tiny") / "bundle"
    export_bundle(ExportRequest(TINY_CHECKPOINT, out, ("fp32",), engines=("mnn", "ort")))
    return open_bundle(out)


def generated(
    bundle: Bundle, first: str, second: str, gpu_blocks: int, precision: Precision = "fp32"
) -> list[int]:
    """Greedy tokens through real workers: `first` has the first blocks, `second` the others."""
    plan = make_plan(
        PlanRequest(
            spec_of_bundle(bundle),
            vram_bytes=(1 << 33,),
            gpu_blocks=gpu_blocks,
            gpu_precision=precision,
            cpu_precision=precision,
            context=CONTEXT,
            gpu_backend=first,
            cpu_backend=second,
        )
    )
    launches = launches_of(plan, bundle, WORKING, {}, 1)
    assert [launch.backend for launch in launches] == [first, second][not gpu_blocks :][
        : len(launches)
    ]
    tokens = bundle.manifest.tokens
    assert tokens is not None
    # Four tokens below 64, where the cache grows.
    prompt = [*range(20, 78), tokens.gmask, tokens.bos]
    with Engine(bundle, launches, CONTEXT) as engine:
        return list(engine.generate(prompt, Sampling(), 12, Generation()))


def test_any_mix_on_the_cpu_gives_the_same_tokens(random_bundle: Bundle) -> None:
    whole = generated(random_bundle, "mnn:cpu", "mnn:cpu", 0)
    assert len(whole) == 12
    for first, second in itertools.product(HOST_BACKENDS, HOST_BACKENDS):
        for gpu_blocks in range(SHAPE.blocks + 1):
            assert generated(random_bundle, first, second, gpu_blocks) == whole


@pytest.mark.parametrize("precision", TOLERANCE)
def test_any_mix_and_split_stays_near_the_reference(
    random_model: tuple[Bundle, chatglm_numpy.Model], precision: Precision
) -> None:
    bundle, model = random_model
    tokens = bundle.manifest.tokens
    assert tokens is not None
    # A prompt below 64 tokens and steps behind it, across the growth of the cache.
    ids = [*range(20, 78), tokens.gmask, tokens.bos, 11, 22, 33, 44, 55, 66]
    expected = chatglm_numpy.forward(model, ids)
    hidden = expected.hidden[0].astype(np.float32)[None]
    start, names = 60, [f"block_{number}" for number in range(SHAPE.blocks)]
    for first, second in itertools.product(HOST_BACKENDS, HOST_BACKENDS):
        for cut in range(SHAPE.blocks + 1):
            stages = [
                stage_of(bundle, first, precision, names[:cut]),
                stage_of(bundle, second, precision, [*names[cut:], "lm_head"]),
            ]
            last = hidden[0, 0]
            for at in (0, *range(start, len(ids))):
                count = 1 if at else start
                step = Step((Row(at, start - 1, start - 2),), count)
                states = hidden[:, at : at + count]
                for stage in stages[not cut : 1 + (cut < SHAPE.blocks)]:
                    states = stage.forward(step, states).copy()
                last = states[:, -1]
            wanted = expected.logits[-1]
            error = np.linalg.norm(stages[1].lm_head(last)[0] - wanted) / np.linalg.norm(wanted)
            assert error < TOLERANCE[precision], (first, second, cut)


def test_stages_that_wait_use_no_processor(random_bundle: Bundle) -> None:
    """Processor time, not time: threads that spin would use a second of it in a second, each."""
    plan = make_plan(
        PlanRequest(
            spec_of_bundle(random_bundle),
            vram_bytes=(1 << 33,),
            gpu_blocks=1,
            gpu_precision="fp32",
            cpu_precision="fp32",
            context=CONTEXT,
            gpu_backend="ort:cpu",
            cpu_backend="mnn:cpu",
        )
    )
    launches = launches_of(plan, random_bundle, WORKING, {}, 2)
    with Engine(random_bundle, launches, CONTEXT) as engine:
        list(engine.generate([*range(20, 40)], Sampling(), 4, Generation()))
        workers = psutil.Process().children(recursive=True)
        before = [sum(worker.cpu_times()[:2]) for worker in workers]
        time.sleep(1.0)
        used = [sum(one.cpu_times()[:2]) - was for one, was in zip(workers, before, strict=True)]
    assert len(used) >= 2
    assert max(used) < 0.2


def test_the_tiny_model_answers_alike_with_its_first_stage_on_a_device(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    webgpu.require_device()
    for name, value in webgpu.environment().items():
        monkeypatch.setenv(name, value)
    whole = generated(tiny_bundle, "mnn:cpu", "mnn:cpu", 0)
    assert generated(tiny_bundle, "mnn:cpu", "ort:cpu", 0) == whole
    for gpu_blocks in (1, 4, 7):
        assert generated(tiny_bundle, "ort:webgpu", "mnn:cpu", gpu_blocks) == whole


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-6), ("int8", 2e-2)])
def test_a_device_holds_weights_cache_and_hidden_states(
    random_bundle: Bundle, precision: str, tolerance: float
) -> None:
    webgpu.require_device()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.device_run", random_bundle.path, precision],
        cwd=Path(__file__).parents[2],
        env=os.environ | webgpu.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report["providers"]) == {"WebGpuExecutionProvider"}
    assert set(report["on_cpu"]) <= {"Shape", "Slice", "Concat", "Reshape"}
    assert report["logits_error"] < tolerance
    assert report["two_rows_error"] < tolerance
    assert [step["capacity"] for step in report["steps"]] == [64] * 5 + [128, 256, 256]
    blocks, heads, width = SHAPE.blocks, SHAPE.heads, SHAPE.hidden
    held = 0
    for step in report["steps"]:
        tokens, capacity = step["tokens"], step["capacity"]
        cache_bytes = blocks * 2 * 4 * capacity * width
        assert step["error"] < tolerance
        assert step["cache_on_device"] == cache_bytes
        assert step["to_host"] == 4 * tokens * width  # hidden states, once
        # Hidden states, mask and rotary tables once; for each block, where the new tokens go. What
        # is cached stays where it is, whether it grows or not.
        moved = 4 * (width + capacity + 1 + width // heads) + blocks * 2 * 8 * (width + heads)
        grown = blocks * 2 * 8 * 12 if capacity > held else 0
        assert tokens > 1 or step["to_device"] == moved + grown
        assert step["to_device"] < cache_bytes
        held = capacity
