"""Weights of ChatGLM-6B's int8 and int4 releases, unpacked to fp32.

They hold one signed value per byte, or two signed 4-bit values with the first in the high half,
and one scale per output row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.export.weights import Array

SCALE_SUFFIX = "_scale"  # of `...weight`, so that `...weight_scale` holds its scales


def stored_columns(columns: int, bits: int) -> int:
    """Bytes of a row that holds ``columns`` values of ``bits`` (4 or 8)."""
    return columns * bits // 8


def unpack(stored: npt.NDArray[np.int8], scale: npt.NDArray[Any], bits: int) -> Array:
    """[rows, bytes] int8 and [rows] scales to [rows, columns] fp32; ``bits`` is 4 or 8."""
    values = stored
    if bits == 4:
        values = np.empty((stored.shape[0], stored.shape[1] * 2), np.int8)
        values[:, 0::2] = stored >> 4  # arithmetic: keeps the sign
        values[:, 1::2] = np.left_shift(stored, 4) >> 4
    return values.astype(np.float32) * scale.astype(np.float32)[:, None]
