"""A run's own account of its speed, told to its stages so that `cluster status` can repeat it."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from runtime.pipeline import Finished
from runtime.step_message import Kind

_EVERY_SECONDS = 2.0
_WINDOW_SECONDS = 10.0
_MOST_STEPS = 4096


class RunMonitor:
    """Counts the decode steps of the last seconds.

    Every two seconds a thread calls `tell` with the sums, and `look`.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None], look: Callable[[], None]) -> None:
        self._tell, self._look = tell, look
        self._steps: deque[tuple[float, int, float]] = deque(maxlen=_MOST_STEPS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="glm-plan cluster", daemon=True)
        self._thread.start()

    def count(self, finished: Finished) -> None:
        """Remember a step that came back."""
        if finished.message.kind is Kind.DECODE and finished.error is None:
            rows = sum(row is not None for row in finished.message.rows)
            self._steps.append((time.monotonic(), rows, finished.time.hop_seconds))

    def summary(self) -> dict[str, Any]:
        """Tokens per second and the median of hop seconds, over the last seconds."""
        since = time.monotonic() - _WINDOW_SECONDS
        recent = [one for one in list(self._steps) if one[0] >= since]
        hops = [hop for _, _, hop in recent]
        return {
            "at": time.time(),
            "tokens_per_second": sum(rows for _, rows, _ in recent) / _WINDOW_SECONDS,
            "hop_seconds": statistics.median(hops) if hops else None,
        }

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            with contextlib.suppress(Exception):  # Ray may be ending; this is only an account
                self._tell(self.summary())
                self._look()
