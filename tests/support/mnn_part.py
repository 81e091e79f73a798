"""Run one part of a bundle with the real MNN, in the test's own process."""

from __future__ import annotations

from pathlib import Path

import MNN
import numpy as np


class MnnPart:
    """A loaded .mnn file: call it with arrays by input name, get copies by output name."""

    def __init__(self, path: Path, inputs: list[str], outputs: list[str], low: bool = False):
        # memory 2 computes from int8/int4 weights as they are; 0 expands them to fp32.
        config = {"backend": "CPU", "numThread": 1, "memory": 2 if low else 0}
        self._manager = MNN.nn.create_runtime_manager((config,))
        self._inputs, self._outputs = inputs, outputs
        self._module = MNN.nn.load_module_from_file(
            str(path), inputs, outputs, runtime_manager=self._manager, shape_mutable=True
        )

    def __call__(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        variables = [_variable(arrays[name]) for name in self._inputs]
        results = self._module.onForward(variables)
        assert len(results) == len(self._outputs), "MNN's forward failed"
        return {
            name: np.array(result.read())
            for name, result in zip(self._outputs, results, strict=True)
        }


def _variable(array: np.ndarray):
    array = np.ascontiguousarray(array, np.float32)
    if array.size == 0:
        return MNN.expr.placeholder(list(array.shape), MNN.expr.NCHW, MNN.expr.float)
    return MNN.expr.const(array, list(array.shape), MNN.expr.NCHW, MNN.expr.float)
