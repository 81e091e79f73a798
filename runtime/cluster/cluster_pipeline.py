"""Stages on several machines, chained by wires: what `Pipeline` is on one machine."""

from __future__ import annotations

import contextlib
import json
import secrets
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from socket import socket
from typing import Any

from runtime.backends.protocol import FloatArray
from runtime.bundle import Bundle
from runtime.chain import loop_config, needs_head_visit, worker_config
from runtime.cluster.actors import StageActor, end_actor, start_actors
from runtime.cluster.frames import CARRYING, FrameShape, WireDtype, bare, split
from runtime.cluster.monitor import RunMonitor
from runtime.cluster.placed import PlacedStage, relative_launch
from runtime.cluster.ray_door import answer, first_line, load_ray
from runtime.cluster.stage_host import StageOrder
from runtime.cluster.stage_wires import LocalArray, last_positions
from runtime.cluster.wire import SECRET_BYTES, Wire, connect
from runtime.geometry import Geometry
from runtime.lanes import LaneShape
from runtime.launch import StageLaunch
from runtime.pipeline import Finished, ProgressCallback, StepTime
from runtime.step_message import Kind, Reply, Status, StepMessage
from runtime.worker import Loaded
from scheduler.errors import EngineError

_CAUSE_SECONDS = 2.0
_STATUS_SECONDS = 2.0


