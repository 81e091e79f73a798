"""Rows of a matrix as small integers with a scale and a minimum for each group of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.export.weights import Array


@dataclass(frozen=True)
class QuantisedRows:
    """Some rows of a matrix, each group of weights ``scale * integer + minimum``.

    ``integers`` [rows, width] uint8 from 0; ``scales`` and ``minimums`` [rows, width / group] fp32.
    """

    integers: npt.NDArray[np.uint8]
    scales: Array
    minimums: Array

    def values(self) -> Array:
        """The weights in fp32, multiplied and added in fp32."""
        groups = self.integers.reshape(*self.scales.shape, -1).astype(np.float32)
        groups *= self.scales[..., None]
        groups += self.minimums[..., None]
        return groups.reshape(self.integers.shape)

    def at(self, rows: slice | npt.NDArray[np.intp]) -> QuantisedRows:
        """Some of the rows."""
        return QuantisedRows(self.integers[rows], self.scales[rows], self.minimums[rows])

    def with_fp16_scales(self) -> QuantisedRows:
        """Scales and minimums at their nearest fp16 values, infinite where fp16 ends."""
        with np.errstate(over="ignore"):
            scales, minimums = (
                one.astype(np.float16).astype(np.float32) for one in (self.scales, self.minimums)
            )
        return QuantisedRows(self.integers, scales, minimums)
