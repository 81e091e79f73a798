"""The id in an .mnn file: derived from contents, and refused where it is not found."""

from __future__ import annotations

import re
from threading import Event

import pytest

from runtime.export.block_graph import write_block
from runtime.export.checkpoint import Checkpoint
from runtime.export.converter import convert
from runtime.export.model_id import set_model_id
from runtime.export.request import Encoding
from scheduler.errors import BundleError
from tests.support.chatglm_checkpoint import Shape, write_checkpoint

FP32 = Encoding("fp32")
ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def converted(folder, seed=0, encoding=FP32):
    write_checkpoint(folder / "c", Shape(hidden=32, heads=2, blocks=1, vocab=64), seed=seed)
    onnx_path = folder / "block_0.onnx"
    write_block(onnx_path, Checkpoint(folder / "c").block(0), heads=2, layernorm_epsilon=1e-5)
    graph, weights = convert(onnx_path, folder / "b.mnn", encoding, 1, Event())
    return graph.read_bytes(), weights.read_bytes()


@pytest.fixture
def folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "two"


@pytest.mark.parametrize("encoding", [Encoding("fp32"), Encoding("int8"), Encoding("int4", 32)])
def test_same_weights_same_bytes(folders, encoding):
    one, two = (converted(folder, encoding=encoding) for folder in folders)
    assert one == two


def test_other_weights_another_id(folders):
    one, two = (converted(folder, seed)[0] for seed, folder in enumerate(folders))
    assert ID.sub(b"", one) == ID.sub(b"", two)
    assert ID.findall(one) != ID.findall(two)


@pytest.mark.parametrize("harm", ["empty", "short", "text", "no id"])
def test_an_unknown_format_is_refused(folders, harm):
    graph, _ = converted(folders[0])
    path, weights = folders[0] / "b.mnn", folders[0] / "b.mnn.weight"
    broken = {
        "empty": b"",
        "short": graph[:20],
        "text": b"\xff" * 400,
        "no id": ID.sub(b"x" * 36, graph),
    }[harm]
    path.write_bytes(broken)
    with pytest.raises(BundleError, match="no id where MNN 3 keeps it"):
        set_model_id(path, weights)
    assert path.read_bytes() == broken
