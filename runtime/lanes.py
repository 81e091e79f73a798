"""Lanes: where the hidden states, logits and times of each step in flight lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.backends.protocol import FloatArray
from runtime.step_message import MOST_ROWS

PASSED = -1.0
"""Progress of a step in a stage that has handed it on."""


class Numbers(Protocol):
    """A run of fp32 numbers, seen by several processes (SharedArray) or by one (LocalArray)."""

    def view(self, *shape: int, start: int = 0) -> FloatArray:
        """The numbers from `start` on in this shape, writable."""


@dataclass(frozen=True)
class LaneShape:
    """Lanes 0 .. `decode_lanes` - 1 carry decode steps, the one after them carries a prefill."""

    decode_lanes: int
    most_tokens: int  # of a prefill
    hidden_size: int
    vocab_size: int
    stages: int

    @property
    def prefill_lane(self) -> int:
        """The lane of prompts."""
        return self.decode_lanes

    @property
    def reset_lane(self) -> int:
        """The lane in which a RESET makes progress; it carries nothing."""
        return self.decode_lanes + 1

    @property
    def boundary_numbers(self) -> int:
        """Values in one boundary between stages."""
        decode = self.decode_lanes * MOST_ROWS
        return (decode + max(self.most_tokens, MOST_ROWS)) * self.hidden_size

    @property
    def logits_numbers(self) -> int:
        """Values of all logits."""
        return (self.decode_lanes * MOST_ROWS + 1) * self.vocab_size

    @property
    def times_numbers(self) -> int:
        """Seconds of every stage and of lm_head, for each lane."""
        return (self.decode_lanes + 1) * (self.stages + 1)

    @property
    def progress_numbers(self) -> int:
        """Marks of every stage, for each lane."""
        return (self.decode_lanes + 2) * self.stages

    def hidden(self, boundary: Numbers, lane: int, positions: int) -> FloatArray:
        """Hidden states [positions, hidden_size]: of rows in a decode lane, of tokens in a prefill.

        Positions of a prefill are those of its new tokens.
        """
        start = lane * MOST_ROWS * self.hidden_size
        return boundary.view(positions, self.hidden_size, start=start)

    def logits(self, array: Numbers, lane: int, rows: int) -> FloatArray:
        """Logits [rows, vocab_size] of a lane."""
        return array.view(rows, self.vocab_size, start=lane * MOST_ROWS * self.vocab_size)

    def times(self, array: Numbers, lane: int) -> FloatArray:
        """Seconds [stages + 1] that a lane's last step computed in each stage, then in lm_head."""
        return array.view(self.stages + 1, start=lane * (self.stages + 1))

    def progress(self, array: Numbers) -> FloatArray:
        """Marks [lanes, stages] of how far each stage is with a lane's step.

        0 before it has taken it, then counting up with every part that is done, at last PASSED.
        """
        return array.view(self.decode_lanes + 2, self.stages)
