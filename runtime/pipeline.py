"""Workers chained: hidden states go in, pass every stage in order, and logits come out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait

import numpy as np
import psutil

from runtime.backends.protocol import FloatArray
from runtime.chain import loop_config, needs_head_visit, worker_config
from runtime.geometry import Geometry
from runtime.lanes import LaneShape
from runtime.launch import StageLaunch
from runtime.shared_array import SharedArray
from runtime.stage import Step
from runtime.stage_workers import ProgressCallback, StageWorkers, stage_failure
from runtime.step_message import Kind, Reply, Status, StepMessage
from runtime.supervision import Supervision
from runtime.worker import WorkerConfig
from scheduler.errors import EngineError
from scheduler.slots import kv_capacity

__all__ = ["Finished", "Pipeline", "ProgressCallback", "StepTime"]


@dataclass(frozen=True)
class StepTime:
    """Measured seconds of one forward through all stages."""

    stage_seconds: tuple[float, ...]  # computing, by stage
    lm_head_seconds: float
    total_seconds: float  # as the parent saw it

    @property
    def hop_seconds(self) -> float:
        """What was neither a stage nor lm_head: crossing processes, copying, waiting for turns."""
        return self.total_seconds - sum(self.stage_seconds) - self.lm_head_seconds

    def plus(self, other: StepTime) -> StepTime:
        """This forward and another one after it."""
        stages = zip(self.stage_seconds, other.stage_seconds, strict=True)
        return StepTime(
            tuple(a + b for a, b in stages),
            self.lm_head_seconds + other.lm_head_seconds,
            self.total_seconds + other.total_seconds,
        )


@dataclass(frozen=True)
class Finished:
    """A step that came back: what was asked, how it went, and the time it took."""

    message: StepMessage
    status: Status
    time: StepTime
    error: EngineError | None = None


class Pipeline:
    """Owns one worker process per stage, the pipes along them and the shared memory between them.

    Workers load in parallel; the constructor returns when all are ready. Steps of different lanes
    may be under way at once, one in each: `decode_lanes` of them, and one for a prompt of at most
    `max_tokens`. Raises EngineError when a worker cannot load; the message says which device and
    why.

    A worker that ends or hangs afterwards is started anew, alone. Until it has loaded, the pipeline
    is not `ready`; all steps that were under way and all caches are lost. Raises StageFailedError
    where `supervision` allows no further start.
    """

    placement = None  # stages stay where they are

    def __init__(
        self,
        launches: list[StageLaunch],
        geometry: Geometry,
        decode_lanes: int,
        max_tokens: int,
        on_progress: ProgressCallback | None = None,
        *,
        supervision: Supervision | None = None,
    ) -> None:
        self.launches = launches
        self.lanes = LaneShape(
            decode_lanes, max_tokens, geometry.hidden_size, geometry.vocab_size, len(launches)
        )
        self._geometry = geometry
        # boundaries[i] enters stage i; the last one holds the final hidden states.
        self._boundaries = [
            SharedArray.create(self.lanes.boundary_numbers) for _ in range(len(launches) + 1)
        ]
        self._logits = SharedArray.create(self.lanes.logits_numbers)
        self._times = SharedArray.create(self.lanes.times_numbers)
        self._progress = SharedArray.create(self.lanes.progress_numbers)
        self._running: dict[int, tuple[StepMessage, float]] = {}
        self._sequence = 0
        self._head_visit = needs_head_visit(launches)
        self._awaited: int | None = None  # the RESET that makes the pipeline ready
        self._workers = StageWorkers(launches, self._config, supervision or Supervision())
        try:
            self._workers.load(on_progress)
        except BaseException:
            self.close()
            raise

    def _config(self, number: int, awaits_reset: bool) -> WorkerConfig:
        loop = replace(
            loop_config(self.launches, number),
            input_name=self._boundaries[number].name,
            output_name=self._boundaries[number + 1].name,
            final_name=self._boundaries[-1].name,
            logits_name=self._logits.name,
            times_name=self._times.name,
            progress_name=self._progress.name,
            awaits_reset=awaits_reset,
        )
        return worker_config(self.launches[number], self._geometry, self.lanes, loop)

    @property
    def ready(self) -> bool:
        """Whether every stage takes steps; else `collect` is to be called until it does."""
        return self._awaited is None

    @property
    def losses(self) -> int:
        """How often a stage has lost its worker, and with it all steps and caches."""
        return self._workers.losses

    @property
    def last_loss(self) -> EngineError | None:
        """What to say of the last one: which device, which blocks, why."""
        return self._workers.last_loss

    @property
    def restarts(self) -> tuple[int, ...]:
        """How often each stage was started again."""
        return tuple(one.restarts for one in self._workers.histories)

    @property
    def rss_bytes(self) -> list[int]:
        """What each worker held when it had loaded."""
        return self._workers.rss_bytes

    @property
    def process_ids(self) -> list[int]:
        """Operating system ids of the workers, in the order of the stages."""
        return self._workers.process_ids

    def resident_bytes(self) -> list[int]:
        """Resident memory of each worker now; as loaded, where one has just ended."""
        try:
            return [psutil.Process(one).memory_info().rss for one in self.process_ids]
        except psutil.Error:
            return list(self.rss_bytes)

    def next_sequence(self) -> int:
        """A number for the next message."""
        self._sequence = (self._sequence + 1) % (1 << 32)
        return self._sequence

    def hidden(self, lane: int, positions: int) -> FloatArray:
        """Where the hidden states [positions, hidden_size] of a lane's next step belong."""
        return self.lanes.hidden(self._boundaries[0], lane, positions)

    def logits(self, message: StepMessage) -> FloatArray:
        """Logits [rows, vocab_size] of a finished step, until its lane is used again."""
        prompt = message.kind is Kind.PREFILL
        return self.lanes.logits(self._logits, message.lane, 1 if prompt else len(message.rows))

    def send(self, message: StepMessage) -> None:
        """Start a step, whose hidden states are in its lane, or another command."""
        if message.kind in (Kind.DECODE, Kind.PREFILL):
            self.lanes.times(self._times, message.lane)[...] = 0.0
            self._send_step(message)
        else:
            self._workers.send(message.pack())

    def _send_step(self, message: StepMessage) -> None:
        self._running[message.sequence] = message, time.perf_counter()
        self._send_visit(message, message.kind)

    def _send_visit(self, message: StepMessage, kind: Kind) -> None:
        self.lanes.progress(self._progress)[message.lane] = 0.0
        self._workers.send(message.pack(kind))

    def collect(self, doorbell: Sequence[Connection] = ()) -> list[Finished]:
        """Wait until a step comes back, a doorbell is rung or a worker ends; what came back.

        The caller of an aborted prefill hears of it once, as ABORTED or as DONE. Whoever asked for
        steps looks at `losses` and `ready` afterwards. Releases the interpreter while it waits.
        """
        losses = self.losses
        patience = self._workers.patience_seconds(busy=bool(self._running))
        ready = wait([*self._workers.handles, *doorbell], patience)
        finished: list[Finished] = []
        for number, answer in self._workers.received(ready):
            finished += self._take(number, Reply.unpack(answer))
        self._workers.supervise(
            [message for message, _ in self._running.values()], self.lanes, self._progress
        )
        if losses != self.losses:
            self._begin_again()
        return finished

    def _begin_again(self) -> None:
        """Give up what is under way, and have every stage forget it."""
        self._running.clear()
        self._awaited = self.next_sequence()
        self._send_step(StepMessage(Kind.RESET, self._awaited, lane=self.lanes.reset_lane))

    def _take(self, number: int, reply: Reply) -> list[Finished]:
        if reply.sequence not in self._running:
            return []
        message, started = self._running[reply.sequence]
        done_here = number == len(self.launches) - 1 and reply.status is Status.DONE
        if done_here and self._head_visit and message.kind is not Kind.RESET:
            self._send_visit(message, Kind.LM_HEAD)
            return []
        del self._running[reply.sequence]
        if message.kind is Kind.RESET:
            self._awaited = None
            return []
        times = self.lanes.times(self._times, message.lane).tolist()
        step_time = StepTime(tuple(times[:-1]), times[-1], time.perf_counter() - started)
        error = None
        if reply.status is Status.FAILED:
            launch = self.launches[number]
            error = stage_failure(launch, reply.reason)
        return [Finished(message, reply.status, step_time, error)]

    def forward(self, hidden: FloatArray, step: Step) -> tuple[FloatArray, StepTime]:
        """Run all blocks over hidden [rows, tokens, hidden_size]; return logits [rows, vocab_size].

        For whoever schedules nothing: a step in group 0, alone in the pipeline. A prompt has one
        row. The logits are a copy of each row's last position.
        """
        rows, tokens = hidden.shape[:2]
        prompt = tokens > 1
        lane = self.lanes.prefill_lane if prompt else 0
        self.hidden(lane, rows * tokens)[...] = hidden.reshape(rows * tokens, -1)
        message = StepMessage(
            Kind.PREFILL if prompt else Kind.DECODE,
            self.next_sequence(),
            lane=lane,
            capacity=kv_capacity(max(row.cached for row in step.rows) + tokens),
            tokens=tokens,
            sources=tuple(range(rows)),
            rows=step.rows,
        )
        losses = self.losses
        self.send(message)
        finished: list[Finished] = []
        while not finished:
            finished = self.collect()
            if self.losses != losses:
                raise EngineError(str(self.last_loss))
        if finished[0].error is not None:
            raise finished[0].error
        return np.array(self.logits(message)), finished[0].time

    def close(self) -> None:
        """End the workers and remove the shared memory; safe to call twice."""
        self._workers.close()
        for array in [*self._boundaries, self._logits, self._times, self._progress]:
            with contextlib.suppress(FileNotFoundError):
                array.close()
        self._boundaries = []
