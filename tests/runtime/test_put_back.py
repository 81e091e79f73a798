"""What the batching thread does when a pipeline loses a stage, over a pipeline without workers."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import pytest

from runtime.backends.protocol import FloatArray
from runtime.batch_loop import BatchLoop
from runtime.embedding import EmbeddingFile
from runtime.lanes import LaneShape
from runtime.pipeline import Finished, StepTime
from runtime.sampling import Sampling
from runtime.slots import Request
from runtime.step_message import Kind, Status, StepMessage
from runtime.stream import Generation, Stream
from scheduler.errors import EngineError

VOCABULARY, WIDTH, CONTEXT = 40, 2, 64
POISON = 13  # tokens of a prompt under which a stage ends


class LosingPipeline:
    """Answers each step at once; `loses` says before which it loses a stage instead."""

    restarts = (0,)

    def __init__(self, loses: Callable[[StepMessage], bool]) -> None:
        self.lanes = LaneShape(1, CONTEXT, WIDTH, VOCABULARY, 1)
        self.launches: list[Any] = []
        self.rss_bytes: list[int] = []
        self.process_ids: list[int] = []
        self.losses = 0
        self.last_loss: EngineError | None = None
        self.ready = True
        self.prompts: list[int] = []  # tokens of each that was begun
        self._loses = loses
        self._hidden = np.zeros((CONTEXT, WIDTH), np.float32)
        self._sent: deque[StepMessage] = deque()
        self._sequence = 0

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def hidden(self, lane: int, positions: int) -> FloatArray:
        return self._hidden[:positions]

    def logits(self, message: StepMessage) -> FloatArray:
        """A token that depends on how much is cached."""
        logits = np.zeros((4, VOCABULARY), np.float32)
        for number, row in enumerate(message.rows):
            if row is not None:
                at = 0 if message.kind is Kind.PREFILL else number
                logits[at, (row.cached + message.tokens) % VOCABULARY] = 1.0
        return logits

    def send(self, message: StepMessage) -> None:
        assert self.ready
        if message.kind is Kind.PREFILL:
            self.prompts.append(message.tokens)
        if message.kind in (Kind.PREFILL, Kind.DECODE):
            self._sent.append(message)

    def collect(self, doorbell: Sequence[Connection] = ()) -> list[Finished]:
        if not self.ready:
            self.ready = True
            return []
        if not self._sent:
            wait(list(doorbell))
            return []
        message = self._sent.popleft()
        if self._loses(message):
            self._sent.clear()
            self.losses += 1
            self.ready = False
            self.last_loss = EngineError("the worker of cpu died.")
            return []
        return [Finished(message, Status.DONE, StepTime((0.0,), 0.0, 0.0))]

    def resident_bytes(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def start(tmp_path: Any) -> Iterator[Callable[..., Callable[[int], Stream]]]:
    """Start a loop over a pipeline; returns what submits a prompt of so many tokens."""
    table = tmp_path / "embedding"
    table.write_bytes(bytes(VOCABULARY * WIDTH * 2))
    loops = []

    def begin(pipeline: LosingPipeline, *, chunked: bool = False) -> Callable[[int], Stream]:
        embedding = EmbeddingFile(table, VOCABULARY, WIDTH)
        loop = BatchLoop(pipeline, embedding, (4,), 1, 100, chunked=chunked)
        loops.append(loop)

        def submit(length: int) -> Stream:
            stream = Stream(Generation(), loop.ring)
            ends: frozenset[int] = frozenset()
            loop.submit(Request(stream, [1] * length, Sampling(), 10, ends, CONTEXT, True))
            return stream

        submit.loop = loop  # type: ignore[attr-defined]
        return submit

    yield begin
    for loop in loops:
        loop.close()


def test_requests_go_on_in_the_order_in_which_they_came(start: Any) -> None:
    decoded = iter(range(1000))
    pipeline = LosingPipeline(lambda one: one.kind is Kind.DECODE and next(decoded) == 4)
    submit = start(pipeline)
    lengths = [5, 6, 7, 8, 9, 10]
    streams = [submit(length) for length in lengths]
    for length, stream in zip(lengths, streams, strict=True):
        assert list(stream) == [(length + n) % VOCABULARY for n in range(10)]
    assert pipeline.losses == 1
    lost = [length for length, one in zip(lengths, streams, strict=True) if one.generation.replays]
    assert lost == lengths[: len(lost)]
    assert pipeline.prompts == [*lost, *lost, *lengths[len(lost) :]]


def test_a_prompt_under_which_stages_end_again_and_again_fails_alone(start: Any) -> None:
    pipeline = LosingPipeline(lambda one: one.kind is Kind.PREFILL and one.tokens == POISON)
    submit = start(pipeline)
    streams = [submit(length) for length in (5, POISON, 7, 8)]
    with pytest.raises(EngineError, match=r"ended 3 times .* prompt of 13 tokens; .*cpu died"):
        list(streams[1])
    for length, stream in zip((5, 7, 8), (streams[0], *streams[2:]), strict=True):
        assert list(stream) == [(length + n) % VOCABULARY for n in range(10)]
    assert pipeline.losses == 3
    assert list(submit(6)) == [(6 + n) % VOCABULARY for n in range(10)]


def test_a_prompt_that_was_unlucky_twice_is_answered(start: Any) -> None:
    left = [True, True]
    pipeline = LosingPipeline(lambda one: one.kind is Kind.PREFILL and bool(left and left.pop()))
    stream = start(pipeline)(5)
    assert list(stream) == [(5 + n) % VOCABULARY for n in range(10)]
    assert stream.generation.replays == 2


class Meddled(LosingPipeline):
    """Calls `meddle` where the batching thread is about to admit requests."""

    meddle: Callable[[], None] | None = None

    @property
    def ready(self) -> bool:  # type: ignore[override]
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
        return True

    @ready.setter
    def ready(self, _: bool) -> None:
        pass


def test_what_was_forgotten_is_not_reused_by_a_request_that_comes_after(start: Any) -> None:
    pipeline = Meddled(lambda _: False)
    submit = start(pipeline, chunked=True)
    list(submit(5))
    later: queue.SimpleQueue[Stream] = queue.SimpleQueue()

    def meddle() -> None:
        submit.loop.forget()
        later.put(submit(5))

    pipeline.meddle = meddle
    submit.loop.ring()
    stream = later.get(timeout=30)
    list(stream)
    assert stream.generation.reused_tokens == 0
