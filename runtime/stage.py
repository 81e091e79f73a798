"""A stage: a run of blocks on one backend, with masks, positions and cache room."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.backends.protocol import Backend, FloatArray
from runtime.rotary import Rotary
from runtime.step_inputs import RotaryTable, Row, attention_mask
from scheduler.memory import kv_capacity


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

    def forward(self, step: Step, hidden: FloatArray) -> FloatArray:
        """Hidden states [rows, tokens, hidden_size] after this stage; keys and values are kept."""
        rows = list(step.rows)
        longest = max(row.cached for row in rows)
        capacity = kv_capacity(longest)
        self._backend.reserve(len(rows), capacity)
        cos, sin = self._rotary.at(rows, step.new_tokens)
        mask = attention_mask(rows, step.new_tokens, capacity)
        write_at = [row.cached for row in rows]
        room = kv_capacity(longest + step.new_tokens)
        return self._backend.forward(hidden, mask, cos, sin, write_at, room)

    def lm_head(self, hidden: FloatArray) -> FloatArray:
        """Logits [rows, vocab_size] of the last positions of [rows, tokens, hidden_size]."""
        return self._backend.lm_head(hidden[:, -1, :])
