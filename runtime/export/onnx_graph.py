"""OnnxGraph: collects nodes and constants of one graph; weights go to a raw file beside it."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17  # the first with LayerNormalization as one operator
IR_VERSION = 8

Dims = list[int | str]
_COLUMNS_AT_ONCE = 64


class OnnxGraph:
    """A graph being built, and the open file that takes its weights.

    Weights go to ``<path>.data`` as they are added, so memory holds one matrix at a time and no
    protobuf limit (2 GiB) applies; the converter then maps that file and needs 1 GB instead of 2.3
    GB for a 6B block (measured). Weights are always written as fp32: MNN's converter misreads fp16
    external data (seen in 3.6.1). Use as a context manager; the graph is written when the block
    ends without an exception.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._data_path = path.with_name(path.name + ".data")

    def __enter__(self) -> OnnxGraph:
        self._data = self._data_path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.close()
        if kind is None:
            graph = helper.make_graph(
                self._nodes, self._name, self._inputs, self._outputs, self._constants
            )
            opset = helper.make_opsetid("", OPSET)
            model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
            self._path.write_bytes(model.SerializeToString())

    def input(self, name: str, dims: Dims) -> str:
        """Declare an fp32 input; text in ``dims`` names a dynamic axis."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
        return name

    def output(self, name: str, dims: Dims) -> str:
        """Declare an fp32 output; a node must produce ``name``."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add an operator with one output, and return the output's name."""
        self.node_with_outputs(operator, inputs, [output], **attributes)
        return output

    def node_with_outputs(
        self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any
    ) -> list[str]:
        """Add an operator with several outputs, and return their names."""
        self._nodes.append(
            helper.make_node(operator, inputs, outputs, name=outputs[0], **attributes)
        )
        return outputs

    def integers(self, name: str, values: list[int]) -> str:
        """Add a 1-D int64 constant: a shape, axis or split."""
        self._constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        """Add an fp32 scalar."""
        self._constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def weight(self, name: str, array: npt.NDArray[np.float32]) -> str:
        """Add an fp32 constant whose bytes go to the data file."""
        self._declare_weight(name, array.shape)
        np.ascontiguousarray(array, np.float32).tofile(self._data)
        return name

    def transposed_weight(self, name: str, matrix: npt.NDArray[np.float32]) -> str:
        """Add ``matrix`` [rows, columns] as the constant [columns, rows], without a whole copy."""
        rows, columns = matrix.shape
        self._declare_weight(name, (columns, rows))
        for start in range(0, columns, _COLUMNS_AT_ONCE):
            np.ascontiguousarray(matrix[:, start : start + _COLUMNS_AT_ONCE].T).tofile(self._data)
        return name

    def _declare_weight(self, name: str, dims: tuple[int, ...]) -> None:
        tensor = TensorProto(
            name=name,
            data_type=TensorProto.FLOAT,
            dims=dims,
            data_location=TensorProto.EXTERNAL,
        )
        entries = {
            "location": self._data_path.name,
            "offset": str(self._data.tell()),
            "length": str(4 * math.prod(dims)),
        }
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        self._constants.append(tensor)
