"""Finding a stage of a cluster that neither ends nor computes, from what all stages say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runtime.step_message import StepMessage
from runtime.supervision import Supervision

_MOST_SECONDS_BETWEEN_LOOKS = 10.0


class HangWatch:
    """Counts for how long a chain has had steps to compute and done nothing of any.

    A lane holds one step at a time, so that behind a stage that hangs all others come to rest: only
    the whole chain's silence has to be measured. As on one machine, a block of a prompt or all of a
    decode step in a stage is the least that must be done within `supervision.part_seconds`.
    """

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision
        self._seen: object = None
        self._marks: dict[int, list[float]] = {}
        self._silent_seconds = 0.0

    def look(
        self,
        elapsed_seconds: float,
        due: Iterable[StepMessage],
        answers: object,
        statuses: Sequence[Mapping[str, Any]],
    ) -> tuple[int, float] | None:
        """The stage that hangs and for how many seconds nothing was done, if there is one.

        `answers` differs whenever a stage has answered or another chain runs. `statuses` are by
        stage, empty where none came; `progress` in them has a mark for each lane, positive while
        the stage computes that lane's step. A driver that was itself suspended sees a long
        `elapsed_seconds`, of which little counts.
        """
        for number, status in enumerate(statuses):
            if status:
                self._marks[number] = list(status.get("progress", ()))
        marks = [self._marks.get(number, []) for number in range(len(statuses))]
        steps = list(due)
        seen = (answers, marks)
        if not steps or seen != self._seen:
            self._seen, self._silent_seconds = seen, 0.0
            return None
        self._silent_seconds += min(elapsed_seconds, _MOST_SECONDS_BETWEEN_LOOKS)
        if self._silent_seconds <= max(self._supervision.part_seconds(one.tokens) for one in steps):
            return None
        mute = [number for number, status in enumerate(statuses) if not status]
        at_work = [n for n, lanes in enumerate(marks) if any(mark > 0 for mark in lanes)]
        return next(iter(mute or at_work), 0), self._silent_seconds

    def forget(self) -> None:
        """Another chain runs."""
        self._seen, self._silent_seconds = None, 0.0
        self._marks.clear()
