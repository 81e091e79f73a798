"""Keys and values in the memory that MNN reads: written in place, resized block by block."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from MNN import expr

from runtime.backends.protocol import FloatArray

_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class HostVar:
    """An MNN input and a writable NumPy view of its memory; they live and die together."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.var = expr.const(np.zeros(shape, np.float32), list(shape), expr.NCHW, expr.float)
        self.array = _view(self.var)


@dataclass(frozen=True)
class CacheShape:
    """Of the cache of a group in one block."""

    rows: int
    kv_heads: int
    head_dim: int
    capacity: int


class BlockCache:
    """Keys [rows, kv_heads, head_dim, capacity], values [rows, kv_heads, capacity, head_dim].

    Memory starts as zeros: what is masked must still be finite.
    """

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        rows, heads, dim, capacity = shape.rows, shape.kv_heads, shape.head_dim, shape.capacity
        self.keys = HostVar((rows, heads, dim, capacity))
        self.values = HostVar((rows, heads, capacity, dim))

    def rearranged(self, shape: CacheShape, sources: Sequence[int]) -> BlockCache:
        """A new cache in this shape, whose row r holds what row sources[r], if any, held here."""
        made = BlockCache(shape)
        held = len(self.keys.array)
        kept = min(self.keys.array.shape[3], shape.capacity)
        for row, source in enumerate(sources):
            if 0 <= source < held:
                made.keys.array[row, :, :, :kept] = self.keys.array[source, :, :, :kept]
                made.values.array[row, :, :kept] = self.values.array[source, :, :kept]
        return made

    def store(self, row: int, start: int, new_k: FloatArray, new_v: FloatArray) -> None:
        """Put new keys [kv_heads, head_dim, S] and values [kv_heads, S, head_dim] into a row."""
        end = start + new_v.shape[1]
        self.keys.array[row, :, :, start:end] = new_k
        self.values.array[row, :, start:end] = new_v

    def copy_row(self, row: int, tokens: int, to: BlockCache) -> None:
        """Copy the first tokens of a row into the only row of another cache."""
        to.keys.array[0, :, :, :tokens] = self.keys.array[row, :, :, :tokens]
        to.values.array[0, :, :tokens] = self.values.array[row, :, :tokens]


def _view(var: Any) -> FloatArray:
    """A view of a Var's memory, valid while the Var lives (read() may give a copy of an input)."""
    shape = tuple(var.shape)
    capsule = var.ptr
    address = _get_pointer(capsule, _get_name(capsule))
    memory = (ctypes.c_float * math.prod(shape)).from_address(address)
    return np.ctypeslib.as_array(memory).reshape(shape)