class ClusterPipeline:
    """Owns one Ray actor per stage and the wires between the driver and them.

    Ray places, starts and ends actors and carries the bundle's files; steps go over wires from
    stage to stage, and from the last one to the driver. Members are those of `Pipeline`. Raises
    EngineError when a stage cannot load, or is lost; the message says which host and why.
    """

    ready = True
    losses = 0
    last_loss: EngineError | None = None

    def __init__(
        self,
        placed: list[PlacedStage],
        bundle: Bundle,
        decode_lanes: int,
        max_tokens: int,
        on_progress: ProgressCallback | None = None,
        *,
        wire: WireDtype = "fp32",
        shared: bool = True,
    ) -> None:
        self.run = secrets.token_hex(4)
        self.placed = placed
        self.launches = [one.launch for one in placed]
        self.rss_bytes: list[int] = []
        geometry = bundle.manifest.geometry
        self.lanes = LaneShape(
            decode_lanes, max_tokens, geometry.hidden_size, geometry.vocab_size, len(placed)
        )
        self._bundle, self._geometry, self._shared = bundle, geometry, shared
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._shape = FrameShape(self.lanes, wire)
        self._entry = LocalArray(self.lanes.boundary_numbers)
        self._final = LocalArray(self.lanes.boundary_numbers)
        self._logits = LocalArray(self.lanes.logits_numbers)
        self._times = LocalArray(self.lanes.times_numbers)
        self._running: dict[int, tuple[StepMessage, float]] = {}
        self._sequence = 0
        self._head_visit = needs_head_visit(self.launches)
        self._actors: list[StageActor] = []
        self._served: list[Any] = []  # Ray's promises of why each stage ended
        self._wires: list[Wire] = []
        self._outgoing: deque[bytes] = deque()
        self._arrived: list[Finished] = []  # while a send had to wait
        self._monitor: RunMonitor | None = None
        try:
            self._actors = start_actors(self.run, placed, bundle, self._secret, shared=shared)
            self._join(on_progress)
            self._monitor = RunMonitor(self._report)
        except BaseException:
            self.close()
            raise

    def _join(self, on_progress: ProgressCallback | None) -> None:
        """Tell every stage its place in the chain, connect to it and wait until it is loaded."""
        behind = [one.address for one in self._actors[1:]] + [None]
        for number, (actor, after) in enumerate(zip(self._actors, behind, strict=True)):
            launch = relative_launch(actor.placed.launch, self._bundle)
            loop = loop_config(self.launches, number)
            order = StageOrder(
                worker=worker_config(launch, self._geometry, self.lanes, loop),
                dtype=self._shape.dtype,
                first=number == 0,
                after=after,
                about=self._about(number),
            )
            self._served.append(actor.handle.serve.remote(order))
        for number, actor in enumerate(self._actors):
            try:
                wire = connect(
                    actor.address.host,
                    actor.address.port,
                    self._secret,
                    "driver",
                    self._shape.most_bytes,
                )
            except (OSError, EOFError) as error:
                raise self._loss(number, str(error)) from None
            self._wires.append(wire)
        self._await_ready(on_progress)

    def _about(self, number: int) -> dict[str, Any]:
        placed = self._actors[number].placed
        return {
            "run": self.run,
            "model": self._bundle.manifest.model,
            "stage": number,
            "stages": len(self._actors),
            "host": placed.node.name,
            "device": placed.place,
            "backend": placed.launch.backend,
            "blocks": placed.launch.block_span,
            "lm_head": placed.launch.lm_head_file is not None,
            "fetched_bytes": self._actors[number].fetched_bytes,
        }

    def _await_ready(self, on_progress: ProgressCallback | None) -> None:
        waiting = dict(enumerate(self._wires))
        rss_bytes: dict[int, int] = {}
        while waiting:
            ready = wait([wire.socket for wire in waiting.values()])
            for number, wire in list(waiting.items()):
                if wire.socket not in ready:
                    continue
                try:
                    words = json.loads(split(wire.receive())[0])
                except (EOFError, OSError) as error:
                    raise self._loss(number, str(error)) from None
                if "failed" in words:
                    raise self._failure(number, words["failed"])
                if "ready" in words:
                    rss_bytes[number] = words["rss_bytes"]
                    del waiting[number]
                elif on_progress is not None:
                    loaded = Loaded(words["loaded"], words["rss_bytes"])
                    on_progress(self.launches[number], loaded)
        self.rss_bytes = [rss_bytes[number] for number in range(len(self._wires))]

    @property
    def process_ids(self) -> list[int]:
        """Operating system ids of the stages' processes, each on its own host."""
        return [int(one["pid"]) for one in self.statuses() if one]

    @property
    def restarts(self) -> tuple[int, ...]:
        """How often each stage was started again: never."""
        return (0,) * len(self.launches)

    def next_sequence(self) -> int:
        """A number for the next message."""
        self._sequence = (self._sequence + 1) % (1 << 32)
        return self._sequence

    def hidden(self, lane: int, positions: int) -> FloatArray:
        """Where the hidden states [positions, hidden_size] of a lane's next step belong."""
        return self.lanes.hidden(self._entry, lane, positions)

    def logits(self, message: StepMessage) -> FloatArray:
        """Logits [rows, vocab_size] of a finished step, until its lane is used again."""
        return self.lanes.logits(self._logits, message.lane, self._shape.answers(message))

    def send(self, message: StepMessage) -> None:
        """Start a step, whose hidden states are in its lane, or another command."""
        if message.kind not in CARRYING:
            self._send(bare(message.pack()))
            return
        self._running[message.sequence] = message, time.perf_counter()
        times = self.lanes.times(self._times, message.lane)
        times[...] = 0.0
        hidden = self.hidden(message.lane, self._shape.positions(message))
        self._send(self._shape.with_hidden(message.pack(), times, hidden))

    def _send(self, frame: bytes) -> None:
        self._outgoing.append(frame)
        if len(self._outgoing) > 1:
            return  # what came back during a send asks for another one: after it
        try:
            while self._outgoing:
                self._wires[0].send(self._outgoing[0], self._take_meanwhile)
                self._outgoing.popleft()
        except ConnectionResetError as error:
            raise self._loss(0, str(error)) from None

    def _take_meanwhile(self) -> None:
        """Wait until the first stage reads on, taking what the stages answer until then."""
        sockets = self._sockets()
        for readable in select.select(sockets, sockets[:1], [])[0]:
            self._arrived += self._received(sockets.index(readable))

    def _sockets(self) -> list[socket]:
        return [wire.socket for wire in self._wires]

    def collect(self, doorbell: Sequence[Connection] = ()) -> list[Finished]:
        """Wait until a step comes back or a doorbell is rung; what came back.

        As `Pipeline.collect`. Releases the interpreter while it waits.
        """
        if not self._arrived:
            ready = wait([*self._sockets(), *doorbell])
            for number, wire in enumerate(self._wires):
                if wire.socket in ready:
                    self._arrived += self._received(number)
        arrived, self._arrived = self._arrived, []
        return arrived

    def _received(self, number: int) -> list[Finished]:
        try:
            words, numbers = split(self._wires[number].receive())
            reply = Reply.unpack(words)
            if reply.sequence not in self._running:
                return []
            message, started = self._running[reply.sequence]
            if reply.status is Status.DONE and self._take(message, number, numbers):
                return []
        except (EOFError, ConnectionResetError) as end:
            raise self._loss(number, str(end)) from None
        del self._running[reply.sequence]
        times = self.lanes.times(self._times, message.lane).tolist()
        step_time = StepTime(tuple(times[:-1]), times[-1], time.perf_counter() - started)
        error = None
        if reply.status is Status.FAILED:
            error = self._failure(number, reply.reason)
        finished = Finished(message, reply.status, step_time, error)
        if self._monitor is not None:
            self._monitor.count(finished)
        return [finished]

    def _take(self, message: StepMessage, number: int, numbers: memoryview) -> bool:
        """Take logits, or hidden states that still have to visit lm_head; True for these."""
        times = self.lanes.times(self._times, message.lane)
        if not (self._head_visit and number == len(self._wires) - 1):
            self._shape.take(numbers, times, self.logits(message), exact=True)
            return False
        hidden = last_positions(self._final, self._shape, message)
        self._shape.take(numbers, times, hidden)
        self._send(self._shape.with_hidden(message.pack(Kind.LM_HEAD), times, hidden))
        return True

    def statuses(self) -> list[dict[str, Any]]:
        """What each stage says of itself now; empty for those that do not answer in time."""
        asked = [one.handle.status.remote() for one in self._actors]
        until = time.monotonic() + _STATUS_SECONDS
        return [_status(one, max(0.0, until - time.monotonic())) for one in asked]

    def resident_bytes(self) -> list[int]:
        """Resident memory of each stage's process now; as loaded, where it cannot be had."""
        statuses = self.statuses()
        if len(statuses) != len(self.rss_bytes):
            return list(self.rss_bytes)
        pairs = zip(statuses, self.rss_bytes, strict=True)
        return [int(status.get("rss_bytes", loaded)) for status, loaded in pairs]

    def _failure(self, number: int, reason: str) -> EngineError:
        launch = self.launches[number]
        return EngineError(f"{launch.device} ({launch.backend}): {reason}")

    def _loss(self, noticed: int, how: str) -> EngineError:
        """What to say when a wire has ended: Ray knows of dead actors, stages of lost wires."""
        ray = load_ray()
        cause, number = how, noticed
        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait(self._served, num_returns=len(self._served), timeout=_CAUSE_SECONDS)
        ends = [_end(one) for one in self._served]
        if any(ends):
            number, cause = next((n, end) for n, end in enumerate(ends) if end)
        launch = self.launches[number]
        return EngineError(
            f"the stage of {launch.device} ({launch.backend}, blocks {launch.block_span}) is lost:"
            f" {cause}."
        )

    def _report(self, summary: dict[str, Any]) -> None:
        for actor in list(self._actors):
            actor.handle.report.remote(summary)

    def close(self) -> None:
        """End the stages and their actors; safe to call twice."""
        if self._monitor is not None:
            self._monitor.close()
        for wire in self._wires:
            wire.close()  # a stage's loop ends when its wire does
        for actor in self._actors:
            end_actor(actor.handle)
        self._wires, self._actors, self._served = [], [], []


def _status(reference: Any, seconds: float) -> dict[str, Any]:
    try:
        found: dict[str, Any] = answer(reference, "a stage", seconds)
    except EngineError:
        return {}
    return found


def _end(served: Any) -> str | None:
    """Why an actor is no more, in Ray's words; None for one that is there, or ended as told."""
    ray = load_ray()
    try:
        ray.get(served, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return None
    except ray.exceptions.RayError as error:
        return first_line(error)
    return None


def cluster_factory(
    placed: list[PlacedStage], bundle: Bundle, *, wire: WireDtype = "fp32", shared: bool = True
) -> Callable[[list[StageLaunch], Geometry, int, int, ProgressCallback | None], ClusterPipeline]:
    """A PipelineFactory that starts these stages on their nodes."""

    def start(
        launches: list[StageLaunch],
        _geometry: Geometry,
        decode_lanes: int,
        max_tokens: int,
        on_progress: ProgressCallback | None = None,
    ) -> ClusterPipeline:
        there = [replace(one, launch=launch) for one, launch in zip(placed, launches, strict=True)]
        return ClusterPipeline(
            there, bundle, decode_lanes, max_tokens, on_progress, wire=wire, shared=shared
        )

    return start
