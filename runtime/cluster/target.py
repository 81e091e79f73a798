"""What runs on a cluster: a bundle, its plan for the hosts that are there, and how to start it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.bundle import Bundle
from runtime.cluster.discover import Discovery, discover
from runtime.cluster.frames import WireDtype
from runtime.cluster.place import placed_stages
from runtime.cluster.placed import PlacedModel, PlacedStage
from runtime.cluster.ray_door import ClusterNode, join, nodes
from runtime.cluster.start import ClusterStart
from scheduler.cluster_as_plan import as_plan
from scheduler.cluster_plan import ClusterPlan
from scheduler.cluster_plan_file import read_cluster_plan
from scheduler.cluster_planner import make_cluster_plan
from scheduler.errors import PlanError
from scheduler.plan import Plan
from scheduler.request import PlanRequest


@dataclass(frozen=True)
class PlanAnew:
    """A Replan that asks the planner again, with the hosts that are there.

    Hosts are described as they were found at the start; what came later is not used.
    """

    request: PlanRequest
    bundle: Bundle
    found: Discovery
    wire: WireDtype
    wanted: tuple[PlacedStage, ...]  # what runs while all hosts of the plan are there
    plan: Plan  # of these

    def __call__(self, present: Sequence[ClusterNode]) -> PlacedModel:
        """Stages on these nodes; PlanError where they cannot hold the model."""
        by_name = {node.name: node for node in present}
        if all(one.node.name in by_name for one in self.wanted):
            stages = [replace(one, node=by_name[one.node.name]) for one in self.wanted]
            return PlacedModel(stages, self.plan)
        cluster = self.found.cluster()
        names = frozenset(by_name) & {host.name for host in cluster.hosts}
        if cluster.driver not in names:
            raise PlanError(f"the driver's own node {cluster.driver} is lost.")
        plan = make_cluster_plan(self.request, cluster.only(names), self.wire)
        known = tuple(by_name[node.name] for node in self.found.nodes if node.name in names)
        stages = placed_stages(plan, self.bundle, replace(self.found, nodes=known))
        return PlacedModel(stages, as_plan(plan))


@dataclass(frozen=True)
class ClusterTarget:
    """A plan and what starts it."""

    plan: ClusterPlan
    start: ClusterStart


def cluster_target(
    address: str,
    bundle: Bundle,
    request: PlanRequest,
    plan_file: Path | None,
    wire: WireDtype,
    tell: Callable[[str], None],
) -> ClusterTarget:
    """Join a Ray cluster, find out what its hosts have, and plan; `tell` hears of what is found.

    With `plan_file` its plan is used, and the planner is only asked when a host is lost. Raises
    UserInputError where no cluster is reached, PlanError for a plan that does not fit the hosts,
    EngineError where a host does not answer.
    """
    join(address)
    present = nodes()
    engines = {variant.engine for part in bundle.manifest.parts for variant in part.variants}
    kinds = ("cpu",) if "ort" in engines else ()
    found = discover(present, kinds)
    cluster = found.cluster()
    for name, facts in found.facts.items():
        ram = cluster.host(name).machine.ram_bytes
        gpus = ", ".join(gpu.model_name for gpu in facts.host.gpus) or "no GPU"
        tell(f"{name}: {facts.host.cpu.model_name}, {gpus}, {ram / (1 << 30):.1f} GiB of RAM free")
    for (one, other), link in cluster.pairs.items():
        tell(
            f"{one} - {other}: {link.gbit_per_second:.3g} Gbit/s, {1e3 * link.latency_seconds:.2f}"
            " ms (measured)"
        )
    if plan_file is not None:
        plan = read_cluster_plan(plan_file)
        wire = plan.wire
    else:
        plan = make_cluster_plan(request, cluster, wire)
    if len(plan.replicas) > 1:
        tell(f"the plan has {len(plan.replicas)} copies of the model; this run uses the first one.")
    placed = tuple(placed_stages(plan, bundle, found))
    replan = PlanAnew(request, bundle, found, wire, placed, as_plan(plan))
    return ClusterTarget(plan, ClusterStart(address, placed, bundle, replan, wire))
