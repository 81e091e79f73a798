"""What the engine asks of a pipeline, on one machine (`Pipeline`) or on several (`cluster/`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Protocol

from runtime.backends.protocol import FloatArray
from runtime.geometry import Geometry
from runtime.lanes import LaneShape
from runtime.launch import StageLaunch
from runtime.pipeline import Finished, ProgressCallback
from runtime.placement import Placement
from runtime.step_message import StepMessage
from scheduler.errors import EngineError


class StagePipeline(Protocol):
    """Stages that are loaded and take steps; `Pipeline` says what each member means."""

    launches: list[StageLaunch]
    lanes: LaneShape

    @property
    def rss_bytes(self) -> list[int]: ...

    @property
    def ready(self) -> bool:
        """Whether steps may be sent; else `collect` is called until they may."""

    @property
    def losses(self) -> int:
        """How often every step under way and every cache were lost, with a stage that has ended."""

    @property
    def last_loss(self) -> EngineError | None:
        """What to say of the last time."""

    @property
    def restarts(self) -> tuple[int, ...]:
        """How often each stage was started again."""

    @property
    def placement(self) -> Placement | None:
        """Where stages are since the pipeline has moved them; None while they are as they began."""

    @property
    def process_ids(self) -> list[int]: ...

    def next_sequence(self) -> int: ...

    def hidden(self, lane: int, positions: int) -> FloatArray: ...

    def logits(self, message: StepMessage) -> FloatArray: ...

    def send(self, message: StepMessage) -> None: ...

    def collect(self, doorbell: Sequence[Connection] = ()) -> list[Finished]: ...

    def resident_bytes(self) -> list[int]:
        """Resident memory of each stage's process now; as loaded, where it cannot be had."""

    def close(self) -> None: ...


PipelineFactory = Callable[
    [list[StageLaunch], Geometry, int, int, "ProgressCallback | None"], StagePipeline
]
"""Starts a pipeline: stages, the model's geometry, lanes for decode steps, most tokens of a prompt,
and who hears of progress."""
