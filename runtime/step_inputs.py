"""What a forward needs beside hidden states: mask, positions and rotary tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.rotary import Rotary
from runtime.rotary_speeds import rotary_speeds

MASKED = np.float32(-10000.0)  # the published model's value; exp() of it is exactly 0 in fp32

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One sequence in the batch.

    `cached`: tokens whose keys and values are in the cache. The others are ChatGLM-6B's and stay 0
    in causal families. `context_end`: index of `<sop>`; everything below it is seen by everyone.
    `mask_position`: index of `[gMASK]` (or `[MASK]`), the position that generated tokens repeat.
    """

    cached: int
    context_end: int = 0
    mask_position: int = 0


def attention_mask(rows: list[Row], new_tokens: int, capacity: int) -> FloatArray:
    """Additive mask [rows, 1, new_tokens, capacity + new_tokens]: 0 if visible, else MASKED.

    The last axis lists the cache's slots first, then the new tokens. A token sees every token of
    the context and every token up to itself (bidirectional below `context_end`, causal from there
    on).
    """
    mask = np.full((len(rows), 1, new_tokens, capacity + new_tokens), MASKED, np.float32)
    for row, sequence in enumerate(rows):
        mask[row, 0, :, : sequence.cached] = 0.0
        index = np.arange(sequence.cached, sequence.cached + new_tokens)
        visible = (index[None, :] < sequence.context_end) | (index[None, :] <= index[:, None])
        mask[row, 0, :, capacity:][visible] = 0.0
    return mask


def positions(rows: list[Row], new_tokens: int) -> npt.NDArray[np.int64]:
    """Positions [rows, 1, new_tokens] of causal families: every token's index in its sequence."""
    cached = np.array([row.cached for row in rows], np.int64)
    return (cached[:, None] + np.arange(new_tokens))[:, None]


def two_positions(rows: list[Row], new_tokens: int) -> npt.NDArray[np.int64]:
    """ChatGLM-6B's positions [rows, 2, new_tokens]: in the text, then in the generated block.

    Below `context_end`: (index, 0). From there on: (index of the mask token, 1, 2, 3, ...).
    """
    result = np.empty((len(rows), 2, new_tokens), np.int64)
    for row, sequence in enumerate(rows):
        index = np.arange(sequence.cached, sequence.cached + new_tokens)
        generated = index >= sequence.context_end
        result[row, 0] = np.where(generated, sequence.mask_position, index)
        result[row, 1] = np.where(generated, index - sequence.context_end + 1, 0)
    return result


class RotaryTable:
    """Cosines and sines for every position, computed once in double precision and kept as fp32."""

    def __init__(self, rotary: Rotary, max_positions: int) -> None:
        speeds, factor = rotary_speeds(rotary)
        angle = np.arange(max_positions, dtype=np.float64)[:, None] * speeds
        self._positions = two_positions if rotary.pairing == "two_halves" else positions
        self._cos = (np.cos(angle) * factor).astype(np.float32)
        self._sin = (np.sin(angle) * factor).astype(np.float32)

    def at(self, rows: list[Row], new_tokens: int) -> tuple[FloatArray, FloatArray]:
        """Cosine and sine of the new tokens, each [rows, 1, new_tokens, dim / 2].

        Of ChatGLM-6B's two halves, each [rows, 2, new_tokens, dim / 4].
        """
        position = self._positions(rows, new_tokens)
        return self._cos[position], self._sin[position]


class DecodeInputs:
    """Mask and rotary tables of decode steps in one shape, made once and updated in place.

    As `attention_mask` and `RotaryTable.at` would make them for one new token per row.
    """

    def __init__(self, table: RotaryTable, rows: int, capacity: int) -> None:
        self._table, self._capacity = table, capacity
        self.mask: FloatArray = np.zeros((rows, 1, 1, capacity + 1), np.float32)
        self.cos, self.sin = table.at([Row(0)] * rows, 1)

    def fits(self, rows: int, capacity: int) -> bool:
        """Whether a step of this shape can use these arrays."""
        return (len(self.mask), self._capacity) == (rows, capacity)

    def update(self, rows: Sequence[Row | None]) -> None:
        """Set mask and tables; a row None sees only itself."""
        self.cos[...], self.sin[...] = self._table.at([row or Row(0) for row in rows], 1)
        for number, row in enumerate(rows):
            cached = 0 if row is None else row.cached
            past = self.mask[number, 0, 0, : self._capacity]
            past[:cached] = 0.0
            past[cached:] = MASKED
