"""The quantised linear layers of an .mnn file, and their integers and scales beside it.

MNN keeps a layer in ``<name>.mnn.weight`` as a head (how many groups of how many weights, and the
list of all integers in rising order), its integers row by row, of four bits two in a byte with the
first in the high half, and a minimum and a scale for each group of weights of a row: a weight is
``scale * integer + minimum``. Fields are numbered in MNN's schema (schema/default/MNN.fbs and
CaffeOp.fbs), the bytes are those that source/core/IDSTEncoder.hpp writes; both as MNN 3.6.1 has
them, and anything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.export.flatbuffer import Table
from runtime.export.quantised_rows import QuantisedRows
from scheduler.errors import BundleError

_NET_OPS = 3
_OP_KIND, _OP_CONTENT, _OP_NAME = 1, 2, 3
_CONVOLUTION = 9  # number of Convolution2D among the kinds of an operator
_COMMON, _QUANTISED, _EXTERNAL = 0, 3, 6  # fields of Convolution2D
_ROWS, _WIDTH = 10, 11  # outputCount and inputCount of Convolution2DCommon
_FORM, _BITS, _PAIRS, _WIDE_DIMS, _SCALE_KIND = 2, 7, 9, 11, 15  # fields of IDSTQuan
_INTEGERS, _FP16_SCALES = 1, 1
_NAME_END = "__matmul_converted"  # of a constant MatMul that became a 1x1 convolution


@dataclass(frozen=True)
class MnnLayer:
    """Where one layer's values are in the weight file: byte offsets, ``group`` weights a scale."""

    name: str
    bits: int
    rows: int
    width: int
    group: int
    integers_at: int
    scales_at: int


def quantised_layers(mnn_path: Path) -> dict[str, MnnLayer]:
    """Layers with a minimum and a scale in fp16 for each group, by their name in the ONNX graph.

    Raises BundleError for a file of another form than MNN 3.6.1 writes.
    """
    try:
        return {layer.name: layer for layer in _layers(mnn_path)}
    except ValueError as error:
        raise BundleError(
            f"{mnn_path.name} is not built as MNN 3.6.1 builds it ({error}); install the version"
            " that constraints.txt names."
        ) from error


def read_rows(weights: Path, layer: MnnLayer, start: int, stop: int) -> QuantisedRows:
    """Rows ``start`` to ``stop`` of a layer."""
    place, row_bytes = _integers_place(layer, start)
    packed = np.fromfile(weights, np.uint8, (stop - start) * row_bytes, offset=place)
    if layer.bits == 4:
        packed = np.stack([packed >> 4, packed & 0x0F], axis=-1)
    place, row_pairs = _pairs_place(layer, start)
    pairs = np.fromfile(weights, "<f2", (stop - start) * row_pairs * 2, offset=place)
    pairs = pairs.reshape(stop - start, row_pairs, 2).astype(np.float32)
    return QuantisedRows(packed.reshape(stop - start, layer.width), pairs[..., 1], pairs[..., 0])


def write_rows(weights: Path, layer: MnnLayer, start: int, rows: QuantisedRows) -> None:
    """Replace rows of a layer from ``start`` on; the file keeps its size.

    Scales and minimums are stored as fp16: what is not is rounded.
    """
    packed = rows.integers
    if layer.bits == 4:
        packed = packed[:, 0::2] * np.uint8(16) + packed[:, 1::2]
    pairs = np.stack([rows.minimums, rows.scales], axis=-1).astype("<f2")
    with weights.open("r+b") as file:
        file.seek(_integers_place(layer, start)[0])
        file.write(packed.tobytes())
        file.seek(_pairs_place(layer, start)[0])
        file.write(pairs.tobytes())


def _integers_place(layer: MnnLayer, row: int) -> tuple[int, int]:
    """Where the integers of a row begin, and how many bytes a row takes."""
    row_bytes = layer.width * layer.bits // 8
    return layer.integers_at + row * row_bytes, row_bytes


def _pairs_place(layer: MnnLayer, row: int) -> tuple[int, int]:
    """Where minimums and scales of a row begin, and how many pairs a row has."""
    row_pairs = layer.width // layer.group
    return layer.scales_at + row * row_pairs * 4, row_pairs


def _layers(mnn_path: Path) -> Iterator[MnnLayer]:
    weights = mnn_path.with_name(mnn_path.name + ".weight")
    for operator in Table.root(mnn_path.read_bytes()).tables(_NET_OPS):
        if operator.number(_OP_KIND, "B") != _CONVOLUTION:
            continue
        content = operator.table(_OP_CONTENT)
        form = content.table(_QUANTISED) if content else None
        if content is not None and form is not None and form.number(_FORM, "i") == _INTEGERS:
            yield _layer(operator.text(_OP_NAME), content, form, weights)


def _layer(name: str, content: Table, form: Table, weights: Path) -> MnnLayer:
    common = content.table(_COMMON)
    rows, width = (common.number(one, "i") if common else 0 for one in (_ROWS, _WIDTH))
    bits = form.number(_BITS, "i")
    external = content.numbers(_EXTERNAL, "q")
    if bits not in (4, 8) or min(rows, width) < 1 or len(external) < 3:
        raise ValueError(f"{name} has {bits} bits, {rows} rows, {width} columns")
    start, size_bytes, scales_bytes = external[:3]
    if form.number(_PAIRS, "i") < 1 or form.number(_SCALE_KIND, "B") != _FP16_SCALES:
        raise ValueError(f"{name} has no minimum and scale in fp16 for each group")
    dim, lowest = np.dtype("<u4" if form.number(_WIDE_DIMS, "B") else "<u2"), 1 << (bits - 1)
    with weights.open("rb") as file:
        file.seek(start)
        head = file.read(2 + 2 * dim.itemsize + (1 << bits))
    groups = scales_bytes // 4
    if not groups or rows * width % groups or width % (group := rows * width // groups):
        raise ValueError(f"{name} has {scales_bytes} bytes of scales")
    expected = (
        bytes([2])
        + np.array([groups, group], dim).tobytes()
        + bytes([(1 << bits) % 256])
        + np.arange(-lowest, lowest, dtype=np.int8).tobytes()
    )
    if head != expected or size_bytes != len(head) + rows * width * bits // 8:
        raise ValueError(f"{name} begins otherwise than {groups} groups of {group} integers do")
    stem = name.removesuffix(_NAME_END)
    return MnnLayer(stem, bits, rows, width, group, start + len(head), start + size_bytes)
