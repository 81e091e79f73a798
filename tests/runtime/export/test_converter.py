"""The converter's child process: every way in which it fails is noticed, whatever it returns."""

from __future__ import annotations

import logging
import time
from threading import Event, Timer

import numpy as np
import pytest

from runtime.export import converter
from runtime.export.block_graph import write_block, write_lm_head
from runtime.export.checkpoint import Checkpoint
from runtime.export.converter import StoppedError, convert
from runtime.export.request import Encoding
from runtime.export.weights import HeadWeights, Norm
from scheduler.errors import BundleError
from tests.support.chatglm_checkpoint import Shape, write_checkpoint
from tests.support.mnn_part import MnnPart


@pytest.fixture
def onnx_path(tmp_path):
    write_checkpoint(tmp_path / "c", Shape(hidden=32, heads=2, blocks=1, vocab=64))
    path = tmp_path / "block_0.onnx"
    block = Checkpoint(tmp_path / "c").block(0)
    write_block(path, block, heads=2, layernorm_epsilon=1e-5)
    return path


FP32 = Encoding("fp32")
WEIGHTS = 4 * (12 * 32 * 32 + 9 * 32 + 4 * 32)  # matrices, biases and norms


def refusal(onnx_path, encoding=FP32):
    with pytest.raises(BundleError) as caught:
        convert(onnx_path, onnx_path.with_name("b.mnn"), encoding, WEIGHTS, Event())
    message = str(caught.value)
    assert message.startswith("Converting ")
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_files_of_a_conversion(onnx_path):
    made = convert(onnx_path, onnx_path.with_name("b.mnn"), FP32, WEIGHTS, Event())
    assert [file.name for file in made] == ["b.mnn", "b.mnn.weight"]
    assert WEIGHTS <= made[1].stat().st_size < WEIGHTS + 4096


def test_a_file_that_is_no_model(onnx_path, caplog):
    onnx_path.write_bytes(b"something else")
    with caplog.at_level(logging.ERROR):
        assert "did not report success" in refusal(onnx_path)
    assert "onnx" in caplog.text.lower()


def test_a_missing_file(onnx_path):
    onnx_path.unlink()
    assert "did not report success" in refusal(onnx_path)


def test_a_disk_that_fills_up(onnx_path, monkeypatch):
    """The converter itself would not notice; a limit on the size of files stands in."""
    limits = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000));"
    )
    monkeypatch.setattr(converter, "_CHILD", limits + converter._CHILD)
    assert f"of {WEIGHTS} bytes to b.mnn.weight" in refusal(onnx_path)


def test_a_block_that_does_not_divide_is_noticed(onnx_path):
    """The converter itself would leave the layer as it is and report success."""
    assert "does not divide" in refusal(onnx_path, Encoding("int4", 48))


@pytest.mark.parametrize(
    ("child", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "by signal 11"),
        ("raise SystemExit(3)", "with status 3"),
        ("raise RuntimeError('no memory')", "with status 1"),
        ("print('Converted Success!')", "wrote 0 of 1 bytes to b.mnn"),
        ("pass", "did not report success"),
    ],
)
def test_children_that_fail(onnx_path, monkeypatch, child, said):
    monkeypatch.setattr(converter, "_CHILD", child)
    assert said in refusal(onnx_path)


def test_stop_ends_a_running_child(onnx_path, monkeypatch):
    monkeypatch.setattr(converter, "_CHILD", "import time; time.sleep(600)")
    stop = Event()
    Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoppedError):
        convert(onnx_path, onnx_path.with_name("b.mnn"), FP32, WEIGHTS, stop)
    assert time.monotonic() - began < 300


def test_paths_with_spaces_and_other_scripts(tmp_path):
    folder = tmp_path / "模型 with spaces"
    folder.mkdir()
    rng = np.random.default_rng(0)
    norm = Norm(np.ones(32, np.float32), np.zeros(32, np.float32))
    weight = rng.standard_normal((48, 32)).astype(np.float32)
    write_lm_head(folder / "lm_head.onnx", HeadWeights(norm, weight), layernorm_epsilon=1e-5)
    made = convert(folder / "lm_head.onnx", folder / "lm_head.mnn", FP32, weight.nbytes, Event())
    x = rng.standard_normal((1, 1, 32)).astype(np.float32)
    logits = MnnPart(made[0], ["x"], ["logits"])(x=x)["logits"]
    normed = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    np.testing.assert_allclose(logits, normed @ weight.T, rtol=1e-4, atol=1e-4)
