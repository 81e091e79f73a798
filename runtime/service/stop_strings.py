"""Stop strings in streamed text, wherever token borders fall."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Cuts a text at the first stop string and holds back only what may become one.

    The texts returned by `push` and `finish` together are the text before the first stop string.
    Of stops that end at the same place, the one that begins first wins.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; return what has become certain. After a stop, nothing more comes."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            # The first stop to be complete, as somebody who reads letter by letter would see it.
            cut = min(found, key=lambda one: (one[0] + len(one[1]), one[0]))[0]
            self.stopped = True
            return self._release(cut)
        return self._release(len(self._held) - self._maybe())

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        return "" if self.stopped else self._release(len(self._held))

    def _maybe(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(min(len(stop) - 1, len(self._held)), 0, -1)
                if self._held.endswith(stop[:length])
            ),
            default=0,
        )

    def _release(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text
