"""One part's fp32 ONNX graph in the encodings that ONNX Runtime reads.

Every constant matrix of a MatMul is stored as asked; norms, biases and all else stay as they are.
fp32 keeps the MatMul. int8 and int4 become `MatMulNBits` of ONNX Runtime. fp16 is stored as fp16
in front of a Cast to fp32, which ONNX Runtime folds at load.

WebGPU promises every device a storage buffer binding of 128 MiB and no more (W3C WebGPU, limits:
maxStorageBufferBindingSize), so larger matrices are cut into pieces by their outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from runtime.export.ort_quantise import quantise_rows
from runtime.export.request import Encoding
from runtime.export.weights import Array
from scheduler.errors import BundleError

LARGEST_MATRIX_BYTES = 128 << 20
_CONTRIB_DOMAIN = "com.microsoft"
# Where a large tensor begins: what Windows wants of a memory map (64 KiB); Linux wants a page.
_ALIGNMENT = 1 << 16
_LARGE_BYTES = 1 << 20
_ROWS_AT_ONCE = 256
# CPU provider: 4 computes in int8 after quantising activations per block, as MNN does.
_ACCURACY_LEVEL = 4

_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.uint8): TensorProto.UINT8,
}


def encode(onnx_path: Path, out_path: Path, encoding: Encoding) -> list[Path]:
    """Write the graph of ``onnx_path`` in ``encoding``; returns ``out_path`` and its data file.

    The same graph and encoding give the same bytes. For fp16 the weights must be within its range
    already. Raises BundleError when the disk fails.
    """
    model = onnx.load(str(onnx_path), load_external_data=False)
    constants = {one.name: one for one in model.graph.initializer}
    data_path = out_path.with_name(out_path.name + ".data")
    try:
        with _Writer(onnx_path, data_path) as writer:
            for node in model.graph.node:
                matrix = constants.get(node.input[1]) if node.op_type == "MatMul" else None
                if matrix is not None and len(matrix.dims) == 2:
                    writer.linear(node, matrix, encoding)
                    del constants[matrix.name]
                else:
                    writer.nodes.append(node)
            for constant in constants.values():
                writer.keep(constant)
    except OSError as error:
        raise BundleError(
            f"Writing {data_path} failed: {error.strerror or error}; check the free disk space."
        ) from error
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(writer.nodes)
    model.graph.initializer.extend(writer.constants)
    model.opset_import.append(helper.make_opsetid(_CONTRIB_DOMAIN, 1))
    out_path.write_bytes(model.SerializeToString(deterministic=True))
    return [out_path, data_path]


class _Writer:
    """The new graph's nodes and constants, and the open file that takes its weights."""

    def __init__(self, source: Path, data_path: Path) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._source = source
        self._data_path = data_path

    def __enter__(self) -> _Writer:
        self._data = self._data_path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.close()

    def keep(self, constant: onnx.TensorProto) -> None:
        """A constant as it was."""
        if constant.data_location == TensorProto.EXTERNAL:
            array = self._read(constant)
            self._declare(constant.name, array.dtype, tuple(constant.dims))
            array.tofile(self._data)
        else:
            self.constants.append(constant)

    def linear(self, node: onnx.NodeProto, constant: onnx.TensorProto, encoding: Encoding) -> None:
        """A MatMul with a constant [inner, outputs], in as many pieces as its size wants."""
        matrix = self._read(constant)
        name, (inner, outputs) = constant.name, matrix.shape
        pieces = list(_pieces(inner, outputs, encoding))
        made = []
        for number, (start, end) in enumerate(pieces):
            suffix = f".piece{number}" if len(pieces) > 1 else ""
            target = node.output[0] + suffix
            columns = matrix[:, start:end]
            if encoding.precision in ("int8", "int4"):
                self._quantised(node.input[0], f"{name}{suffix}", columns, target, encoding)
            else:
                self._plain(node.input[0], f"{name}{suffix}", columns, target, encoding)
            made.append(target)
        if len(made) > 1:
            self.nodes.append(
                helper.make_node("Concat", made, list(node.output), name=node.output[0], axis=-1)
            )

    def _plain(self, x: str, name: str, columns: Array, target: str, encoding: Encoding) -> None:
        half = encoding.precision == "fp16"
        stored = f"{name}.fp16" if half else name
        self._declare(stored, np.dtype(np.float16 if half else np.float32), columns.shape)
        for start in range(0, len(columns), _ROWS_AT_ONCE):
            some = np.ascontiguousarray(columns[start : start + _ROWS_AT_ONCE])
            some.astype(np.float16 if half else np.float32, copy=False).tofile(self._data)
        if half:
            cast = helper.make_node("Cast", [stored], [name], name=name, to=TensorProto.FLOAT)
            self.nodes.append(cast)
        self.nodes.append(helper.make_node("MatMul", [x, name], [target], name=target))

    def _quantised(
        self, x: str, name: str, columns: Array, target: str, encoding: Encoding
    ) -> None:
        inner, outputs = columns.shape
        bits, block = int(encoding.precision.removeprefix("int")), encoding.weight_block
        assert block is not None
        some = [
            quantise_rows(np.ascontiguousarray(columns[:, at : at + _ROWS_AT_ONCE].T), bits, block)
            for at in range(0, outputs, _ROWS_AT_ONCE)
        ]
        inputs = [x]
        for part in ("codes", "scales", "zero_points"):
            array: npt.NDArray[Any] = np.concatenate([getattr(one, part) for one in some])
            # The shapes of the documentation; scales and zero points also pass flat.
            self._declare(f"{name}.{part}", array.dtype, array.shape)
            array.tofile(self._data)
            inputs.append(f"{name}.{part}")
        node = helper.make_node(
            "MatMulNBits",
            inputs,
            [target],
            name=target,
            domain=_CONTRIB_DOMAIN,
            K=inner,
            N=outputs,
            bits=bits,
            block_size=block,
            accuracy_level=_ACCURACY_LEVEL,
        )
        self.nodes.append(node)

    def _read(self, constant: onnx.TensorProto) -> Array:
        where = {entry.key: entry.value for entry in constant.external_data}
        return np.memmap(
            self._source.with_name(where["location"]),
            np.float32,
            "r",
            int(where["offset"]),
            tuple(constant.dims),
        )

    def _declare(self, name: str, dtype: np.dtype[Any], dims: tuple[int, ...]) -> None:
        """Note where the constant's bytes begin, which is where the next write goes."""
        length = dtype.itemsize * math.prod(dims)
        if length >= _LARGE_BYTES:
            self._data.write(bytes(-self._data.tell() % _ALIGNMENT))
        tensor = TensorProto(
            name=name, data_type=_TYPES[dtype], dims=dims, data_location=TensorProto.EXTERNAL
        )
        entries = {"location": self._data_path.name, "offset": self._data.tell(), "length": length}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        self.constants.append(tensor)


def _pieces(inner: int, outputs: int, encoding: Encoding) -> Iterator[tuple[int, int]]:
    """Ranges of outputs of about one size, none of more bytes than a binding may have."""
    bits = {"fp32": 32, "fp16": 32, "int8": 8, "int4": 4}[encoding.precision]  # fp16 is widened
    most = max(LARGEST_MATRIX_BYTES * 8 // (inner * bits), 1)
    step = -(-outputs // -(-outputs // most))
    for start in range(0, outputs, step):
        yield start, min(start + step, outputs)
