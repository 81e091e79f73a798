"""Workers chained: hidden states go in, pass every stage in order, and logits come out."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import numpy as np
import psutil

from runtime.allocator import huge_pages
from runtime.backends.protocol import FloatArray
from runtime.chain import loop_config, needs_head_visit, worker_config
from runtime.geometry import Geometry
from runtime.lanes import LaneShape
from runtime.launch import StageLaunch
from runtime.shared_array import SharedArray
from runtime.stage import Step
from runtime.step_message import Kind, Reply, Status, StepMessage
from runtime.worker import Failed, Loaded, Ready, WorkerConfig, worker_main
from scheduler.errors import EngineError
from scheduler.slots import kv_capacity

ProgressCallback = Callable[[StageLaunch, Loaded], None]
_EXIT_SECONDS = 5.0
_POLL_SECONDS = 0.05


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
    `max_tokens`. Raises EngineError when a worker cannot load or dies; the message says which
    device and why.
    """

    def __init__(
        self,
        launches: list[StageLaunch],
        geometry: Geometry,
        decode_lanes: int,
        max_tokens: int,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self.launches = launches
        self.rss_bytes: list[int] = []
        self.lanes = LaneShape(
            decode_lanes, max_tokens, geometry.hidden_size, geometry.vocab_size, len(launches)
        )
        self._geometry = geometry
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        # boundaries[i] enters stage i; the last one holds the final hidden states.
        self._boundaries = [
            SharedArray.create(self.lanes.boundary_numbers) for _ in range(len(launches) + 1)
        ]
        self._logits = SharedArray.create(self.lanes.logits_numbers)
        self._times = SharedArray.create(self.lanes.times_numbers)
        self._running: dict[int, tuple[StepMessage, float]] = {}
        self._sequence = 0
        self._head_visit = needs_head_visit(launches)
        try:
            self._start_all()
            self._await_ready(on_progress)
        except BaseException:
            self.close()
            raise

    def _start_all(self) -> None:
        context = multiprocessing.get_context("spawn")
        before: Connection | None = None
        for number, launch in enumerate(self.launches):
            next_before, after = None, None
            if number + 1 < len(self.launches):
                next_before, after = context.Pipe(duplex=False)
            ours, theirs = context.Pipe()
            process = context.Process(
                target=worker_main,
                args=(self._config(number, launch), theirs, before, after),
                name=f"glm-plan {launch.device} {launch.backend}",
                daemon=True,
            )
            with huge_pages():
                process.start()
            for given in (theirs, before, after):
                if given is not None:
                    given.close()
            self._workers.append((process, ours))
            before = next_before

    def _config(self, number: int, launch: StageLaunch) -> WorkerConfig:
        loop = replace(
            loop_config(self.launches, number),
            input_name=self._boundaries[number].name,
            output_name=self._boundaries[number + 1].name,
            final_name=self._boundaries[-1].name,
            logits_name=self._logits.name,
            times_name=self._times.name,
        )
        return worker_config(launch, self._geometry, self.lanes, loop)

    def _await_ready(self, on_progress: ProgressCallback | None) -> None:
        waiting = dict(enumerate(self._workers))
        rss_bytes: dict[int, int] = {}
        while waiting:
            wait(
                [
                    handle
                    for process, control in waiting.values()
                    for handle in (control, process.sentinel)
                ]
            )
            for number, (process, control) in list(waiting.items()):
                if not control.poll() and process.is_alive():
                    continue
                message = self._loading_message(number)
                if isinstance(message, Ready):
                    rss_bytes[number] = message.rss_bytes
                    del waiting[number]
                elif on_progress is not None:
                    on_progress(self.launches[number], message)
        self.rss_bytes = [rss_bytes[number] for number in range(len(self._workers))]

    def _loading_message(self, number: int) -> Loaded | Ready:
        try:
            message = self._workers[number][1].recv()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        if isinstance(message, Failed):
            raise self._failure(number, message.reason)
        assert isinstance(message, (Loaded, Ready))
        return message

    @property
    def process_ids(self) -> list[int]:
        """Operating system ids of the workers, in the order of the stages."""
        return [process.pid for process, _ in self._workers if process.pid is not None]

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
            self._running[message.sequence] = message, time.perf_counter()
            self.lanes.times(self._times, message.lane)[...] = 0.0
        self._send(message.pack())

    def _send(self, data: bytes) -> None:
        try:
            self._workers[0][1].send_bytes(data)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def collect(self, doorbell: Sequence[Connection] = ()) -> list[Finished]:
        """Wait until a step comes back or a doorbell is rung; what came back.

        The caller of an aborted prefill hears of it once, as ABORTED or as DONE. Releases the
        interpreter while it waits.
        """
        controls = [control for _, control in self._workers]
        sentinels = [process.sentinel for process, _ in self._workers]
        ready = wait([*controls, *sentinels, *doorbell])
        finished = []
        for number, (control, sentinel) in enumerate(zip(controls, sentinels, strict=True)):
            if control in ready:
                finished += self._received(number)
            elif sentinel in ready:
                raise self._death()
        return finished

    def _received(self, number: int) -> list[Finished]:
        try:
            reply = Reply.unpack(self._workers[number][1].recv_bytes())
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        if reply.sequence not in self._running:
            return []
        message, started = self._running[reply.sequence]
        done_here = number == len(self._workers) - 1 and reply.status is Status.DONE
        if done_here and self._head_visit:
            self._send(message.pack(Kind.LM_HEAD))
            return []
        del self._running[reply.sequence]
        times = self.lanes.times(self._times, message.lane).tolist()
        step_time = StepTime(tuple(times[:-1]), times[-1], time.perf_counter() - started)
        error = None
        if reply.status is Status.FAILED:
            error = self._failure(number, reply.reason)
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
        self.send(message)
        finished: list[Finished] = []
        while not finished:
            finished = self.collect()
        if finished[0].error is not None:
            raise finished[0].error
        return np.array(self.logits(message)), finished[0].time

    def _failure(self, number: int, reason: str) -> EngineError:
        launch = self.launches[number]
        return EngineError(
            f"{launch.device} ({launch.backend}): {reason}",
            device=launch.device,
            blocks=launch.block_span,
            cause=reason,
        )

    def _death(self) -> EngineError:
        """What to say when a worker is gone; others then end by themselves, with exit code 0."""
        until = time.monotonic() + _EXIT_SECONDS
        codes: list[int | None] = [None]
        while None in codes and not any(codes) and time.monotonic() < until:
            for process, _ in self._workers:
                process.join(_POLL_SECONDS)
            codes = [process.exitcode for process, _ in self._workers]
        number = next((n for n, code in enumerate(codes) if code), 0)
        code = codes[number]
        cause = f"exit code {code}"
        if code is not None and code < 0:
            cause = f"signal {signal.Signals(-code).name}"
        launch = self.launches[number]
        return EngineError(
            f"the worker of {launch.device} ({launch.backend}, blocks {launch.block_span}) died"
            f" with {cause}; if its memory ran out, plan fewer blocks for that device.",
            device=launch.device,
            blocks=launch.block_span,
            cause=cause,
        )

    def close(self) -> None:
        """End the workers and remove the shared memory; safe to call twice."""
        for _, control in self._workers:
            control.close()  # a worker ends when its pipe does
        for process, _ in self._workers:
            process.join(_EXIT_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers = []
        for array in [*self._boundaries, self._logits, self._times]:
            with contextlib.suppress(FileNotFoundError):
                array.close()
        self._boundaries = []
