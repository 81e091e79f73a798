"""Rows of a GGUF tensor: their bytes, and their values as the gguf package dequantises them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.export.gguf_header import TENSOR_TYPES, GgufTensor
from runtime.export.weights import Array
from scheduler.errors import CheckpointError, UserInputError

_VALUES_AT_ONCE = 1 << 20  # dequantisation takes up to about 20 bytes for each

_BLOCKS = {name: (values, size_bytes) for name, values, size_bytes in TENSOR_TYPES.values()}
_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


def dequantised_rows(tensor: GgufTensor, start: int, stop: int) -> Array:
    """Rows ``start`` to ``stop`` as fp32 [rows, width], a piece at a time in memory.

    The arithmetic is the `gguf` package's. Raises CheckpointError for values that are no numbers
    or a file that ends early, UserInputError without that package.
    """
    width = tensor.shape[0]
    rows = np.empty((stop - start, width), np.float32)
    step = max(1, _VALUES_AT_ONCE // width)
    for first in range(start, stop, step):
        last = min(first + step, stop)
        piece = _dequantise(tensor.type_name, raw_rows(tensor, first, last))
        if not np.isfinite(piece).all():
            raise CheckpointError(
                f"{tensor.file} has values in {tensor.name} that are no numbers; download it again."
            )
        rows[first - start : last - start] = piece
    return rows


def raw_rows(tensor: GgufTensor, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Bytes of rows ``start`` to ``stop``, [rows, bytes of a row].

    Raises CheckpointError for a file that ends early or cannot be read.
    """
    values, size_bytes = _BLOCKS[tensor.type_name]
    row_bytes = tensor.shape[0] // values * size_bytes
    wanted = (stop - start) * row_bytes
    try:
        content = np.fromfile(
            tensor.file, np.uint8, wanted, offset=tensor.start + start * row_bytes
        )
    except OSError as error:
        raise CheckpointError(f"{tensor.file} cannot be read: {error.strerror}.") from error
    if content.size != wanted:
        raise CheckpointError(
            f"{tensor.file} ends inside {tensor.name}; it was cut off, download it again."
        )
    return content.reshape(stop - start, row_bytes)


def _dequantise(type_name: str, raw: npt.NDArray[np.uint8]) -> Array:
    if type_name in ("F32", "F16"):
        return raw.view("<f4" if type_name == "F32" else "<f2").astype(np.float32, copy=False)
    dequantise, types = _gguf_package()
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused after
        return np.asarray(dequantise(raw, types(_NUMBERS[type_name])), np.float32)


@lru_cache(maxsize=1)
def _gguf_package() -> tuple[Callable[..., Any], Callable[[int], Any]]:
    # Imported late: the package brings a YAML parser and SentencePiece with it.
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise UserInputError(
            f"Reading GGUF needs the package gguf ({error}): pip install 'glm-plan[export]'."
        ) from error
    return dequantize, GGMLQuantizationType
