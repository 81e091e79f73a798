"""The embedding of a bundle: how its rows are kept, and the rows themselves, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.export.weights import Array, bfloat16_bits
from runtime.manifest import EmbeddingDtype

Rows = Callable[[int, int], Array]
"""Rows of an embedding from one token id up to another, as fp32."""

_ROWS_AT_ONCE = 4096  # 64 MiB of fp32 at width 4096


def exact_dtype(rows: Rows, vocab_size: int) -> EmbeddingDtype:
    """The smallest type that holds every value exactly; bf16 before fp16."""
    left: list[EmbeddingDtype] = ["bf16", "fp16"]
    for some in _chunks(rows, vocab_size):
        left = [dtype for dtype in left if _is_exact(some, dtype)]
        if not left:
            return "fp32"
    return left[0]


def encoded_rows(rows: Rows, vocab_size: int, dtype: EmbeddingDtype) -> Iterator[npt.NDArray[Any]]:
    """All rows in little-endian ``dtype``, which holds them exactly; bf16 as bit patterns.

    Only bf16 may be asked for otherwise: it is then the nearest, ties to even.
    """
    for some in _chunks(rows, vocab_size):
        if dtype == "bf16":
            yield bfloat16_bits(some).astype("<u2", copy=False)
        elif dtype == "fp16":
            yield some.astype("<f2")
        else:
            yield some.astype("<f4", copy=False)


def _chunks(rows: Rows, vocab_size: int) -> Iterator[Array]:
    for start in range(0, vocab_size, _ROWS_AT_ONCE):
        yield rows(start, min(start + _ROWS_AT_ONCE, vocab_size))


def _is_exact(values: Array, dtype: EmbeddingDtype) -> bool:
    if dtype == "bf16":
        return not (values.view(np.uint32) & 0xFFFF).any()
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())
