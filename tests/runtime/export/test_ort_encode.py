"""Graphs rewritten for ONNX Runtime: every family's block, pieces of large matrices, same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from runtime.backends.ort import OrtBackend
from runtime.bundle import open_bundle
from runtime.export import ort_encode
from runtime.export.check import check_bundle
from runtime.export.check_gate import require_close
from runtime.export.decoder_graph import write_decoder_block
from runtime.export.exporter import export_bundle
from runtime.export.ort_encode import encode
from runtime.export.ort_encodings import ort_encodings
from runtime.export.request import Encoding, ExportRequest
from runtime.rotary import Rotary
from runtime.stage import Stage, Step
from runtime.step_inputs import Row
from scheduler.errors import BundleError, UserInputError
from scheduler.profiles import load_model
from tests.reference import decoder_numpy
from tests.runtime.export.test_decoder_graph import LLAMA, random_weights
from tests.support.chatglm_checkpoint import Shape, write_checkpoint
from tests.support.tiny import TINY_CHECKPOINT

pytest.importorskip("onnxruntime")

CONFIGS = {
    "llama": LLAMA,
    "qwen3": replace(LLAMA, qk_norm=True, qkv_bias=True),
    "glm4": replace(LLAMA, qkv_bias=True, rotary=Rotary("neighbours", 16)),
}
TOLERANCE = {("fp32", None): 2e-6, ("fp16", None): 1e-3, ("int8", 32): 2e-2, ("int4", 32): 0.3}


def written(folder, config):
    source = random_weights(config)
    write_decoder_block(folder / "block.onnx", source, config, 0)
    return folder / "block.onnx", source


def relative_error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stored", TOLERANCE)
def test_a_decoder_block_agrees_with_numpy(tmp_path, name, stored):
    config = CONFIGS[name]
    graph, source = written(tmp_path, config)
    path, _ = encode(graph, tmp_path / "made.onnx", Encoding(*stored, "ort"))
    backend = OrtBackend("cpu", 1, config.kv_heads, config.head_dim)
    backend.load_block(path)
    stage = Stage(backend, config.rotary, 64)
    x = np.random.default_rng(1).standard_normal((9, config.hidden_size), np.float32)
    found = [stage.forward(Step((Row(0),), 7), x[None, :7])]
    found += [stage.forward(Step((Row(at),), 1), x[None, at : at + 1]) for at in (7, 8)]
    expected = decoder_numpy.block(x.astype(float), source.tensors, config, 0)
    assert relative_error(np.concatenate(found, axis=1)[0], expected) < TOLERANCE[stored]


@pytest.mark.parametrize("stored", TOLERANCE)
def test_pieces_of_a_matrix_compute_what_the_whole_does(tmp_path, monkeypatch, stored):
    graph, _ = written(tmp_path, LLAMA)
    whole, _ = encode(graph, tmp_path / "whole.onnx", Encoding(*stored, "ort"))
    monkeypatch.setattr(ort_encode, "LARGEST_MATRIX_BYTES", 1000)
    cut, data = encode(graph, tmp_path / "cut.onnx", Encoding(*stored, "ort"))
    sizes = [
        int(entry.value)
        for constant in onnx.load(str(cut), load_external_data=False).graph.initializer
        for entry in constant.external_data
        if entry.key == "length" and not constant.name.endswith("norm.weight")
    ]
    assert max(sizes) <= 1000
    assert data.stat().st_size >= sum(sizes)
    x = np.random.default_rng(1).standard_normal((1, 5, LLAMA.hidden_size), np.float32)
    answers = []
    for path in (whole, cut):
        backend = OrtBackend("cpu", 1, LLAMA.kv_heads, LLAMA.head_dim)
        backend.load_block(path)
        answers.append(Stage(backend, LLAMA.rotary, 64).forward(Step((Row(0),), 5), x))
    assert relative_error(*answers) < 1e-6


def test_the_same_graph_gives_the_same_bytes(tmp_path):
    graph, _ = written(tmp_path, LLAMA)
    made = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        files = encode(graph, tmp_path / folder / "block.onnx", Encoding("int4", 32, "ort"))
        made.append([file.read_bytes() for file in files])
    assert made[0] == made[1]


def test_a_bundle_gains_the_files_of_another_engine(tmp_path):
    write_checkpoint(tmp_path / "model", Shape(hidden=32, heads=2, blocks=2, vocab=64))
    out = tmp_path / "bundle"
    export_bundle(ExportRequest(tmp_path / "model", out, ("fp16",)))
    before = {path: path.read_bytes() for path in (out / "mnn-fp16").iterdir()}
    export_bundle(ExportRequest(tmp_path / "model", out, ("fp16", "int4"), engines=("ort",)))
    bundle = open_bundle(out, verify=True)
    for part in bundle.manifest.parts:
        made = [(one.engine, one.precision, one.weight_block) for one in part.variants]
        assert made == [("mnn", "fp16", None), ("ort", "fp16", None), ("ort", "int4", 32)]
    assert {path: path.read_bytes() for path in before} == before


def test_a_check_covers_the_files_of_onnx_runtime(tmp_path):
    out = tmp_path / "bundle"
    precisions = ("fp32", "int8", "int4")
    export_bundle(ExportRequest(TINY_CHECKPOINT, out, precisions, engines=("mnn", "ort")))
    report = check_bundle(TINY_CHECKPOINT, out)
    require_close(report, out)
    ours = [part for part in report.parts if part.encoding.startswith("ort")]
    assert len(ours) == 3 * 9
    exact = [part.errors for part in ours if part.encoding == "ort fp32"]
    assert max(error for errors in exact for error in errors.values()) < 1e-6
    with (out / "ort-int8-block128" / "block_03.onnx.data").open("r+b") as file:
        file.seek(5000)
        file.write(bytes(20000))
    with pytest.raises(BundleError, match=r"block_3 \(ort int8 block 128\) is off by"):
        require_close(check_bundle(TINY_CHECKPOINT, out), out)


def test_blocks_of_weights_are_those_that_onnx_runtime_has_kernels_for():
    spec = load_model("chatglm-6b")
    made = ort_encodings(spec, ("fp32", "int8", "int4", "int8"), None)
    assert made == [
        Encoding("fp32", None, "ort"),
        Encoding("int8", 128, "ort"),
        Encoding("int4", 128, "ort"),
    ]
    assert ort_encodings(spec, ("int4",), 64) == [Encoding("int4", 64, "ort")]
    odd = replace(spec, ffn_size=1001)
    assert ort_encodings(odd, ("int8",), None) == [Encoding("int8", 32, "ort")]
    with pytest.raises(UserInputError, match="expected one of 128, 64, 32, 16"):
        ort_encodings(spec, ("int4",), 48)
