"""One ONNX file, run by itself on the CPU, with any named tensor of its graph as an output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from runtime.backends.ort_graphs import load_graph
from runtime.backends.ort_session import open_session, run_once
from runtime.backends.protocol import FloatArray


class OrtTracedPart:
    """A loaded part; ``outputs`` may name tensors inside the graph.

    Raises EngineError when ONNX Runtime cannot load the file or fails in it.
    """

    def __init__(self, path: Path, outputs: list[str], threads: int) -> None:
        model = load_graph(path)
        declared = {one.name for one in model.graph.output}
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in outputs
            if name not in declared
        )
        self._session = open_session(model.SerializeToString(), "cpu", threads, path.parent)

    def __call__(self, **arrays: FloatArray) -> dict[str, FloatArray]:
        """Run it on fp32 arrays by input name; returns arrays by output name."""
        given = {name: np.ascontiguousarray(one, np.float32) for name, one in arrays.items()}
        return run_once(self._session, **given)
