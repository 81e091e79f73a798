"""The workers of all stages: started, heard, ended where they hang, and started anew one by one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterator, Sequence
from multiprocessing.connection import Connection, wait

from runtime.lanes import LaneShape, Numbers
from runtime.launch import StageLaunch
from runtime.stage_process import Inbox, StageProcess
from runtime.step_message import StepMessage
from runtime.supervision import StageHistory, StallWatch, Supervision
from runtime.worker import Failed, Loaded, Ready, WorkerConfig
from scheduler.errors import EngineError, StageFailedError

_log = logging.getLogger(__name__)
ProgressCallback = Callable[[StageLaunch, Loaded], None]


class StageWorkers:
    """One worker for every stage, and the pipes that lead into and along them.

    `config` gives what a stage's worker is told, where the second argument says whether another one
    was there before it. A worker that ends or hangs is replaced, its neighbours stay: `losses`
    counts that, `histories` by stage. Raises StageFailedError where `supervision` allows no further
    start.
    """

    def __init__(
        self,
        launches: list[StageLaunch],
        config: Callable[[int, bool], WorkerConfig],
        supervision: Supervision,
    ) -> None:
        self.losses = 0
        self.last_loss: StageFailedError | None = None
        self.histories = [StageHistory() for _ in launches]
        self.rss_bytes = [0] * len(launches)
        self._launches, self._config, self._supervision = launches, config, supervision
        self._inboxes = [Inbox() for _ in launches]
        self._workers: list[StageProcess | None] = [None] * len(launches)
        self._starts: dict[int, float] = {}  # when stages without a worker get one
        self._watch = StallWatch(supervision, len(launches))
        self._looked = time.monotonic()

    def load(self, on_progress: ProgressCallback | None) -> None:
        """Start all at once, and wait until every one is ready; EngineError if one cannot be."""
        waiting = {number: self._start(number) for number in range(len(self._workers))}
        while waiting:
            ready = wait([handle for worker in waiting.values() for handle in worker.handles])
            for number, worker in list(waiting.items()):
                if not set(worker.handles) & set(ready):
                    continue
                try:
                    message = worker.loading_message()
                except (EOFError, OSError):
                    raise self._death(number, worker.cause_of_death()) from None
                if isinstance(message, Failed):
                    raise stage_failure(self._launches[number], message.reason)
                if isinstance(message, Ready):
                    self.rss_bytes[number] = message.rss_bytes
                    del waiting[number]
                elif on_progress is not None:
                    on_progress(self._launches[number], message)

    def _start(self, number: int, *, again: bool = False) -> StageProcess:
        launch = self._launches[number]
        after = self._inboxes[number + 1] if number + 1 < len(self._inboxes) else None
        worker = StageProcess(
            self._config(number, again),
            f"glm-plan {launch.device} {launch.backend}",
            self._inboxes[number],
            after,
        )
        self._workers[number] = worker
        return worker

    @property
    def process_ids(self) -> list[int]:
        """Operating system ids of the workers, in the order of the stages."""
        ids = [worker.process_id for worker in self._workers if worker is not None]
        return [one for one in ids if one is not None]

    @property
    def handles(self) -> list[Connection | int]:
        """What to wait for."""
        workers = [worker for worker in self._workers if worker is not None]
        return [handle for worker in workers for handle in worker.handles]

    def send(self, data: bytes) -> None:
        """Give a message to the first stage; it waits there while the stage has no worker."""
        self._inboxes[0].writer.send_bytes(data)

    def received(self, ready: Container[object]) -> Iterator[tuple[int, bytes]]:
        """Answers of stages whose handles are ready; those that have ended are replaced."""
        for number, worker in enumerate(self._workers):
            if worker is None or not any(handle in ready for handle in worker.handles):
                continue
            try:
                if worker.ready:
                    answer = worker.answers.recv_bytes()
                else:
                    self._hear_loading(number, worker.loading_message())
                    continue
            except (EOFError, OSError):
                self._replace(number, worker.cause_of_death())
                continue
            yield number, answer

    def _hear_loading(self, number: int, message: Loaded | Ready | Failed) -> None:
        if isinstance(message, Failed):
            self._replace(number, f"could not be loaded again ({message.reason.rstrip('.')})")
        elif isinstance(message, Ready):
            self.rss_bytes[number] = message.rss_bytes

    def _replace(self, number: int, cause: str) -> None:
        worker = self._workers[number]
        assert worker is not None
        worker.kill()
        self._workers[number] = None
        self.losses += 1
        now = time.monotonic()
        pause = self.histories[number].died(now, cause, self._supervision)
        self.last_loss = self._death(number, cause)
        if pause is None:
            raise self.last_loss
        _log.warning(
            "%s It is started again.",
            self.last_loss,
            extra={
                "fields": {
                    "device": self.last_loss.device,
                    "blocks": self.last_loss.blocks,
                    "cause": self.last_loss.cause,
                    "restart": self.histories[number].restarts,
                }
            },
        )
        self._starts[number] = now + pause
        self._watch.forget(number)
        self._inboxes[number].drain()

    def _death(self, number: int, cause: str) -> StageFailedError:
        launch, times = self._launches[number], self.histories[number].recent_deaths
        often = ""
        if times > 1:
            minutes = self._supervision.window_seconds / 60
            often = f" ({times} failures in {minutes:.0f} minutes)"
        return StageFailedError(
            f"the worker of {launch.device} ({launch.backend}, blocks {launch.block_span})"
            f" {cause}{often}; if its memory ran out, plan fewer blocks for that device.",
            device=launch.device,
            blocks=launch.block_span,
            cause=cause.removeprefix("died with "),
        )

    def patience_seconds(self, *, busy: bool) -> float | None:
        """How long nothing has to be supervised; `busy`: a step is under way."""
        times = [max(0.0, when - time.monotonic()) for when in self._starts.values()]
        if busy:
            times.append(self._supervision.check_seconds)
        return min(times, default=None)

    def supervise(self, steps: Sequence[StepMessage], lanes: LaneShape, progress: Numbers) -> None:
        """Start workers whose time has come, and replace one that hangs under these steps."""
        now = time.monotonic()
        for number in [number for number, when in self._starts.items() if when <= now]:
            del self._starts[number]
            self._start(number, again=True)
        elapsed = now - self._looked
        if elapsed < self._supervision.check_seconds:
            return
        self._looked = now
        patience = self._supervision
        stalled = self._watch.look(
            elapsed,
            lanes.progress(progress),
            [(one.lane, patience.part_seconds(one.tokens)) for one in steps],
            {
                number: (worker.parts, patience.loading_seconds)
                for number, worker in enumerate(self._workers)
                if worker is not None and not worker.ready
            },
            tuple(self._starts),
        )
        if stalled is not None:
            self._replace(stalled[0], f"made no progress for {stalled[1]:.0f} s and was ended")

    def close(self) -> None:
        """End them; safe to call twice."""
        for inbox in self._inboxes:
            inbox.close()  # a worker ends when nobody can write to it
        for worker in self._workers:
            if worker is not None:
                worker.close()
        self._inboxes, self._workers = [], []


def stage_failure(launch: StageLaunch, reason: str) -> EngineError:
    """What to say when a stage cannot load or compute something, and goes on."""
    return EngineError(
        f"{launch.device} ({launch.backend}): {reason}",
        device=launch.device,
        blocks=launch.block_span,
        cause=reason,
    )
