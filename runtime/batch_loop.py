"""The engine's thread: admits requests into slots and keeps every stage supplied with steps.

Requests enter in the order in which they came. One prompt is computed at a time; while it is,
running answers go on, since stages let decode steps pass between two blocks of a prompt.
"""

from __future__ import annotations

import copy
import itertools
import logging
import threading
import time
from collections import deque
from multiprocessing import Pipe

from runtime.batching import choose_group
from runtime.embedding import EmbeddingFile
from runtime.pipeline import Finished
from runtime.pipeline_protocol import StagePipeline
from runtime.slots import Group, Request
from runtime.step_message import Kind, Status, StepMessage
from runtime.stream import FinishReason
from scheduler.errors import BusyError, EngineError
from scheduler.slots import PREFILL_CHUNK

_log = logging.getLogger(__name__)
_MOST_FATAL_PROMPTS = 3


class BatchLoop:
    """Owns the queue and the slots; `sizes` are the groups' rows."""

    def __init__(
        self,
        pipeline: StagePipeline,
        embedding: EmbeddingFile,
        sizes: tuple[int, ...],
        stages_at_once: int,
        queue_limit: int,
        chunked: bool,
    ) -> None:
        self._pipeline = pipeline
        self._embedding = embedding
        self._groups = [Group(number, size, sum(sizes) > 1) for number, size in enumerate(sizes)]
        self._sizes = sizes
        self._stages_at_once = stages_at_once
        self._queue_limit = queue_limit
        self._chunked = chunked
        self._lock = threading.Lock()
        self._queue: deque[Request] = deque()
        self._numbers = itertools.count()
        self._present = 0  # requests that wait or run
        self._prefilling: tuple[Group, Request, int] | None = None  # and its message's number
        self._closing = False
        self._forgetting = False
        self._error: EngineError | None = None
        self._doorbell, self._bell_button = Pipe(duplex=False)
        self._rung = False
        self._thread = threading.Thread(target=self._run, name="glm-plan batching", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queue a request; BusyError where the queue is full, EngineError after a failure."""
        with self._lock:
            if self._error is not None:
                raise copy.copy(self._error)
            if self._closing:
                raise EngineError("the engine is closed.")
            if self._present >= sum(self._sizes) + self._queue_limit:
                raise BusyError(
                    f"{self._queue_limit} requests wait already; try again later, or plan more"
                    " --slots."
                )
            request.number = next(self._numbers)
            self._queue.append(request)
            self._present += 1
        self.ring()

    @property
    def fault(self) -> EngineError | None:
        """What ended the thread before it was closed; requests end after it is set."""
        return self._error

    def ring(self) -> None:
        """Make the thread look at what changed."""
        with self._lock:
            if not self._rung and not self._closing:
                self._rung = True
                self._bell_button.send_bytes(b"!")

    def forget(self) -> None:
        """Give back the cache of groups in which no request runs."""
        self._forgetting = True
        self.ring()

    def close(self) -> None:
        """End the thread; running answers end as cancelled."""
        with self._lock:
            if not self._closing:
                self._closing = True
                if not self._rung:
                    self._rung = True
                    self._bell_button.send_bytes(b"!")
        self._thread.join()
        self._doorbell.close()
        self._bell_button.close()

    def _run(self) -> None:
        error: EngineError | None = None
        try:
            while not self._closing:
                self._end_cancelled()
                self._forget_as_told()
                if self._pipeline.ready:
                    self._admit()
                    for group in self._groups:
                        self._decode(group)
                losses = self._pipeline.losses
                for finished in self._pipeline.collect([self._doorbell]):
                    self._take(finished)
                if losses != self._pipeline.losses:
                    self._put_back()
                self._hear_bell()
        except EngineError as failure:
            error = failure
        except Exception as failure:
            _log.exception("the batching thread failed")
            error = EngineError(f"the engine failed: {failure!r}.")
        with self._lock:
            self._error = error
            waiting = [*self._queue]
            self._queue.clear()
        for request in [*waiting, *(r for group in self._groups for r in group.requests.values())]:
            self._end(request, error or "cancelled")

    def _hear_bell(self) -> None:
        with self._lock:
            if self._rung:
                self._doorbell.recv_bytes()
                self._rung = False

    def _forget_as_told(self) -> None:
        if self._forgetting:
            self._forgetting = False
            for group in self._groups:
                self._drop_unused(group)

    def _end_cancelled(self) -> None:
        with self._lock:
            gone = [request for request in self._queue if request.stream.cancelled]
            for request in gone:
                self._queue.remove(request)
        for request in gone:
            self._end(request, "cancelled")
        if self._prefilling is not None:
            _, request, sequence = self._prefilling
            if request.stream.cancelled and not request.aborting:
                request.aborting = True
                self._pipeline.send(StepMessage(Kind.ABORT, sequence))
        for group in self._groups:
            if not group.busy:
                for request in list(group.requests.values()):
                    if request.stream.cancelled and request.decoding:
                        self._release(group, request, "cancelled")

    def _put_back(self) -> None:
        """Queue what runs again, before all that waits: a stage has ended, and its caches with it.

        A request under whose prompt stages ended again and again is the likely cause, and fails.
        """
        running = [one for group in self._groups for one in group.requests.values()]
        if self._prefilling is not None:
            self._prefilling[1].fatal_prompts += 1
        self._prefilling = None
        for group in self._groups:
            group.requests.clear()
            group.busy = False
            group.forget()
        for request in sorted(running, key=lambda one: one.number, reverse=True):
            if request.fatal_prompts == _MOST_FATAL_PROMPTS:
                self._end(request, self._fatal(request))
                continue
            request.begin_again()
            with self._lock:
                self._queue.appendleft(request)

    def _fatal(self, request: Request) -> EngineError:
        return EngineError(
            f"a worker ended {request.fatal_prompts} times while it computed this prompt of"
            f" {len(request.prompt_ids)} tokens; it is not tried again. The last time:"
            f" {self._pipeline.last_loss}"
        )

    def _admit(self) -> None:
        if self._prefilling is not None:
            return
        running = [len(group.requests) for group in self._groups]
        number = choose_group(running, self._sizes, self._stages_at_once)
        if number is None:
            return
        with self._lock:
            if not self._queue:
                return
            request = self._queue.popleft()
        self._forget_as_told()  # which may have been before this request came
        generation = request.stream.generation
        if not generation.replays:
            generation.queued_seconds = time.perf_counter() - generation.started
        # What is replayed gave its answer from a prompt that was computed; so it is again.
        reusable = [] if generation.token_ids or generation.replays else request.prompt_ids
        kept = [group.longest_kept(reusable) for group in self._groups]
        reused, row = max(kept)
        if reused:
            group = self._groups[kept.index((reused, row))]
        else:
            group = self._groups[number]
            row = group.free_row()
        request.cached = generation.reused_tokens = reused
        group.requests[row] = request
        self._prefill(group, request)

    def _prefill(self, group: Group, request: Request) -> None:
        arrangement = group.arrange(keep=True)
        rest = request.prompt_ids[request.cached :]
        ids = rest[:PREFILL_CHUNK] if self._chunked else rest
        row = group.row_of(request)
        lane = self._pipeline.lanes.prefill_lane
        message = StepMessage(
            Kind.PREFILL,
            self._pipeline.next_sequence(),
            group.number,
            lane,
            arrangement.capacity,
            len(ids),
            row,
            sources=arrangement.sources,
            rows=tuple(request.row if n == row else None for n in range(arrangement.rows)),
        )
        self._pipeline.hidden(lane, len(ids))[...] = self._embedding.lookup(ids)
        self._prefilling = group, request, message.sequence
        self._pipeline.send(message)

    def _decode(self, group: Group) -> None:
        if group.busy or not any(request.decoding for request in group.requests.values()):
            return
        filling = self._prefilling is not None and self._prefilling[0] is group
        arrangement = group.arrange(keep=filling or bool(self._queue))
        rows = [group.requests.get(row) for row in range(arrangement.rows)]
        steps = {row: one for row, one in enumerate(rows) if one is not None and one.decoding}
        message = StepMessage(
            Kind.DECODE,
            self._pipeline.next_sequence(),
            group.number,
            lane=group.number,
            capacity=arrangement.capacity,
            sources=arrangement.sources,
            rows=tuple(steps[row].row if row in steps else None for row in range(arrangement.rows)),
        )
        ids = [request.next_id for request in steps.values()]
        hidden = self._pipeline.hidden(group.number, arrangement.rows)
        hidden[list(steps)] = self._embedding.lookup(ids)
        group.busy = True
        self._pipeline.send(message)

    def _take(self, finished: Finished) -> None:
        group = self._groups[finished.message.group]
        if finished.message.kind is Kind.PREFILL:
            assert self._prefilling is not None
            _, request, _ = self._prefilling
            self._prefilling = None
            self._take_prefill(group, request, finished)
            return
        group.busy = False
        logits = self._pipeline.logits(finished.message)
        for row, step in enumerate(finished.message.rows):
            if step is None:
                continue
            request = group.requests[row]
            if finished.error is not None:
                self._release(group, request, finished.error)
                continue
            request.took_step(finished.time)
            reason = request.take(logits[row])
            if reason is not None:
                self._release(group, request, reason)

    def _take_prefill(self, group: Group, request: Request, finished: Finished) -> None:
        if finished.error is not None:
            self._release(group, request, finished.error)
        elif finished.status is Status.ABORTED or request.stream.cancelled:
            self._release(group, request, "cancelled")
        else:
            request.took_prompt(finished.message.tokens, finished.time)
            if not request.decoding:
                if self._pipeline.ready:
                    self._prefill(group, request)
                return
            request.fatal_prompts = 0
            reason = request.take(self._pipeline.logits(finished.message)[0])
            if reason is not None:
                self._release(group, request, reason)

    def _release(self, group: Group, request: Request, reason: FinishReason | EngineError) -> None:
        """Take a request out of its row and end it.

        A causal one leaves its tokens in the row, until another request needs it. Else the cache is
        given back with the last request of the group.
        """
        if self._chunked and not isinstance(reason, EngineError):
            group.keep(request)
        del group.requests[group.row_of(request)]
        if not group.kept:
            self._drop_unused(group)
        self._end(request, reason)

    def _drop_unused(self, group: Group) -> None:
        if group.rows and not group.requests and not group.busy:
            group.forget()
            self._pipeline.send(
                StepMessage(Kind.DROP, self._pipeline.next_sequence(), group.number)
            )

    def _end(self, request: Request, reason: FinishReason | EngineError) -> None:
        with self._lock:
            self._present -= 1
        request.stream.end(reason)
