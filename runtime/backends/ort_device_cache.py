"""Keys and values of a group of rows on a device: made, rearranged and filled there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.backends import ort_graphs
from runtime.backends.ort_device_run import DeviceRun

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroupShape:
    """Rows of a group and the tokens that each has room for."""

    rows: int
    capacity: int


@dataclass
class DeviceCache:
    """One block's keys ("k") and values ("v") of a group, flat as `ort_graphs` says."""

    shape: GroupShape
    values: dict[str, Any]


class CacheMaker:
    """Makes caches out of others, on the device; the host sends numbers and a mask."""

    def __init__(self, run: DeviceRun, kv_heads: int, head_dim: int) -> None:
        self._run = run
        # What a row holds for a slot: [kv_heads x head_dim, slots] of keys, [kv_heads, slots x
        # head_dim] of values.
        self._middle = {"k": kv_heads * head_dim, "v": kv_heads}
        self._step = {"k": 1, "v": head_dim}
        self._rearrange = run.open(ort_graphs.rearrange())
        self._place = run.open(ort_graphs.place())
        copy = run.open(ort_graphs.copies({"cache": 2}))
        self._copy_mask = run.open(ort_graphs.copies({"keep": 3}))
        zeros = {
            side: np.zeros((middle, self._step[side]), np.float32)
            for side, middle in self._middle.items()
        }
        self.nothing = DeviceCache(
            GroupShape(1, 1),
            {
                side: run(copy, {"cache": one}, ["on_device.cache"], "an empty cache")[0]
                for side, one in zeros.items()
            },
        )

    def rearranged(
        self, cache: DeviceCache, shape: GroupShape, sources: Sequence[int]
    ) -> DeviceCache:
        """A cache of this shape, whose row r holds what row sources[r], if any, holds here."""
        held = cache.shape
        # Padding adds a row of zeros behind the others, which stands for nothing.
        picked = [one if 0 <= one < held.rows else held.rows for one in sources]
        made = {}
        for side, value in cache.values.items():
            more = (shape.capacity - held.capacity) * self._step[side]
            given = {
                "cache": value,
                "view": self._view(held, side),
                "pads": _numbers(0, 0, 0, 1, 0, more),
                "picked": _numbers(*picked),
                "flat": _numbers(-1, self._step[side]),
            }
            made[side] = self._run(self._rearrange, given, ["made"], "rearranging its cache")[0]
        return DeviceCache(shape, made)

    def keep_masks(self, shape: GroupShape, row: int, start: int, tokens: int) -> dict[str, Any]:
        """For keys and values: 0 where new tokens of a row go, 1 elsewhere; on the device."""
        masks = {}
        for side, step in self._step.items():
            keep = np.ones((shape.rows, 1, shape.capacity * step), np.float32)
            keep[row, :, start * step : (start + tokens) * step] = 0
            masks[side] = self._run(
                self._copy_mask, {"keep": keep}, ["on_device.keep"], "the copy of a mask"
            )[0]
        return masks

    def place(
        self,
        cache: DeviceCache,
        new: dict[str, Any],
        keep: dict[str, Any],
        row: int,
        start: int,
        tokens: int,
    ) -> None:
        """Put new keys and values of one row behind the `start` tokens that it holds."""
        rows, capacity = cache.shape.rows, cache.shape.capacity
        for side, value in new.items():
            step = self._step[side]
            pads = row, 0, start * step, rows - row - 1, 0, (capacity - start - tokens) * step
            given = {
                "cache": cache.values[side],
                "new": value,
                "keep": keep[side],
                "view": self._view(cache.shape, side),
                "new_view": _numbers(1, self._middle[side], tokens * step),
                "pads": _numbers(*pads),
                "flat": _numbers(-1, step),
            }
            cache.values[side] = self._run(self._place, given, ["made"], "filling its cache")[0]

    def write_one(self, shape: GroupShape, write_at: Sequence[int]) -> dict[str, Numbers]:
        """What `device_block` wants to know to write the one new token of each row.

        Rows of `write_at` -1 are not written; at least one is.
        """
        writes = [(row, start) for row, start in enumerate(write_at) if start >= 0]
        result = {}
        for side, middle in self._middle.items():
            rows = [(row * middle + np.arange(middle), start) for row, start in writes]
            slots = [lines * shape.capacity + start for lines, start in rows]
            result[f"picks_{side}"] = np.concatenate([lines for lines, _ in rows])
            result[f"slots_{side}"] = np.concatenate(slots)[:, None]
        return result

    def _view(self, shape: GroupShape, side: str) -> Numbers:
        return _numbers(shape.rows, self._middle[side], shape.capacity * self._step[side])


def _numbers(*numbers: int) -> Numbers:
    return np.array(numbers, np.int64)
