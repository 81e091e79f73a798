"""When a stage may start again, and which one of several has stalled."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from runtime.lanes import PASSED
from runtime.supervision import StageHistory, StallWatch, Supervision
from scheduler.errors import StageFailedError

PATIENCE = Supervision(
    most_restarts=3, window_seconds=100, pause_seconds=2, stall_seconds=10, loading_seconds=50
)


def test_each_restart_waits_twice_as_long_until_there_are_too_many() -> None:
    history = StageHistory()
    pauses = [history.died(float(second), "fell", PATIENCE) for second in range(4)]
    assert pauses == [0.0, 2.0, 4.0, None]
    assert history.restarts == 3
    assert history.recent_deaths == 4
    assert history.last_cause == "fell"


def test_what_is_long_ago_does_not_count() -> None:
    history = StageHistory()
    assert [history.died(second, "fell", PATIENCE) for second in (0.0, 1.0)] == [0.0, 2.0]
    assert history.died(100.5, "fell", PATIENCE) == 2.0  # beside the one at 1 s
    assert history.died(300.0, "fell", PATIENCE) == 0.0
    assert history.restarts == 4


def watch_for(
    seconds: float, progress: list[list[float]], *, loading: int | None = None
) -> tuple[int, float] | None:
    """Look once a second at marks [lanes, stages] that don't change; allow 10 s per part."""
    watch = StallWatch(PATIENCE, len(progress[0]))
    marks = np.array(progress, np.float32)
    due = [(lane, 10.0) for lane in range(len(progress))]
    loads = {} if loading is None else {loading: (1, 50.0)}
    found = None
    for _ in range(int(seconds)):
        found = found or watch.look(1.0, marks, due, loads)
    return found


def test_the_first_stage_that_has_not_passed_a_step_on_is_to_blame() -> None:
    assert watch_for(11, [[0, 0, 0]]) is None
    assert watch_for(12, [[0, 0, 0]]) == (0, 11.0)
    assert watch_for(12, [[PASSED, 1, 0]]) == (1, 11.0)
    assert watch_for(12, [[PASSED, PASSED, 0], [PASSED, 1, 0]]) in [(1, 11.0), (2, 11.0)]
    assert watch_for(500, [[PASSED, PASSED, PASSED]]) is None


def test_a_stage_that_loads_has_longer() -> None:
    assert watch_for(51, [[PASSED, 0]], loading=1) is None
    assert watch_for(52, [[PASSED, 0]], loading=1) == (1, 51.0)
    assert watch_for(12, [[0, 0]], loading=1) == (0, 11.0)


def test_a_stage_that_works_on_another_lane_is_busy_and_not_stalled() -> None:
    watch = StallWatch(PATIENCE, 2)
    for block in range(100):
        marks = np.array([[PASSED, 0], [PASSED, 1 + block]], np.float32)
        assert watch.look(9.0, marks, [(0, 10.0), (1, 10.0)], {}) is None


def test_a_parent_that_slept_counts_little_of_it() -> None:
    watch = StallWatch(PATIENCE, 1)
    marks = np.zeros((1, 1), np.float32)
    for _ in range(4):
        assert watch.look(3600.0, marks, [(0, 10.0)], {}) is None
    assert PATIENCE.check_seconds < PATIENCE.stall_seconds / 4


@pytest.mark.parametrize("again", [copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
def test_the_error_keeps_its_device_on_its_way(again: object) -> None:
    error = again(StageFailedError("it is gone.", device="gpu0"))  # type: ignore[operator]
    assert (str(error), error.device) == ("it is gone.", "gpu0")
