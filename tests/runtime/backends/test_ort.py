"""ONNX Runtime stages on the CPU against NumPy: prefill, growth of the cache, steps, lm_head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.backends.ort import OrtBackend
from runtime.backends.ort_session import clash
from runtime.bundle import Bundle
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


def test_a_clash_of_packages_is_explained():
    assert clash(["onnxruntime"]) is None
    sentence = clash(["onnxruntime", "onnxruntime-webgpu"])
    assert "pip uninstall onnxruntime onnxruntime-webgpu" in sentence


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
