"""Stored integers of GGUF's quantised types, as integers with a scale and minimum for 32 weights.

Layouts are those of ggml's block_q4_0 to block_q8_0 and block_q4_K, block_q5_K. Q2_K, Q3_K and Q6_K
have a scale for 16 weights and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from runtime.export.gguf_blocks import raw_rows
from runtime.export.gguf_header import GgufTensor
from runtime.export.quantised_rows import QuantisedRows
from scheduler.errors import CheckpointError

Bytes = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]

GROUP = 32
BITS: Mapping[str, int] = {
    "Q4_0": 4,
    "Q4_1": 4,
    "Q4_K": 4,
    "Q5_0": 5,
    "Q5_1": 5,
    "Q5_K": 5,
    "Q8_0": 8,
}
"""Types that `stored_rows` delivers, and the bits that their integers take."""

FP16_SCALES = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
"""Types whose scales and minimums are fp16 values; those of the others are products of two."""


def stored_rows(tensor: GgufTensor, start: int, stop: int) -> QuantisedRows:
    """Rows ``start`` to ``stop`` of a tensor of a type in `BITS`; nothing is rounded.

    Raises CheckpointError for scales that are no numbers or a file that ends early.
    """
    raw = raw_rows(tensor, start, stop)
    shape = (stop - start, tensor.shape[0])
    integers, scales, minimums = _UNPACK[tensor.type_name](raw.reshape(-1, _sizes(tensor)))
    if not (np.isfinite(scales).all() and np.isfinite(minimums).all()):
        raise CheckpointError(
            f"{tensor.file} has scales in {tensor.name} that are no numbers; download it again."
        )
    groups = (shape[0], shape[1] // GROUP)
    return QuantisedRows(integers.reshape(shape), scales.reshape(groups), minimums.reshape(groups))


def _sizes(tensor: GgufTensor) -> int:
    """Bytes of one block."""
    values = 256 if tensor.type_name.endswith("_K") else GROUP
    return tensor.size_bytes // (int(np.prod(tensor.shape, dtype=np.int64)) // values)


def _halves(blocks: Bytes, start: int, count: int) -> Values:
    """fp16 values from byte ``start`` of each block."""
    part = np.ascontiguousarray(blocks[:, start : start + 2 * count])
    return part.view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """The low halves of some bytes, then their high halves."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=-1)


def _high_bits(packed: Bytes) -> Bytes:
    """One bit for each of 32 weights, the lowest bit first, in the place of a fifth bit."""
    found: Bytes = np.unpackbits(packed, axis=-1, bitorder="little") * np.uint8(16)
    return found


def _symmetric(lowest: int, integers: Callable[[Bytes], Bytes]) -> _Unpack:
    """A scale, then integers from ``lowest``."""

    def unpack(blocks: Bytes) -> _Parts:
        scales = _halves(blocks, 0, 1)
        return integers(blocks[:, 2:]), scales, scales * np.float32(lowest)

    return unpack


def _with_minimum(integers: Callable[[Bytes], Bytes]) -> _Unpack:
    """A scale and a minimum, then integers from 0."""

    def unpack(blocks: Bytes) -> _Parts:
        return integers(blocks[:, 4:]), _halves(blocks, 0, 1), _halves(blocks, 2, 1)

    return unpack


def _five_bits(body: Bytes) -> Bytes:
    return _nibbles(body[:, 4:]) | _high_bits(body[:, :4])


def _super_block(five_bits: bool) -> _Unpack:
    """Eight groups whose 6-bit scales and minimums are multiples of two fp16 values."""

    def unpack(blocks: Bytes) -> _Parts:
        whole = _halves(blocks, 0, 2)
        low, middle, high = (blocks[:, at : at + 4] for at in (4, 8, 12))
        scales = np.concatenate([low & 0x3F, high & 0x0F | low >> 2 & 0x30], axis=-1)
        minimums = np.concatenate([middle & 0x3F, high >> 4 | middle >> 2 & 0x30], axis=-1)
        packed = blocks[:, 48 if five_bits else 16 :].reshape(len(blocks), 4, GROUP)
        integers = _nibbles(packed).reshape(len(blocks), 8, GROUP)
        if five_bits:
            bit = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
            integers = integers | bit * np.uint8(16)
        return integers, whole[:, :1] * scales, -(whole[:, 1:] * minimums)

    return unpack


_Parts = tuple[Bytes, Values, Values]
_Unpack = Callable[[Bytes], _Parts]
_UNPACK: Mapping[str, _Unpack] = {
    "Q4_0": _symmetric(-8, _nibbles),
    "Q4_1": _with_minimum(_nibbles),
    "Q5_0": _symmetric(-16, _five_bits),
    "Q5_1": _with_minimum(_five_bits),
    "Q8_0": _symmetric(-128, lambda body: body ^ np.uint8(0x80)),  # two's complement
    "Q4_K": _super_block(five_bits=False),
    "Q5_K": _super_block(five_bits=True),
}
