"""A stage: a run of blocks on one backend, with the masks and positions of every forward."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.backends.protocol import Backend, FloatArray, StepInputs
from runtime.rotary import Rotary
from runtime.step_inputs import DecodeInputs, RotaryTable, Row, attention_mask
from scheduler.slots import kv_capacity


@dataclass(frozen=True)
class Step:
    """One forward: for each row what is cached already, and how many tokens are new in all."""

    rows: tuple[Row, ...]
    new_tokens: int


class Stage:
    """Runs one stage's blocks, and lm_head where it lives here, on a backend."""

    def __init__(self, backend: Backend, rotary: Rotary, max_positions: int) -> None:
        self._backend = backend
        self._rotary = RotaryTable(rotary, max_positions)
        self._decode_inputs: dict[int, DecodeInputs] = {}
        self._shapes: dict[int, tuple[int, int]] = {}  # rows and capacity, by group

    def arrange(self, group: int, rows: int, capacity: int, sources: Sequence[int]) -> None:
        """Shape a group's cache, as `Backend.arrange`."""
        self._backend.arrange(group, rows, capacity, sources)
        self._shapes[group] = rows, capacity

    def grow(self, group: int, rows: int, capacity: int) -> None:
        """Give a group's cache at least these rows and this capacity; it keeps what it holds."""
        rows_now, capacity_now = self._shapes.get(group, (0, 0))
        sources = [row if row < rows_now else -1 for row in range(max(rows, rows_now))]
        self.arrange(group, len(sources), max(capacity, capacity_now), sources)

    def drop(self, group: int) -> None:
        """Give back a group's cache."""
        self._decode_inputs.pop(group, None)
        self._shapes.pop(group, None)
        self._backend.drop(group)

    def decode(
        self, group: int, rows: Sequence[Row | None], capacity: int, hidden: FloatArray
    ) -> FloatArray:
        """Hidden states [rows, hidden_size] of one new token per row; None: nothing to compute.

        `capacity` is what the group was arranged to.
        """
        inputs = self._decode_inputs.get(group)
        if inputs is None or not inputs.fits(len(rows), capacity):
            inputs = DecodeInputs(self._rotary, len(rows), capacity)
            self._decode_inputs[group] = inputs
        inputs.update(rows)
        write_at = [-1 if row is None else row.cached for row in rows]
        step = StepInputs(hidden[:, None], inputs.mask, inputs.cos, inputs.sin)
        result: FloatArray = self._backend.decode(group, step, write_at)[:, 0]
        return result

    def settle(self) -> None:
        """Do what a decode step put off, as `Backend.settle`."""
        self._backend.settle()

    def prefill(
        self, group: int, number: int, row: Row, hidden: FloatArray
    ) -> Generator[None, None, FloatArray]:
        """Hidden states [tokens, hidden_size] of new tokens in one row; pauses between blocks."""
        tokens = len(hidden)
        cos, sin = self._rotary.at([row], tokens)
        mask = attention_mask([row], tokens, kv_capacity(row.cached))
        inputs = StepInputs(hidden[None], mask, cos, sin)
        result: FloatArray = yield from self._backend.prefill(group, number, row.cached, inputs)
        whole: FloatArray = result[0]
        return whole

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        """Logits [rows, vocab_size] of [rows, hidden_size]."""
        return self._backend.lm_head(hidden)

    def forward(self, step: Step, hidden: FloatArray) -> FloatArray:
        """Hidden states [rows, tokens, hidden_size] after this stage, in a group of its own.

        A prompt has one row. For whoever runs a stage without a worker.
        """
        rows, tokens = len(step.rows), step.new_tokens
        capacity = kv_capacity(max(row.cached for row in step.rows) + tokens)
        self.arrange(0, rows, capacity, range(rows))
        if tokens == 1:
            return np.array(self.decode(0, step.rows, capacity, hidden[:, 0])[:, None])
        assert rows == 1
        return finished(self.prefill(0, 0, step.rows[0], hidden[0]))[None]


def finished(prefill: Generator[None, None, FloatArray]) -> FloatArray:
    """What a prefill returns, without a pause."""
    result: list[FloatArray] = []

    def whole() -> Generator[None, None, None]:
        result.append((yield from prefill))

    for _ in whole():
        pass
    return result[0]
