"""When a dead engine is started anew, and when to stop believing in it: rules without state."""

from __future__ import annotations

from collections.abc import Sequence

WINDOW_SECONDS = 120.0
"""Deaths before that are forgotten."""

PATIENCE = 5
"""Deaths in a row without one new token between them, of an engine or under an answer."""

_LONGEST_SECONDS = 30.0


def recent(deaths: Sequence[float], now: float) -> list[float]:
    """The deaths, by the clock's seconds, that still count."""
    return [at for at in deaths if now - at < WINDOW_SECONDS]


def pause_seconds(deaths: int) -> float:
    """How long to wait after so many deaths without a new token between them: 0, 1, 2, 4 … 30."""
    return 0.0 if deaths < 2 else min(_LONGEST_SECONDS, 2.0 ** (deaths - 2))
