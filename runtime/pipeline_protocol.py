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
from runtime.step_message import StepMessage


class StagePipeline(Protocol):
    """Stages that are loaded and take steps; `Pipeline` says what each member means."""

    launches: list[StageLaunch]
    rss_bytes: list[int]
    lanes: LaneShape

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
