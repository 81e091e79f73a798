"""Workers that are killed or stopped under load: every answer is the one it would have been."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from runtime.bundle import open_bundle
from runtime.engine import Engine, Stream
from runtime.supervision import Supervision
from scheduler.errors import StageFailedError
from tests.support.answers import Answers, small_bundle
from tests.support.engines import start_engine
from tests.support.tiny import TINY_BUNDLE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

LENGTHS = (4, 11, 30, 7, 19, 2)  # more requests than slots
NEW_TOKENS = 40
MANY = Supervision(most_restarts=50, pause_seconds=0.01)


def pids(engine: Engine) -> list[int]:
    return engine.pipeline.process_ids


def read(streams: list[Stream], tokens: int) -> None:
    """Wait until these answers have so many tokens."""
    for stream in streams:
        while len(stream.generation.token_ids) < tokens:
            next(stream)


@pytest.mark.parametrize("which", ["tiny fp32 4", "tiny int8 4", "llama fp32 3", "llama int8 2"])
def test_answers_go_on_where_a_worker_was_killed(
    which: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, precision, slots = which.split()
    bundle = small_bundle(model, precision, tmp_path_factory.mktemp("bundle"))  # type: ignore[arg-type]
    with start_engine(
        bundle,
        slots=int(slots),
        first_blocks=2,
        precision=precision,  # type: ignore[arg-type]
        cores=2,
        supervision=MANY,
    ) as engine:
        answers = Answers.of(engine, bundle, LENGTHS, NEW_TOKENS)
        streams = answers.ask()
        for victim, after in ((1, 3), (0, 17)):
            read(streams[:2], after)
            others = [pid for number, pid in enumerate(pids(engine)) if number != victim]
            os.kill(pids(engine)[victim], signal.SIGKILL)
            read(streams[:2], after + 2)
            assert set(others) < set(pids(engine))  # they keep their weights
        answers.check(streams)
        assert engine.restarts == (1, 1)
        assert not engine.paused
        assert [stream.generation.replays for stream in streams[:2]] == [2, 2]
        assert "blocks 0-1) died with signal SIGKILL" in str(engine.last_loss)


@pytest.fixture(scope="module")
def tiny() -> Iterator[Answers]:
    bundle = open_bundle(TINY_BUNDLE)
    with start_engine(bundle, slots=4, first_blocks=3, cores=2, supervision=MANY) as engine:
        yield Answers.of(engine, bundle, (200, *LENGTHS), NEW_TOKENS)


def test_a_crash_while_prompts_are_computed(tiny: Answers) -> None:
    streams = tiny.ask()
    os.kill(pids(tiny.engine)[1], signal.SIGSEGV)
    tiny.check(streams)
    assert "died with signal SIGSEGV" in str(tiny.engine.last_loss)


def test_all_workers_at_once(tiny: Answers) -> None:
    before = tiny.engine.restarts
    streams = tiny.ask()
    read(streams[1:3], 5)
    for pid in pids(tiny.engine):
        os.kill(pid, signal.SIGKILL)
    tiny.check(streams)
    assert tiny.engine.restarts == tuple(one + 1 for one in before)


def test_another_one_while_the_first_is_loading(tiny: Answers) -> None:
    before = tiny.engine.restarts
    streams = tiny.ask()
    read(streams[1:2], 5)
    first = pids(tiny.engine)
    os.kill(first[0], signal.SIGKILL)
    until = time.monotonic() + 60
    while pids(tiny.engine)[0] in first or len(pids(tiny.engine)) < 2:
        assert time.monotonic() < until
        time.sleep(0.001)
    for pid in pids(tiny.engine):  # a new one that loads, and its neighbour
        os.kill(pid, signal.SIGKILL)
    tiny.check(streams)
    assert tiny.engine.restarts == (before[0] + 2, before[1] + 1)


def test_a_worker_that_hangs_is_ended() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    soon = Supervision(most_restarts=50, pause_seconds=0.01, stall_seconds=1.0)
    with start_engine(bundle, slots=4, first_blocks=3, cores=2, supervision=soon) as engine:
        answers = Answers.of(engine, bundle, LENGTHS, NEW_TOKENS)
        streams = answers.ask()
        for victim, after in ((0, 5), (1, 15)):
            read(streams[:1], after)
            hung = pids(engine)[victim]
            os.kill(hung, signal.SIGSTOP)
            read(streams[:1], after + 5)
            assert hung not in pids(engine)
            assert engine.restarts[victim] > 0
            assert "made no progress for " in str(engine.last_loss)
        answers.check(streams)


def test_a_request_can_be_cancelled_in_the_pause(tiny: Answers) -> None:
    streams = tiny.ask()
    read(streams[1:2], 5)
    os.kill(pids(tiny.engine)[0], signal.SIGKILL)
    streams[1].cancel()
    list(streams[1])
    assert streams[1].finish_reason == "cancelled"
    got = streams[1].generation.token_ids
    assert got == tiny.expected[1][: len(got)]
    others = [*streams[:1], *streams[2:]]
    expected = [*tiny.expected[:1], *tiny.expected[2:]]
    Answers(tiny.engine, [], NEW_TOKENS, expected).check(others)


def test_closing_in_the_pause_ends_everything() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    with start_engine(bundle, slots=2, first_blocks=3) as engine:
        answers = Answers(engine, [list(range(20, 40))], NEW_TOKENS)
        streams = answers.ask()
        next(streams[0])
        os.kill(pids(engine)[1], signal.SIGKILL)
    list(streams[0])
    assert streams[0].finish_reason in ("cancelled", "length")


def test_a_stage_that_always_dies_is_given_up() -> None:
    bundle = open_bundle(TINY_BUNDLE)
    twice = Supervision(most_restarts=2, pause_seconds=0.01)
    with start_engine(bundle, slots=2, first_blocks=3, supervision=twice) as engine:
        answers = Answers.of(engine, bundle, (4, 9), NEW_TOKENS)
        for _ in range(2):
            streams = answers.ask()
            os.kill(pids(engine)[0], signal.SIGKILL)
            answers.check(streams)
        streams = answers.ask()
        os.kill(pids(engine)[0], signal.SIGKILL)
        with pytest.raises(
            StageFailedError, match=r"SIGKILL \(3 failures in 10 minutes\)"
        ) as caught:
            list(streams[0])
        assert (caught.value.device, caught.value.blocks) == ("gpu0", "0-2")
