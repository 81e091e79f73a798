"""Stages on several machines, chained by wires: what `Pipeline` is on one machine."""

from __future__ import annotations

import logging
import secrets
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from runtime.backends.protocol import FloatArray
from runtime.bundle import Bundle
from runtime.chain import needs_head_visit
from runtime.cluster.actors import StageActor, end_hung
from runtime.cluster.frames import CARRYING, WireDtype, bare, split
from runtime.cluster.hang_watch import HangWatch
from runtime.cluster.monitor import RunMonitor
from runtime.cluster.placed import PlacedStage
from runtime.cluster.ray_door import nodes
from runtime.cluster.recovery import Replan, recover
from runtime.cluster.running_chain import ChainOrder, RunningChain, start_chain
from runtime.cluster.stage_wires import LocalArray, last_positions
from runtime.cluster.wire import SECRET_BYTES
from runtime.launch import StageLaunch
from runtime.pipeline import Finished, ProgressCallback, StepTime
from runtime.placement import Placement
from runtime.step_message import Kind, Reply, Status, StepMessage
from runtime.supervision import Supervision
from scheduler.errors import EngineError, GlmPlanError, StageFailedError
from scheduler.plan import Plan

_log = logging.getLogger(__name__)
_GROW = b"grow"
_RECOVERED = b"recovered"
_HUNG = b"hung"
_MOST_LOSSES = 6
_LOSSES_SECONDS = 300.0  # so many within this time, and the run ends


