"""Keys and values of a group of rows in one block, in host memory that ONNX Runtime reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.backends.protocol import FloatArray


class HostCache:
    """Keys [rows, kv_heads, head_dim, capacity], values [rows, kv_heads, capacity, head_dim].

    Memory starts as zeros: what is masked must still be finite.
    """

    def __init__(self, keys_shape: tuple[int, ...], values_shape: tuple[int, ...]) -> None:
        self.keys: FloatArray = np.zeros(keys_shape, np.float32)
        self.values: FloatArray = np.zeros(values_shape, np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and capacity."""
        return self.keys.shape[0], self.keys.shape[3]

    def rearranged(self, made: HostCache, sources: Sequence[int]) -> HostCache:
        """The empty cache `made`, with row r holding what row sources[r], if any, holds here."""
        kept = min(self.shape[1], made.shape[1])
        for row, source in enumerate(sources):
            if 0 <= source < len(self.keys):
                made.keys[row, :, :, :kept] = self.keys[source, :, :, :kept]
                made.values[row, :, :kept] = self.values[source, :, :kept]
        return made

    def store(self, row: int, start: int, new_k: FloatArray, new_v: FloatArray) -> None:
        """Put new keys [kv_heads, head_dim, S] and values [kv_heads, S, head_dim] into a row."""
        end = start + new_v.shape[1]
        self.keys[row, :, :, start:end] = new_k
        self.values[row, :, start:end] = new_v

    def copy_row(self, row: int, tokens: int, to: HostCache) -> None:
        """Copy the first tokens of a row into the only row of another cache."""
        to.keys[0, :, :, :tokens] = self.keys[row, :, :, :tokens]
        to.values[0, :, :tokens] = self.values[row, :, :tokens]
