"""Frames: a step message or a reply, with the numbers that a process of another machine needs.

2 bytes  length of the message, little endian
n bytes  the message or reply, as `step_message` packs it
then, of messages that carry hidden states and of replies that say DONE
times    fp32 [stages + 1], of the lane so far
values   hidden states [positions, hidden_size], fp32 or fp16; in the last reply logits, fp32
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np

from runtime.backends.protocol import FloatArray
from runtime.lanes import LaneShape
from runtime.step_message import Kind, StepMessage

WireDtype = Literal["fp32", "fp16"]
CARRYING = frozenset({Kind.DECODE, Kind.PREFILL, Kind.LM_HEAD})
_LENGTH = struct.Struct("<H")
_LARGEST_HALF = 65504.0
_ROOM_FOR_WORDS = 1 << 16


@dataclass(frozen=True)
class FrameShape:
    """How numbers travel between the stages of one run."""

    lanes: LaneShape
    dtype: WireDtype = "fp32"

    @property
    def most_bytes(self) -> int:
        """No frame is longer."""
        numbers = max(self.lanes.boundary_numbers, self.lanes.logits_numbers)
        return 4 * (numbers + self.lanes.times_numbers) + _ROOM_FOR_WORDS

    def positions(self, message: StepMessage) -> int:
        """Positions whose hidden states travel along with a message."""
        if message.kind is Kind.LM_HEAD:
            return self.answers(message)
        return message.tokens if message.kind is Kind.PREFILL else len(message.rows)

    def answers(self, message: StepMessage) -> int:
        """Rows of logits, or of final hidden states, that a step gives."""
        return 1 if message.lane == self.lanes.prefill_lane else len(message.rows)

    def with_hidden(self, words: bytes, times: FloatArray, hidden: FloatArray) -> bytes:
        """A frame of words that carry hidden states [positions, hidden_size].

        At fp16, values beyond its range become its largest.
        """
        if self.dtype == "fp32":
            return self.with_numbers(words, times, hidden)
        half = np.clip(hidden, -_LARGEST_HALF, _LARGEST_HALF).astype("<f2")
        return b"".join((bare(words), times.tobytes(), half.tobytes()))

    def with_numbers(self, words: bytes, times: FloatArray, values: FloatArray) -> bytes:
        """A frame of words that carry fp32 values as they are."""
        return b"".join((bare(words), times.tobytes(), values.tobytes()))

    def take(
        self, numbers: memoryview, times: FloatArray, values: FloatArray, *, exact: bool = False
    ) -> None:
        """Write a frame's numbers to where they belong; `exact`: values are fp32.

        Raises ConnectionResetError for a frame of another size.
        """
        dtype = "<f4" if exact or self.dtype == "fp32" else "<f2"
        head = times.nbytes
        if len(numbers) != head + values.size * np.dtype(dtype).itemsize:
            raise ConnectionResetError("a frame has another size than its message says")
        times[...] = np.frombuffer(numbers[:head], "<f4")
        values[...] = np.frombuffer(numbers[head:], dtype).reshape(values.shape)


def bare(words: bytes) -> bytes:
    """A frame without numbers."""
    return _LENGTH.pack(len(words)) + words


def split(frame: bytes) -> tuple[bytes, memoryview]:
    """Words and numbers of a frame; ConnectionResetError where it is none."""
    if len(frame) < _LENGTH.size:
        raise ConnectionResetError("a frame is too short")
    end = _LENGTH.size + _LENGTH.unpack_from(frame)[0]
    if end > len(frame):
        raise ConnectionResetError("a frame is shorter than it says")
    return frame[_LENGTH.size : end], memoryview(frame)[end:]
