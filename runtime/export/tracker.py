"""Tracker: adds up what several threads report, and tells one listener."""

from __future__ import annotations

from threading import Lock

from runtime.export.request import OnProgress, Progress


class Tracker:
    """Counts work and bytes written; ``on_progress`` is called by one thread at a time."""

    def __init__(self, on_progress: OnProgress, total_bytes: int) -> None:
        self._on_progress = on_progress
        self._total = total_bytes
        self._done = self._written = 0
        self._doing = ""
        self._lock = Lock()

    def start(self, doing: str) -> None:
        """Something new is in work."""
        with self._lock:
            self._doing = doing
            self._tell()

    def expect(self, work_bytes: int) -> None:
        """More work has turned out to be needed."""
        with self._lock:
            self._total += work_bytes

    def finish(self, work_bytes: int, written_bytes: int = 0) -> None:
        """Some work is done, and has left this much on the disk."""
        with self._lock:
            self._done += work_bytes
            self._written += written_bytes
            self._tell()

    def _tell(self) -> None:
        self._on_progress(Progress(self._doing, self._done, self._total, self._written))