class ClusterPipeline:
    """Owns one Ray actor per stage and the wires between the driver and them.

    Ray places, starts and ends actors and carries the bundle's files; steps go over wires from
    stage to stage, and from the last one to the driver. Members are those of `Pipeline`.

    When a stage is lost, `replan` places the model on the nodes that are left; until they have
    loaded, the pipeline is not `ready`, and steps under way and all caches are lost. A node that
    returns is used again when no step is under way. Raises EngineError where the stages cannot
    start, or cannot start again.
    """

    def __init__(
        self,
        placed: list[PlacedStage],
        bundle: Bundle,
        decode_lanes: int,
        max_tokens: int,
        on_progress: ProgressCallback | None = None,
        *,
        replan: Replan,
        wire: WireDtype = "fp32",
        shared: bool = True,
        supervision: Supervision | None = None,
    ) -> None:
        self.losses = 0
        self.last_loss: EngineError | None = None
        self.degraded: list[str] = []
        self.placement: Placement | None = None
        self._order = ChainOrder(
            secrets.token_hex(4),
            bundle,
            secrets.token_bytes(SECRET_BYTES),
            wire,
            shared,
            decode_lanes,
            max_tokens,
        )
        self._replan = replan
        self._wanted = {one.node.name for one in placed}
        self._seen: set[str] = set()  # ids of nodes when the stages were placed last
        self._running: dict[int, tuple[StepMessage, float]] = {}
        self._sequence = 0
        self._outgoing: deque[bytes] = deque()
        self._arrived: list[Finished] = []  # while a send had to wait
        self._broken: EngineError | None = None  # noticed by a send, told by the next `collect`
        self._news, self._tell = Pipe(duplex=False)
        self._recovering: threading.Thread | None = None
        self._recovered: tuple[RunningChain, Plan | None] | EngineError | None = None
        self._closed = False
        self._restarts: dict[str, int] = {}
        self._watch = HangWatch(supervision or Supervision())
        self._hung: tuple[StageActor, int | None, EngineError] | None = None  # and its process
        self._answers = 0  # of all stages
        self._pids: dict[float, int] = {}  # of actors, by when they were started
        self._reported = time.monotonic()
        self._started: dict[str, float] = {}  # when the present actor of a device was
        self._lost: deque[float] = deque(maxlen=_MOST_LOSSES)
        # The launches of all devices that ever had a stage; a lost one has no blocks.
        self.launches: list[StageLaunch] = []
        self._adopt(start_chain(self._order, placed, on_progress=on_progress))
        self.ready = True
        self._monitor = RunMonitor(self._report, self._look)

    def _adopt(self, chain: RunningChain) -> None:
        """Use a chain that is loaded."""
        self._chain = chain
        self.lanes = chain.shape.lanes
        self._entry = LocalArray(self.lanes.boundary_numbers)
        self._final = LocalArray(self.lanes.boundary_numbers)
        self._logits = LocalArray(self.lanes.logits_numbers)
        self._times = LocalArray(self.lanes.times_numbers)
        self._head_visit = needs_head_visit([one.launch for one in chain.placed])
        launches = {
            one.device: replace(one, block_files=(), lm_head_file=None) for one in self.launches
        }
        launches |= {one.launch.device: one.launch for one in chain.placed}
        for actor in chain.actors:
            device = actor.placed.launch.device
            if actor.started > self._started.setdefault(device, actor.started):
                self._started[device] = actor.started
                self._restarts[device] = self._restarts.get(device, 0) + 1
        self.launches = list(launches.values())
        self._places = [list(launches).index(one.launch.device) for one in chain.placed]
        self.rss_bytes = [0] * len(launches)
        for place, size in zip(self._places, chain.rss_bytes, strict=True):
            self.rss_bytes[place] = size
        self._resident = list(self.rss_bytes)

    @property
    def run(self) -> str:
        """What `cluster status` calls this run."""
        return self._order.run

    @property
    def placed(self) -> list[PlacedStage]:
        """The stages that run now."""
        return self._chain.placed

    @property
    def actors(self) -> list[StageActor]:
        """Their actors."""
        return self._chain.actors

    def statuses(self) -> list[dict[str, Any]]:
        """What each stage says of itself now; empty for those that do not answer in time."""
        return self._chain.statuses()

    @property
    def process_ids(self) -> list[int]:
        """None: those of the stages are other machines'; `statuses` has them."""
        return []

    def resident_bytes(self) -> list[int]:
        """Resident memory of each stage's process, as it said in the last seconds."""
        return list(self._resident)

    @property
    def restarts(self) -> tuple[int, ...]:
        """How often each stage was started again."""
        return tuple(self._restarts.get(one.device, 0) for one in self.launches)

    def next_sequence(self) -> int:
        """A number for the next message."""
        self._sequence = (self._sequence + 1) % (1 << 32)
        return self._sequence

    def hidden(self, lane: int, positions: int) -> FloatArray:
        """Where the hidden states [positions, hidden_size] of a lane's next step belong."""
        return self.lanes.hidden(self._entry, lane, positions)

    def logits(self, message: StepMessage) -> FloatArray:
        """Logits [rows, vocab_size] of a finished step, until its lane is used again."""
        rows = self._chain.shape.answers(message)
        return self.lanes.logits(self._logits, message.lane, rows)

    def send(self, message: StepMessage) -> None:
        """Start a step, whose hidden states are in its lane, or another command."""
        if message.kind not in CARRYING:
            self._send(bare(message.pack()))
            return
        shape = self._chain.shape
        self._running[message.sequence] = message, time.perf_counter()
        times = self.lanes.times(self._times, message.lane)
        times[...] = 0.0
        hidden = self.hidden(message.lane, shape.positions(message))
        self._send(shape.with_hidden(message.pack(), times, hidden))

    def _send(self, frame: bytes) -> None:
        if not self.ready or self._broken is not None:
            return
        self._outgoing.append(frame)
        if len(self._outgoing) > 1:
            return  # what came back during a send asks for another one: after it
        try:
            while self._outgoing and self._broken is None:
                self._chain.wires[0].send(self._outgoing[0], self._take_meanwhile)
                self._outgoing.popleft()
        except ConnectionResetError as error:
            self._broken = self._broken or self._chain.loss(0, str(error))

    def _take_meanwhile(self) -> None:
        """Wait until the first stage reads on, taking what the stages answer until then."""
        sockets = self._chain.sockets()
        readers: list[Any] = [*sockets, self._news]
        for readable in select.select(readers, sockets[:1], [])[0]:
            if readable is self._news:  # nothing can have recovered, and growing can wait
                self._hear_of_hang(self._news.recv_bytes())
            else:
                self._receive(sockets.index(readable))
            if self._broken is not None:
                raise ConnectionResetError(str(self._broken))

    def collect(self, doorbell: Sequence[Connection] = ()) -> list[Finished]:
        """Wait until a step comes back, a doorbell is rung, or stages are lost or back.

        As `Pipeline.collect`. Releases the interpreter while it waits.
        """
        if not self._arrived and self._broken is None:
            sockets = self._chain.sockets() if self.ready else []
            ready = wait([*sockets, self._news, *doorbell])
            for number, one in enumerate(sockets):
                if one in ready and self._broken is None:
                    self._receive(number)
            if self._news in ready:
                self._hear(self._news.recv_bytes())
        if self._broken is not None:
            self._begin_again(self._broken)
        arrived, self._arrived = self._arrived, []
        return arrived

    def _receive(self, number: int) -> None:
        """Take one answer of a stage to what has arrived."""
        chain = self._chain
        try:
            words, numbers = split(chain.wires[number].receive())
            self._answers += 1
            reply = Reply.unpack(words)
            if reply.sequence not in self._running:
                return
            message, started = self._running[reply.sequence]
            if reply.status is Status.DONE and self._take(message, number, numbers):
                return
        except (EOFError, ConnectionResetError) as end:
            self._broken = self._broken or chain.loss(number, str(end))
            return
        del self._running[reply.sequence]
        *stages, lm_head = self.lanes.times(self._times, message.lane).tolist()
        by_place = [0.0] * len(self.launches)
        for place, seconds in zip(self._places, stages, strict=True):
            by_place[place] = seconds
        step_time = StepTime(tuple(by_place), lm_head, time.perf_counter() - started)
        failed = reply.status is Status.FAILED
        error = chain.failure(number, reply.reason) if failed else None
        finished = Finished(message, reply.status, step_time, error)
        self._monitor.count(finished)
        self._arrived.append(finished)

    def _take(self, message: StepMessage, number: int, numbers: memoryview) -> bool:
        """Take logits, or hidden states that still have to visit lm_head; True for these."""
        shape = self._chain.shape
        times = self.lanes.times(self._times, message.lane)
        if not (self._head_visit and number == len(self._chain.wires) - 1):
            shape.take(numbers, times, self.logits(message), exact=True)
            return False
        hidden = last_positions(self._final, shape, message)
        shape.take(numbers, times, hidden)
        self._send(shape.with_hidden(message.pack(Kind.LM_HEAD), times, hidden))
        return True

    def _begin_again(self, loss: EngineError | None) -> None:
        """Give up all that is under way, and let a thread start the stages anew."""
        if loss is not None:
            _log.warning("%s", loss)
            self.last_loss = loss
            now = time.monotonic()
            if len(self._lost) == _MOST_LOSSES and now - self._lost[0] < _LOSSES_SECONDS:
                raise StageFailedError(f"{loss} That is too often: it is not started again.")
            self._lost.append(now)
        self.losses += 1
        self.ready = False
        self._broken = None
        hung, self._hung = self._hung, None
        self._running.clear()
        self._outgoing.clear()
        self._arrived.clear()
        self._chain.disconnect()
        self._recovering = threading.Thread(
            target=self._recover,
            args=(self._chain.actors, hung),
            name="glm-plan recovery",
            daemon=True,
        )
        self._recovering.start()

    def _recover(
        self, actors: list[StageActor], hung: tuple[StageActor, int | None, EngineError] | None
    ) -> None:
        try:
            if hung is not None:
                actors = [one for one in actors if one is not hung[0]]
                end_hung(hung[0], hung[1])
            self._recovered = recover(self._order, self._replan, actors)
        except GlmPlanError as error:
            self._recovered = StageFailedError(str(error))
        except Exception as error:
            _log.exception("recovery failed")
            self._recovered = EngineError(f"recovery failed: {error!r}.")
        self._tell.send_bytes(_RECOVERED)

    def _hear(self, news: bytes) -> None:
        if news == _GROW:
            if self.ready and not self._running:
                self._begin_again(None)
            return
        if news == _HUNG:
            self._hear_of_hang(news)
            return
        found, self._recovered = self._recovered, None
        if isinstance(found, EngineError):
            raise found
        assert found is not None
        chain, plan = found
        self._adopt(chain)
        self._seen = {one.node_id for one in nodes()}
        there = {one.node.name for one in chain.placed}
        self.degraded = [
            f"{name} is lost; {', '.join(sorted(there))} compute its blocks"
            for name in sorted(self._wanted - there)
        ]
        self.placement = Placement(tuple(self.launches), plan, tuple(self.degraded))
        spans = ", ".join(f"{one.place} {one.launch.block_span}" for one in chain.placed)
        _log.warning("%s", "; ".join([*self.degraded, f"blocks are now on {spans}."]))
        self.ready = True

    def _hear_of_hang(self, news: bytes) -> None:
        """Count a stage as lost that the watch has found to hang, unless it is gone by now."""
        if news == _HUNG and self._hung is not None:
            if self.ready and self._hung[0] in self._chain.actors:
                self._broken = self._broken or self._hung[2]
            else:
                self._hung = None

    def _report(self, summary: dict[str, Any]) -> None:
        """Let the stages know, who repeat it to `cluster status`, and hear what they hold."""
        chain, places = self._chain, list(self._places)
        for actor in list(chain.actors):
            actor.handle.report.remote({**summary, "degraded": self.degraded})
        statuses = chain.statuses()
        self._look_for_hangs(chain, statuses)
        for place, status in zip(places, statuses, strict=False):
            if status and place < len(self._resident):
                self._resident[place] = int(status["rss_bytes"])

    def _look_for_hangs(self, chain: RunningChain, statuses: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        elapsed, self._reported = now - self._reported, now
        if not self.ready or chain is not self._chain or self._hung is not None:
            self._watch.forget()
            return
        for actor, status in zip(chain.actors, statuses, strict=False):
            if status:
                self._pids[actor.started] = int(status["pid"])
        due = [message for message, _ in list(self._running.values())]
        found = self._watch.look(elapsed, due, (self.losses, self._answers), statuses)
        if found is None:
            return
        number, seconds = found
        actor = chain.actors[number]
        loss = chain.lost(number, f"it made no progress for {seconds:.0f} s and was ended")
        self._hung = actor, self._pids.get(actor.started), loss
        self._tell.send_bytes(_HUNG)

    def _look(self) -> None:
        """Ask for a new plan where a node is back that the run was planned for."""
        if self.ready and self.degraded and not self._running:
            lost = self._wanted - {one.node.name for one in self._chain.placed}
            if any(one.name in lost and one.node_id not in self._seen for one in nodes()):
                self._tell.send_bytes(_GROW)

    def close(self) -> None:
        """End the stages and their actors; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._monitor.close()
        if self._recovering is not None:
            self._recovering.join()
        if isinstance(self._recovered, tuple):
            self._recovered[0].close()
        self._chain.close()
