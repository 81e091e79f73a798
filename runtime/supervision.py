"""When a worker is started anew, when no longer, and how one that hangs is told from a busy one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runtime.backends.protocol import FloatArray
from runtime.lanes import PASSED

_CHECKS = 8  # within the shortest time that counts as a stall
_MOST_SECONDS_BETWEEN_CHECKS = 5.0


@dataclass(frozen=True)
class Supervision:
    """How patient a pipeline is with its workers; times in seconds.

    A stage may be started anew `most_restarts` times within `window_seconds`: the first time at
    once, then after `pause_seconds`, and each time after twice as long. A stage stalls that has a
    step to compute and finishes none of it for `stall_seconds`; in a prompt a block is such a part,
    and each token allows it `token_seconds` more. `loading_seconds` is the same for a part that a
    new worker loads.
    """

    most_restarts: int = 5
    window_seconds: float = 600.0
    pause_seconds: float = 0.5
    stall_seconds: float = 120.0
    token_seconds: float = 0.25
    loading_seconds: float = 900.0

    def part_seconds(self, tokens: int) -> float:
        """How long a part of a step may take: a block of a prompt with so many tokens, or all."""
        return self.stall_seconds + self.token_seconds * tokens

    @property
    def check_seconds(self) -> float:
        """How often to look for stalls."""
        return min(self.stall_seconds / _CHECKS, _MOST_SECONDS_BETWEEN_CHECKS)


@dataclass
class StageHistory:
    """What has happened to one stage."""

    restarts: int = 0
    last_cause: str | None = None
    _deaths: deque[float] = field(default_factory=deque)

    def died(self, now: float, cause: str, supervision: Supervision) -> float | None:
        """Seconds to wait before the next start; None where there were too many."""
        self.last_cause = cause
        while self._deaths and self._deaths[0] <= now - supervision.window_seconds:
            self._deaths.popleft()
        self._deaths.append(now)
        earlier = len(self._deaths) - 1
        if earlier >= supervision.most_restarts:
            return None
        self.restarts += 1
        return supervision.pause_seconds * 2.0 ** (earlier - 1) if earlier else 0.0

    @property
    def recent_deaths(self) -> int:
        """Deaths within the window, up to the last one."""
        return len(self._deaths)


class StallWatch:
    """Counts for how long each stage has had something to do and done nothing of it."""

    def __init__(self, supervision: Supervision, stages: int) -> None:
        self._longest = 2 * supervision.check_seconds
        self._seen: list[object] = [None] * stages
        self._silent = [0.0] * stages

    def look(
        self,
        elapsed_seconds: float,
        progress: FloatArray,
        due: Iterable[tuple[int, float]],
        loading: Mapping[int, tuple[int, float]],
        gone: Sequence[int] = (),
    ) -> tuple[int, float] | None:
        """The stage that has stalled and for how many seconds, if there is one.

        `progress` [lanes, stages] is as `LaneShape.progress`. `due` lists lanes with a step under
        way and the seconds that a stage may take for a part of it; `loading` the stages that load:
        parts so far, and the seconds for one. Stages in `gone` are started anew already. A parent
        that was itself suspended sees a long `elapsed_seconds`, of which little counts.
        """
        allowed: dict[int, float] = {}
        for lane, seconds in due:
            waiting = [stage for stage, mark in enumerate(progress[lane]) if mark != PASSED]
            if waiting and waiting[0] not in gone:
                allowed[waiting[0]] = max(seconds, allowed.get(waiting[0], 0.0))
        for stage in range(progress.shape[1]):
            parts, seconds = loading.get(stage, (0, 0.0))
            seen = (parts, *progress[:, stage].tolist())
            same, self._seen[stage] = seen == self._seen[stage], seen
            if stage in allowed and same:
                self._silent[stage] += min(elapsed_seconds, self._longest)
            else:
                self._silent[stage] = 0.0
            if stage in allowed and self._silent[stage] > max(seconds, allowed[stage]):
                return stage, self._silent[stage]
        return None

    def forget(self, stage: int) -> None:
        """A new worker has this stage."""
        self._seen[stage], self._silent[stage] = None, 0.0
