"""How an engine starts its stages on a cluster; plain data, so that any process can do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.bundle import Bundle
from runtime.cluster.cluster_pipeline import ClusterPipeline
from runtime.cluster.frames import WireDtype
from runtime.cluster.placed import PlacedModel, PlacedStage
from runtime.cluster.ray_door import ClusterNode, join
from runtime.cluster.recovery import Replan
from runtime.geometry import Geometry
from runtime.launch import StageLaunch
from runtime.pipeline import ProgressCallback
from runtime.supervision import Supervision
from scheduler.errors import PlanError


@dataclass(frozen=True)
class ClusterStart:
    """A PipelineFactory: stages on their nodes, joined from the process that calls it.

    `replan` says where stages go when nodes are lost or back. `shared`: nodes that see the bundle's
    own folder read it there. Of `supervision` only the patience with steps counts.
    """

    address: str
    placed: tuple[PlacedStage, ...]
    bundle: Bundle
    replan: Replan
    wire: WireDtype = "fp32"
    shared: bool = True
    supervision: Supervision | None = None

    @property
    def launches(self) -> list[StageLaunch]:
        """What starts, stage by stage."""
        return [one.launch for one in self.placed]

    @property
    def cores(self) -> int:
        """Threads of all stages together: those of different hosts do not share cores."""
        return sum(one.launch.threads for one in self.placed)

    def __call__(
        self,
        launches: list[StageLaunch],
        geometry: Geometry,
        decode_lanes: int,
        max_tokens: int,
        on_progress: ProgressCallback | None = None,
    ) -> ClusterPipeline:
        """Join the cluster and start the stages."""
        join(self.address)
        placed = [
            replace(one, launch=launch) for one, launch in zip(self.placed, launches, strict=True)
        ]
        return ClusterPipeline(
            placed,
            self.bundle,
            decode_lanes,
            max_tokens,
            on_progress,
            replan=self.replan,
            wire=self.wire,
            shared=self.shared,
            supervision=self.supervision,
        )


@dataclass(frozen=True)
class StayWhereTheyAre:
    """A Replan for stages that only their own nodes may run: nothing takes the place of those."""

    placed: tuple[PlacedStage, ...]

    def __call__(self, present: Sequence[ClusterNode]) -> PlacedModel:
        """The same stages on the nodes of the same names; PlanError where one is lost."""
        by_name = {node.name: node for node in present}
        lost = [one.node.name for one in self.placed if one.node.name not in by_name]
        if lost:
            raise PlanError(f"the plan needs {', '.join(lost)}.")
        return PlacedModel([replace(one, node=by_name[one.node.name]) for one in self.placed])
