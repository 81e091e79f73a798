"""ONNX Runtime stages on the CPU against NumPy: prefill, growth of the cache, steps, lm_head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.backends import ort_graphs
from runtime.backends.ort import OrtBackend
from runtime.backends.ort_device_run import DeviceRun
from runtime.backends.ort_session import clash, provider_options
from runtime.bundle import Bundle, select_variant
from runtime.stage import Step
from runtime.step_inputs import Row
from scheduler.errors import EngineError
from tests.reference import chatglm_numpy
from tests.support.mixed_bundle import export_mixed, two_rows, whole_stage

pytest.importorskip("onnxruntime")

# Relative error after three random blocks and lm_head; MNN's own are 1.2e-5, 5e-4, 2.4e-2 and 0.3.
TOLERANCE = {"fp32": 2e-6, "fp16": 1e-3, "int8": 4e-2, "int4": 0.3}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, chatglm_numpy.Model]:
    return export_mixed(tmp_path_factory.mktemp("mixed"))


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_stage_agrees_with_the_reference(mixed, precision):
    bundle, model = mixed
    tokens = bundle.manifest.tokens
    # The prompt ends below 64 tokens, where the cache grows.
    ids = [*np.arange(58) % 80 + 5, tokens.gmask, tokens.bos, *(11, 22, 33, 44, 55, 66, 77)]
    start = ids.index(tokens.bos) + 1
    expected = chatglm_numpy.forward(model, [int(one) for one in ids])
    stage = whole_stage(bundle, "ort:cpu", precision)
    hidden = expected.hidden[0].astype(np.float32)[None]
    row = Row(0, start - 1, start - 2)
    found = [stage.forward(Step((row,), start), hidden[:, :start])]
    for at in range(start, len(ids)):
        row = Row(at, start - 1, start - 2)
        found.append(stage.forward(Step((row,), 1), hidden[:, at : at + 1]))
    error = relative_error(np.concatenate(found, axis=1)[0], expected.hidden[-1])
    assert error < TOLERANCE[precision]
    logits = stage.lm_head(found[-1][:, 0])
    assert relative_error(logits[0], expected.logits[-1]) < TOLERANCE[precision]


@pytest.mark.parametrize("name", ["ort:cpu"])
def test_rows_of_different_lengths_do_not_touch_each_other(mixed, name):
    bundle, _ = mixed
    together = whole_stage(bundle, name, "fp32")
    alone = whole_stage(bundle, name, "fp32")
    error = two_rows(together, alone, bundle.manifest.geometry.hidden_size)
    assert error < 1e-6


def test_a_damaged_file_is_one_sentence(mixed, tmp_path: Path):
    damaged = tmp_path / "block.onnx"
    damaged.write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"cannot load .*block\.onnx on cpu"):
        OrtBackend("cpu", 1, 4, 32).load_block(damaged)


def test_cuda_is_told_what_it_may_take():
    options = provider_options("cuda", 5 << 30)
    assert options["gpu_mem_limit"] == str(5 << 30)
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert "gpu_mem_limit" not in provider_options("cuda")
    assert provider_options("webgpu", 5 << 30) == {}


def test_weights_beyond_what_the_plan_was_given_are_refused_before_they_are_loaded(mixed):
    bundle, _ = mixed
    variant = select_variant(bundle.manifest, "block_0", "ort", "fp32").variant
    path = bundle.file(variant.files[0])
    weights = ort_graphs.weights_bytes(path)
    # Attention, MLP and biases of a block of width 128.
    assert weights == pytest.approx(4 * 12 * 128 * 128, rel=0.05)
    run = DeviceRun("webgpu", 1, limit_bytes=weights - 1)
    with pytest.raises(EngineError, match=r"of weights, and of the .*\(--gpu-blocks\)"):
        run.open(b"no model", path.parent, weights)
    # One that fits is loaded, or rather not, being none; its weights are counted.
    run = DeviceRun("webgpu", 1, limit_bytes=weights)
    with pytest.raises(EngineError, match="cannot load"):
        run.open(b"no model", path.parent, weights)
    with pytest.raises(EngineError, match=r" 0 bytes are left| 0(\.0+)? \w+ are left"):
        run.open(b"no model", path.parent, 1 << 20)


def test_a_clash_of_packages_is_explained():
    assert clash(["onnxruntime"]) is None
    sentence = clash(["onnxruntime", "onnxruntime-webgpu"])
    assert "pip uninstall onnxruntime onnxruntime-webgpu" in sentence


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
