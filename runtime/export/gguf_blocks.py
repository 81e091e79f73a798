"""Rows of a GGUF tensor: read from the file, dequantised, or as the stored integers and scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.export.gguf_header import TENSOR_TYPES, GgufTensor
from runtime.export.weights import Array
from scheduler.errors import CheckpointError, UserInputError

GROUP = 32  # weights that share a scale in Q4_0, Q4_1 and Q8_0
STORED_BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}  # types whose integers and scales are kept
_VALUES_AT_ONCE = 1 << 20  # dequantisation takes up to about 20 bytes for each

_BLOCKS = {name: (values, size_bytes) for name, values, size_bytes in TENSOR_TYPES.values()}
_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


@dataclass(frozen=True)
class StoredRows:
    """Rows as ``scale * integer + minimum``, one scale and minimum for every `GROUP` weights.

    ``integers`` [rows, width] uint8 from 0 to 15 or 255; ``scales`` and ``minimums``
    [rows, width / GROUP] fp16. All of it is exact: nothing is rounded.
    """

    integers: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float16]
    minimums: npt.NDArray[np.float16]


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
        piece = _dequantise(tensor.type_name, _raw_rows(tensor, first, last))
        if not np.isfinite(piece).all():
            raise CheckpointError(
                f"{tensor.file} has values in {tensor.name} that are no numbers; download it again."
            )
        rows[first - start : last - start] = piece
    return rows


def stored_rows(tensor: GgufTensor, start: int, stop: int) -> StoredRows:
    """Rows ``start`` to ``stop`` of a tensor of a type in `STORED_BITS`.

    Layout: ggml's block_q4_0, block_q4_1 and block_q8_0: fp16 scale (and minimum), then integers;
    of four bits, the low halves of the bytes first. Raises CheckpointError as `dequantised_rows`.
    """
    bits = STORED_BITS[tensor.type_name]
    count, groups = stop - start, tensor.shape[0] // GROUP
    blocks = _raw_rows(tensor, start, stop).reshape(count, groups, -1)
    head = 4 if tensor.type_name == "Q4_1" else 2
    heads = np.ascontiguousarray(blocks[..., :head]).view("<f2").astype(np.float16, copy=False)
    body = blocks[..., head:]
    if bits == 8:
        integers = body ^ np.uint8(0x80)  # two's complement to a distance from -128
    else:
        integers = np.concatenate([body & 0x0F, body >> 4], axis=-1)
    scales = heads[..., 0]
    lowest = np.float32(-(1 << (bits - 1)))
    with np.errstate(over="ignore"):  # a product beyond fp16 is refused below
        minimums = heads[..., 1] if head == 4 else (scales * lowest).astype(np.float16)
    if not (np.isfinite(scales).all() and np.isfinite(minimums).all()):
        raise CheckpointError(
            f"{tensor.file} has scales in {tensor.name} that are no numbers or beyond what fp16"
            " holds; download it again."
        )
    return StoredRows(integers.reshape(count, -1), scales, minimums)


def _raw_rows(tensor: GgufTensor, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Bytes of rows, [rows, bytes of a row]."""
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
