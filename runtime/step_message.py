"""What travels from stage to stage in a step: a few fixed fields, packed, never pickled.

A message enters the first stage and passes all of them in order; the last one answers the parent.
Hidden states, logits and times lie in shared memory, in the lane that the message names.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from runtime.step_inputs import Row

MOST_ROWS = 8
"""Rows in one message; the scheduler asks for 4 at most, calibration for 8."""

_HEADER = struct.Struct("<BBBBBIII")
_ROW = struct.Struct("<biii")
_REPLY = struct.Struct("<BI")
_NO_ROW = -1


class Kind(IntEnum):
    """What a stage shall do."""

    DECODE = 1  # one new token in each row of a group
    PREFILL = 2  # new tokens in one row of a group
    LM_HEAD = 3  # logits of a step whose hidden states are final, where lm_head lives upstream
    DROP = 4  # forget a group's cache; no answer
    ABORT = 5  # stop the prefill of this sequence number
    ARRANGE = 6  # only shape a group's cache: a stage before this one failed; no answer
    RESET = 7  # give up every step and cache: a worker is new; the last stage answers


class Status(IntEnum):
    """How a step ended."""

    DONE = 0
    FAILED = 1
    ABORTED = 2


@dataclass(frozen=True)
class StepMessage:
    """One command for all stages.

    `sources` shapes the group's cache, one entry per row, before anything is computed (see
    `Backend.arrange`). `rows` says what to compute: None in rows without work; all but
    `prefill_row` in a prefill, whose `tokens` new tokens are in shared memory.
    """

    kind: Kind
    sequence: int
    group: int = 0
    lane: int = 0
    capacity: int = 0
    tokens: int = 1
    prefill_row: int = 0
    sources: tuple[int, ...] = ()
    rows: tuple[Row | None, ...] = ()

    def pack(self, kind: Kind | None = None) -> bytes:
        """The bytes of this message, or of another kind of message about the same group."""
        parts = [
            _HEADER.pack(
                self.kind if kind is None else kind,
                self.group,
                self.lane,
                self.prefill_row,
                len(self.sources),
                self.sequence,
                self.capacity,
                self.tokens,
            )
        ]
        for source, row in zip(self.sources, self.rows, strict=True):
            fields = (_NO_ROW, 0, 0) if row is None else _fields(row)
            parts.append(_ROW.pack(source, *fields))
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes) -> StepMessage:
        """The message in these bytes."""
        kind, group, lane, prefill_row, count, sequence, capacity, tokens = _HEADER.unpack_from(
            data
        )
        sources, rows = [], []
        for number in range(count):
            source, cached, context_end, mask_position = _ROW.unpack_from(
                data, _HEADER.size + number * _ROW.size
            )
            sources.append(source)
            row = None if cached == _NO_ROW else Row(cached, context_end, mask_position)
            rows.append(row)
        return cls(
            Kind(kind),
            sequence,
            group,
            lane,
            capacity,
            tokens,
            prefill_row,
            tuple(sources),
            tuple(rows),
        )


def _fields(row: Row) -> tuple[int, int, int]:
    return row.cached, row.context_end, row.mask_position


@dataclass(frozen=True)
class Reply:
    """A stage's answer to the parent; `reason` is a sentence where the step failed."""

    status: Status
    sequence: int
    reason: str = ""

    def pack(self) -> bytes:
        """The bytes of this answer."""
        return _REPLY.pack(self.status, self.sequence) + self.reason.encode(
            "utf-8", "surrogatepass"
        )

    @classmethod
    def unpack(cls, data: bytes) -> Reply:
        """The answer in these bytes."""
        status, sequence = _REPLY.unpack_from(data)
        return cls(Status(status), sequence, data[_REPLY.size :].decode("utf-8", "surrogatepass"))
