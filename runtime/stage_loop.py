"""A worker's loop: take a step, compute it, hand it to the next stage, answer the parent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from runtime.article.stage import ArticleStage
from runtime.backends.protocol import FloatArray
from runtime.lanes import PASSED, LaneShape, Numbers
from runtime.shared_array import SharedArray
from runtime.stage import Stage
from runtime.step_message import Kind, Reply, Status, StepMessage
from scheduler.errors import EngineError

_WITH_PROGRESS = (Kind.DECODE, Kind.PREFILL, Kind.LM_HEAD, Kind.RESET)


class Outlet(Protocol):
    """Takes messages and answers: a pipe, or a connection to another machine."""

    def send_bytes(self, data: bytes, /) -> None:
        """Send one message whole."""


class Inlet(Protocol):
    """Gives messages in the order in which they were sent."""

    def recv_bytes(self) -> bytes:
        """The next message; EOFError when there will be none."""

    def poll(self) -> bool:
        """Whether a message waits."""


@dataclass(frozen=True)
class LoopConfig:
    """Where this stage stands in the chain, and the names of the shared memory it sees, if any."""

    number: int
    has_blocks: bool
    has_lm_head: bool
    blocks_follow: bool  # in a later stage
    input_name: str = ""
    output_name: str = ""
    final_name: str = ""  # hidden states after the last block
    logits_name: str = ""
    times_name: str = ""
    progress_name: str = ""
    awaits_reset: bool = False  # a worker before this one died: what waits is of no use any more


@dataclass(frozen=True)
class LoopArrays:
    """Where a stage finds hidden states and leaves its own, its logits and its times."""

    incoming: Numbers
    outgoing: Numbers
    final: Numbers  # hidden states after the last block
    logits: Numbers
    times: Numbers
    progress: Numbers

    @classmethod
    def attached(cls, config: LoopConfig) -> LoopArrays:
        """The shared memory that the parent made."""
        names = (
            config.input_name,
            config.output_name,
            config.final_name,
            config.logits_name,
            config.times_name,
            config.progress_name,
        )
        return cls(*map(SharedArray.attach, names))


class StageLoop:
    """Serves one stage. A prefill pauses between blocks and lets waiting steps pass.

    So a running answer waits for one block of somebody's prompt, not for all of it.
    """

    def __init__(
        self,
        config: LoopConfig,
        lanes: LaneShape,
        stage: Stage | ArticleStage,
        control: Outlet,
        inbox: Inlet,
        after: Outlet | None,
        arrays: LoopArrays,
    ) -> None:
        self._config, self._lanes, self._stage = config, lanes, stage
        self._control, self._inbox, self._after = control, inbox, after
        self._incoming, self._outgoing = arrays.incoming, arrays.outgoing
        self._final, self._logits, self._times = arrays.final, arrays.logits, arrays.times
        self._progress = lanes.progress(arrays.progress)
        self._aborted: int | None = None
        self._resets = 0
        self._awaits_reset = config.awaits_reset

    def serve(self) -> None:
        """Take steps until the pipe closes; raises EOFError then."""
        while True:
            self._take(self._inbox.recv_bytes())

    def _take(self, data: bytes) -> None:
        message = StepMessage.unpack(data)
        kind = message.kind
        if self._awaits_reset and kind is not Kind.RESET:
            return
        if kind in _WITH_PROGRESS:
            self._mark(message, 1.0)
        try:
            goes_on = self._obey(message)
        except EngineError as error:
            self._mark(message, PASSED)
            self._reply(Status.FAILED, message, str(error))
            self._pass_on(message.pack(Kind.ARRANGE))
            return
        if kind in _WITH_PROGRESS:
            self._mark(message, PASSED)
        if goes_on and self._after is not None:
            self._pass_on(data)
        elif kind is Kind.ABORT:
            self._reply(Status.ABORTED, message)
        elif kind in _WITH_PROGRESS and (goes_on or kind is Kind.LM_HEAD):
            self._reply(Status.DONE, message)
        if kind is Kind.DECODE:  # others work on with the answer meanwhile
            self._stage.settle()

    def _obey(self, message: StepMessage) -> bool:
        """Do what this stage has to; whether the message is for later stages too."""
        kind = message.kind
        if kind in (Kind.DECODE, Kind.PREFILL, Kind.ARRANGE):
            self._arrange(message)
        if kind is Kind.DECODE:
            self._decode(message)
        elif kind is Kind.PREFILL:
            return self._prefill(message)
        elif kind is Kind.LM_HEAD and self._config.has_lm_head:
            self._answer(message, self._last_positions(self._final, message))
            return False
        elif kind is Kind.DROP:
            self._stage.drop(message.group)
        elif kind is Kind.ABORT:
            self._aborted = message.sequence
        elif kind is Kind.RESET:
            self._reset()
        return True

    def _arrange(self, message: StepMessage) -> None:
        rows = len(message.sources)
        if message.lane == self._lanes.prefill_lane:
            # Decode steps pass a prompt on its way: what they have arranged since then stays.
            self._stage.grow(message.group, rows, message.capacity)
        else:
            self._stage.arrange(message.group, rows, message.capacity, message.sources)

    def _reset(self) -> None:
        """Be as at the start; a prompt that is under way stops where it pauses."""
        self._awaits_reset = False
        self._resets += 1
        for group in range(self._lanes.decode_lanes):
            self._stage.drop(group)

    def _decode(self, message: StepMessage) -> None:
        rows = len(message.rows)
        hidden = self._lanes.hidden(self._incoming, message.lane, rows)
        if self._config.has_blocks:
            began = time.perf_counter()
            hidden = self._stage.decode(message.group, message.rows, message.capacity, hidden)
            self._took(message, time.perf_counter() - began)
        self._deliver(message, hidden)

    def _prefill(self, message: StepMessage) -> bool:
        """Run a prompt, or a part of one; False where it was aborted."""
        hidden = self._lanes.hidden(self._incoming, message.lane, message.tokens)
        if self._config.has_blocks:
            row = message.rows[message.prefill_row]
            assert row is not None
            steps = self._stage.prefill(message.group, message.prefill_row, row, hidden)
            result = self._paused(message, steps)
            if result is None:
                return False
            hidden = result
        self._deliver(message, hidden)
        return True

    def _paused(
        self, message: StepMessage, steps: Generator[None, None, FloatArray]
    ) -> FloatArray | None:
        seconds, resets = 0.0, self._resets
        while self._aborted != message.sequence and resets == self._resets:
            began = time.perf_counter()
            try:
                next(steps)
            except StopIteration as end:
                self._took(message, seconds + time.perf_counter() - began)
                result: FloatArray = end.value
                return result
            seconds += time.perf_counter() - began
            self._progress[message.lane, self._config.number] += 1.0
            # Every group may pass once; more, and several groups could keep a prompt waiting.
            for _ in range(self._lanes.decode_lanes):
                given_up = self._aborted == message.sequence or resets != self._resets
                if given_up or not self._inbox.poll():
                    break
                self._take(self._inbox.recv_bytes())
        steps.close()
        return None

    def _deliver(self, message: StepMessage, hidden: FloatArray) -> None:
        """Turn hidden states [positions, hidden_size] into logits here, or give them onwards."""
        if self._config.has_lm_head and not self._config.blocks_follow:
            self._answer(message, hidden[-1:] if message.kind is Kind.PREFILL else hidden)
        else:
            self._lanes.hidden(self._outgoing, message.lane, len(hidden))[...] = hidden

    def _answer(self, message: StepMessage, hidden: FloatArray) -> None:
        """Logits of hidden states [rows, hidden_size], for the parent."""
        began = time.perf_counter()
        logits = self._lanes.logits(self._logits, message.lane, len(hidden))
        logits[...] = self._stage.lm_head(hidden)
        times = self._lanes.times(self._times, message.lane)
        times[self._lanes.stages] = time.perf_counter() - began

    def _last_positions(self, boundary: Numbers, message: StepMessage) -> FloatArray:
        positions = message.tokens if message.lane == self._lanes.prefill_lane else 0
        hidden = self._lanes.hidden(boundary, message.lane, positions or len(message.rows))
        return hidden[-1:] if positions else hidden

    def _took(self, message: StepMessage, seconds: float) -> None:
        self._lanes.times(self._times, message.lane)[self._config.number] = seconds

    def _mark(self, message: StepMessage, mark: float) -> None:
        self._progress[message.lane, self._config.number] = mark

    def _pass_on(self, data: bytes) -> None:
        if self._after is not None:
            # A stage that died is the parent's to notice.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._after.send_bytes(data)

    def _reply(self, status: Status, message: StepMessage, reason: str = "") -> None:
        self._control.send_bytes(Reply(status, message.sequence, reason).pack())
