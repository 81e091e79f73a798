"""One MNN file, run by itself, with any named tensor of its graph as an output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import MNN
import numpy as np
from MNN import expr, nn

from runtime.backends.mnn import runtime_manager
from runtime.backends.protocol import FloatArray
from scheduler.errors import EngineError


class TracedPart:
    """A loaded part, as stages on a CPU run it; ``outputs`` may name tensors inside the graph.

    Raises EngineError when MNN cannot load the file or fails in it.
    """

    def __init__(
        self,
        path: Path,
        inputs: list[str],
        outputs: list[str],
        threads: int,
        fine_scales: bool = False,
    ) -> None:
        self._path = path
        self._inputs, self._outputs = inputs, outputs
        self._manager = runtime_manager("cpu", threads, fine_scales)
        try:
            self._module = nn.load_module_from_file(
                str(path), inputs, outputs, runtime_manager=self._manager, shape_mutable=True
            )
        except SystemError as error:
            raise EngineError(
                f"MNN {MNN.version()} cannot load {path}: the file is damaged or memory ran out."
            ) from error

    def __call__(self, **arrays: FloatArray) -> dict[str, FloatArray]:
        """Run it on fp32 arrays by input name; returns copies by output name."""
        results = self._module.onForward([_variable(arrays[name]) for name in self._inputs])
        if len(results) != len(self._outputs):
            raise EngineError(f"MNN failed in {self._path}; most likely memory ran out.")
        return {
            name: np.array(result.read(), copy=True)
            for name, result in zip(self._outputs, results, strict=True)
        }


def _variable(array: FloatArray) -> Any:
    shape = list(array.shape)
    if array.size == 0:  # an empty cache has no data to copy
        return expr.placeholder(shape, expr.NCHW, expr.float)
    return expr.const(np.ascontiguousarray(array, np.float32), shape, expr.NCHW, expr.float)
