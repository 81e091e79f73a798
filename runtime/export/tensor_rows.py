"""Rows of a stored tensor as fp32, converted in chunks so that only the result is large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from runtime.export.tensor_files import TensorFiles
from runtime.export.weights import Array
from scheduler.errors import CheckpointError

SourcePrecision = Literal["fp32", "fp16", "bf16", "int8", "int4"]

FLOATS: Mapping[str, SourcePrecision] = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
}
"""Types of weights by NumPy's name, the widest first."""

_CHUNK_VALUES = 1 << 24  # converted at a time: 64 MiB of fp32

Decode = Callable[[npt.NDArray[Any], slice], npt.NDArray[Any]]
"""From stored rows, and which rows they are, to their values."""


def read_rows(
    tensors: TensorFiles,
    name: str,
    rows: slice,
    columns: tuple[int, ...],
    decode: Decode = lambda stored, _: stored,
) -> Array:
    """Some rows of a tensor, each of the shape ``columns`` once it is decoded.

    Raises CheckpointError for NaN or infinite values.
    """
    values: Array = np.empty((rows.stop - rows.start, *columns), np.float32)
    step = max(1, _CHUNK_VALUES // max(1, *columns, 1))
    for first in range(rows.start, rows.stop, step):
        some = slice(first, min(first + step, rows.stop))
        chunk = decode(tensors.read(name, some), some)
        if not np.isfinite(chunk).all():
            raise CheckpointError(
                f"{tensors.where(name)} has NaN or infinite values in {name}; the checkpoint is"
                " damaged."
            )
        values[some.start - rows.start : some.stop - rows.start] = chunk
    return values
