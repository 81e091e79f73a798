"""Where the stages of a pipeline are that moves them itself, and what is not as first planned."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.launch import StageLaunch
from scheduler.plan import Plan


@dataclass(frozen=True)
class Placement:
    """What is in force since stages have moved.

    `launches` are in the order of step times and restarts; devices that a stage has left have no
    blocks. `plan` is None where no planner was asked.
    """

    launches: tuple[StageLaunch, ...]
    plan: Plan | None
    degraded: tuple[str, ...]
