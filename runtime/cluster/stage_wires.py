"""What a stage's loop sees of its wires: pipes, whose hidden states are in local arrays."""

from __future__ import annotations

import math

import numpy as np

from runtime.backends.protocol import FloatArray
from runtime.cluster.frames import CARRYING, FrameShape, bare, split
from runtime.cluster.wire import Wire
from runtime.lanes import LaneShape, Numbers
from runtime.stage_loop import LoopArrays
from runtime.step_message import Kind, Reply, Status, StepMessage


class LocalArray:
    """fp32 numbers of one process, in the place of shared memory."""

    def __init__(self, numbers: int) -> None:
        self._numbers = np.zeros(numbers, np.float32)

    def view(self, *shape: int, start: int = 0) -> FloatArray:
        """The numbers from `start` on in this shape, writable."""
        return self._numbers[start : start + math.prod(shape)].reshape(shape)


def local_arrays(lanes: LaneShape, *, last: bool) -> LoopArrays:
    """Arrays for one stage; what the last one gives onwards are the final hidden states."""
    outgoing = LocalArray(lanes.boundary_numbers)
    return LoopArrays(
        incoming=LocalArray(lanes.boundary_numbers),
        outgoing=outgoing,
        final=outgoing if last else LocalArray(lanes.boundary_numbers),
        logits=LocalArray(lanes.logits_numbers),
        times=LocalArray(lanes.times_numbers),
        progress=LocalArray(lanes.progress_numbers),
    )


def last_positions(array: Numbers, shape: FrameShape, message: StepMessage) -> FloatArray:
    """Those hidden states of a step's lane that logits are made of, as StageLoop finds them."""
    positions = message.tokens if message.lane == shape.lanes.prefill_lane else len(message.rows)
    return shape.lanes.hidden(array, message.lane, positions)[-shape.answers(message) :]


class HiddenOutlet:
    """Hands a step to the next stage, with the hidden states that this one has computed."""

    def __init__(self, wire: Wire, shape: FrameShape, arrays: LoopArrays) -> None:
        self._wire, self._shape, self._arrays = wire, shape, arrays

    def send_bytes(self, data: bytes, /) -> None:
        """Send a packed StepMessage and what it carries."""
        message = StepMessage.unpack(data)
        if message.kind not in CARRYING:
            self._wire.send(bare(data))
            return
        lanes = self._shape.lanes
        times = lanes.times(self._arrays.times, message.lane)
        if message.kind is Kind.LM_HEAD:
            hidden = last_positions(self._arrays.final, self._shape, message)
        else:
            positions = self._shape.positions(message)
            hidden = lanes.hidden(self._arrays.outgoing, message.lane, positions)
        self._wire.send(self._shape.with_hidden(data, times, hidden))


class HiddenInlet:
    """Takes steps from the stage before or from the driver, and their hidden states to arrays."""

    def __init__(self, wire: Wire, shape: FrameShape, arrays: LoopArrays) -> None:
        self._wire, self._shape, self._arrays = wire, shape, arrays
        self._by_lane: dict[int, StepMessage] = {}

    def poll(self) -> bool:
        """Whether a step waits."""
        return self._wire.poll()

    def recv_bytes(self) -> bytes:
        """The next packed StepMessage."""
        data, numbers = split(self._wire.receive())
        message = StepMessage.unpack(data)
        if message.kind in CARRYING:
            lanes = self._shape.lanes
            if message.kind is Kind.LM_HEAD:
                hidden = last_positions(self._arrays.final, self._shape, message)
            else:
                positions = self._shape.positions(message)
                hidden = lanes.hidden(self._arrays.incoming, message.lane, positions)
            self._shape.take(numbers, lanes.times(self._arrays.times, message.lane), hidden)
            self._by_lane[message.lane] = message
        return data

    def step(self, sequence: int) -> StepMessage:
        """A step that is in this stage."""
        return next(one for one in self._by_lane.values() if one.sequence == sequence)


class ReplyOutlet:
    """Answers the driver: with logits, or with final hidden states where lm_head is elsewhere."""

    def __init__(
        self,
        wire: Wire,
        shape: FrameShape,
        arrays: LoopArrays,
        steps: HiddenInlet,
        *,
        has_logits: bool,
    ) -> None:
        self._wire, self._shape, self._arrays = wire, shape, arrays
        self._steps, self._has_logits = steps, has_logits

    def send_bytes(self, data: bytes, /) -> None:
        """Send a packed Reply and what it carries."""
        reply = Reply.unpack(data)
        if reply.status is not Status.DONE:
            self._wire.send(bare(data))
            return
        message = self._steps.step(reply.sequence)
        lanes, rows = self._shape.lanes, self._shape.answers(message)
        times = lanes.times(self._arrays.times, message.lane)
        if self._has_logits:
            logits = lanes.logits(self._arrays.logits, message.lane, rows)
            self._wire.send(self._shape.with_numbers(data, times, logits))
            return
        hidden = last_positions(self._arrays.final, self._shape, message)
        self._wire.send(self._shape.with_hidden(data, times, hidden))
