"""A chain of three stages that computes, waits or hangs, as the watch sees it."""

from __future__ import annotations

from typing import Any

from runtime.cluster.hang_watch import HangWatch
from runtime.lanes import PASSED
from runtime.step_message import Kind, StepMessage
from runtime.supervision import Supervision

PATIENCE = Supervision(stall_seconds=10.0, token_seconds=1.0)
DECODE = StepMessage(Kind.DECODE, 1, lane=0)
PROMPT = StepMessage(Kind.PREFILL, 2, lane=1, tokens=20)
IDLE: dict[str, Any] = {"progress": [PASSED, 0.0]}


def at_work(mark: float) -> dict[str, Any]:
    return {"progress": [PASSED, mark]}


def test_the_first_stage_that_does_not_speak_hangs() -> None:
    watch = HangWatch(PATIENCE)
    statuses: list[dict[str, Any]] = [at_work(1.0), {}, {}]
    looks = [watch.look(4.0, [DECODE], 7, statuses) for _ in range(4)]
    assert looks == [None, None, None, (1, 12.0)]


def test_of_stages_that_speak_the_first_at_work_hangs() -> None:
    watch = HangWatch(PATIENCE)
    looks = [watch.look(6.0, [DECODE], 7, [IDLE, at_work(1.0), IDLE]) for _ in range(3)]
    assert looks == [None, None, (1, 12.0)]


def test_a_block_or_an_answer_is_progress_and_a_long_prompt_may_take_longer() -> None:
    watch = HangWatch(PATIENCE)
    for block in range(20):
        assert watch.look(9.0, [DECODE], 7, [IDLE, at_work(float(block)), IDLE]) is None
    for answers in range(20):
        assert watch.look(9.0, [DECODE], answers, [IDLE, at_work(1.0), {}]) is None
    looks = [watch.look(9.0, [DECODE, PROMPT], 0, [IDLE, at_work(1.0), IDLE]) for _ in range(5)]
    assert looks == [None, None, None, None, (1, 36.0)]


def test_nothing_hangs_where_nothing_is_due_or_the_driver_itself_slept() -> None:
    watch = HangWatch(PATIENCE)
    assert all(watch.look(9.0, [], 7, [{}, {}, {}]) is None for _ in range(20))
    assert watch.look(9.0, [DECODE], 7, [IDLE, {}, {}]) is None
    assert watch.look(1e6, [DECODE], 7, [IDLE, {}, {}]) is None
