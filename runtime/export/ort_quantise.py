"""Weights in the layout of ONNX Runtime's `MatMulNBits`, quantised with NumPy.

The layout is that of the operator's documentation (ONNX Runtime, docs/ContribOperators.md,
com.microsoft.MatMulNBits): values of a row are cut into blocks along the inner dimension; a block
has one scale and one zero point, and value = (code - zero point) x scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.export.weights import Array

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class QuantisedRows:
    """Rows of a matrix: ``codes`` [rows, blocks, bytes of a block], low half of a byte first.

    ``scales`` [rows, blocks] fp32; ``zero_points`` [rows, bytes], packed as the codes are, a row
    beginning at a whole byte.
    """

    codes: Codes
    scales: Array
    zero_points: Codes


def quantise_rows(rows: Array, bits: int, block: int) -> QuantisedRows:
    """Quantise fp32 ``rows`` [rows, inner] to ``bits`` (4 or 8) with a scale per ``block`` values.

    Asymmetric: the range of a block, widened to hold zero, is mapped onto all codes. A last block
    that is cut short is filled with zeros.
    """
    count, inner = rows.shape
    blocks = -(-inner // block)
    if inner % block:
        rows = np.pad(rows, ((0, 0), (0, blocks * block - inner)))
    parts = rows.reshape(count, blocks, block)
    top = np.float32((1 << bits) - 1)
    low = np.minimum(parts.min(axis=2), 0)
    scales = (np.maximum(parts.max(axis=2), 0) - low) / top
    scales[scales == 0] = 1  # a block of zeros
    zeros = np.clip(np.rint(-low / scales), 0, top)
    codes = parts / scales[:, :, None]
    np.rint(codes, out=codes)
    codes += zeros[:, :, None]
    np.clip(codes, 0, top, out=codes)
    return QuantisedRows(
        _packed(codes.astype(np.uint8), bits), scales, _packed(zeros.astype(np.uint8), bits)
    )


def dequantised(rows: QuantisedRows, bits: int, inner: int) -> Array:
    """The fp32 values [rows, inner] that ``rows`` stand for."""
    count, blocks = rows.scales.shape
    codes = _unpacked(rows.codes, bits).reshape(count, blocks, -1).astype(np.float32)
    zeros = _unpacked(rows.zero_points, bits)[:, :blocks].astype(np.float32)
    values = (codes - zeros[:, :, None]) * rows.scales[:, :, None]
    return values.reshape(count, -1)[:, :inner]


def _packed(values: Codes, bits: int) -> Codes:
    """Two 4-bit values to a byte along the last axis, the first one in the low half."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        widths: list[Any] = [(0, 0)] * (values.ndim - 1)
        values = np.pad(values, [*widths, (0, 1)])
    low, high = values[..., 0::2], np.left_shift(values[..., 1::2], 4, dtype=np.uint8)
    return np.bitwise_or(low, high, dtype=np.uint8)


def _unpacked(stored: Codes, bits: int) -> Codes:
    if bits == 8:
        return stored
    return np.stack((stored & 15, stored >> 4), axis=-1).reshape(*stored.shape[:-1], -1)
