"""The queue, ends of streams, and what a dead or stopped worker does to the parent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from runtime.bundle import open_bundle
from runtime.engine import Engine
from runtime.sampling import Sampling
from runtime.supervision import Supervision
from scheduler.errors import BusyError, EngineError, StageFailedError, UserInputError
from tests.support.engines import start_engine
from tests.support.tiny import TINY_BUNDLE

WILD = Sampling(temperature=50.0, seed=3)  # hardly ever meets the end token
LONG = 200


@pytest.fixture
def engine() -> Iterator[Engine]:
    bundle = open_bundle(TINY_BUNDLE)
    with start_engine(bundle, slots=2, first_blocks=5, queue_limit=4) as started:
        yield started


def prompt(length: int = 3) -> list[int]:
    tokens = open_bundle(TINY_BUNDLE).manifest.tokens
    assert tokens is not None
    return [*range(100, 100 + length), tokens.gmask, tokens.bos]


def test_requests_enter_in_the_order_in_which_they_came(engine: Engine) -> None:
    streams = [engine.submit(prompt(5 + n), WILD, 20) for n in range(6)]
    answers = [list(stream) for stream in streams]
    assert all(1 <= len(answer) <= 20 for answer in answers)
    entered = [stream.generation.started + stream.generation.queued_seconds for stream in streams]
    assert entered == sorted(entered)
    assert {stream.finish_reason for stream in streams} <= {"length", "stop"}


def test_a_full_queue_refuses_with_its_size(engine: Engine) -> None:
    ids = engine.pipeline.process_ids
    os.kill(ids[0], signal.SIGSTOP)  # nothing ends meanwhile
    streams = [engine.submit(prompt(), WILD, LONG) for _ in range(2 + 4)]
    with pytest.raises(BusyError, match="4 requests wait already"):
        engine.submit(prompt(), WILD, LONG)
    os.kill(ids[0], signal.SIGCONT)
    for stream in streams:
        stream.cancel()
    for stream in streams:
        list(stream)
    assert list(engine.submit(prompt(), WILD, 3))


def test_stop_ids_end_an_answer(engine: Engine) -> None:
    free = list(engine.submit(prompt(), Sampling(), 30))
    stopped = engine.submit(prompt(), Sampling(), 30, stop_ids=frozenset({free[2]}))
    assert list(stopped) == free[: free.index(free[2])]
    assert stopped.finish_reason == "stop"


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(UserInputError, match="no tokens"):
        engine.submit([], Sampling(), 3)


def test_closing_ends_running_answers() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    with start_engine(bundle, slots=2) as engine:
        streams = [engine.submit(prompt(), WILD, LONG) for _ in range(5)]
        next(streams[0])
    for stream in streams:
        list(stream)
        assert stream.finish_reason is not None
    assert streams[-1].finish_reason == "cancelled"
    with pytest.raises(EngineError, match="closed"):
        engine.submit(prompt(), WILD, 3)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_ends_too_often_ends_every_stream_with_its_sentence(victim: int) -> None:
    bundle = open_bundle(TINY_BUNDLE)
    never_again = Supervision(most_restarts=0)
    with start_engine(bundle, slots=2, first_blocks=5, supervision=never_again) as engine:
        streams = [engine.submit(prompt(), WILD, LONG) for _ in range(4)]
        next(streams[0])
        os.kill(engine.pipeline.process_ids[victim], signal.SIGKILL)
        device, blocks = (("gpu0", "0-4"), ("cpu", "5-7"))[victim]
        for stream in streams:
            with pytest.raises(StageFailedError) as caught:
                list(stream)
            sentence = f"the worker of {device} (mnn:cpu, blocks {blocks}) died with signal SIGKILL"
            assert str(caught.value).startswith(sentence)
            assert "\n" not in str(caught.value)
            assert caught.value.device == device
            assert stream.finish_reason is None
            assert list(stream) == []
        with pytest.raises(StageFailedError, match="SIGKILL") as again:
            engine.submit(prompt(), WILD, 3)
        assert again.value.device == device


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process")
def test_an_event_loop_turns_while_a_prompt_is_computed(engine: Engine) -> None:
    workers = engine.pipeline.process_ids

    async def ticks_while_stopped() -> int:
        os.kill(workers[0], signal.SIGSTOP)
        stream = engine.submit(prompt(100), Sampling(), 5)
        answer = asyncio.create_task(asyncio.to_thread(list, stream))
        ticks = 0
        while ticks < 30:
            await asyncio.sleep(0.002)
            assert not answer.done()
            ticks += 1
        os.kill(workers[0], signal.SIGCONT)
        assert 1 <= len(await answer) <= 5
        return ticks

    assert asyncio.run(ticks_while_stopped()) == 30
