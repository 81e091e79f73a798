"""From a cluster plan to stages on the nodes that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runtime.bundle import Bundle
from runtime.cluster.discover import Discovery
from runtime.cluster.placed import PlacedStage
from runtime.cluster.ray_door import ClusterNode
from runtime.launch import launch_of
from scheduler.cluster_plan import ClusterPlan, ClusterStage
from scheduler.errors import PlanError


def placed_stages(plan: ClusterPlan, bundle: Bundle, found: Discovery) -> list[PlacedStage]:
    """The stages of a plan's first replica, each on its node.

    Devices are called host/device. Raises PlanError for a host that is not in the cluster or a plan
    of another model, BundleError when the bundle lacks what the plan needs.
    """
    geometry = bundle.manifest.geometry
    if (plan.model, plan.blocks) != (bundle.manifest.model, geometry.blocks):
        raise PlanError(
            f"the plan is for {plan.model} with {plan.blocks} blocks and the bundle {bundle.path}"
            f" holds {bundle.manifest.model} with {geometry.blocks}; plan anew for it."
        )
    addresses = {host.name: host.address for host in plan.hosts}
    return [
        _placed(stage, node_of(stage.host, addresses.get(stage.host), found.nodes), bundle, found)
        for stage in plan.replicas[0].stages
    ]


def node_of(name: str, address: str | None, nodes: Sequence[ClusterNode]) -> ClusterNode:
    """The node that a plan calls so, or that has this address; PlanError where it is not there."""
    for node in nodes:
        if node.name == name:
            return node
    at_address = [node for node in nodes if address is not None and node.address == address]
    if len(at_address) == 1:
        return at_address[0]
    raise PlanError(
        f"the plan uses the host {name} and the cluster has"
        f" {', '.join(node.name for node in nodes) or 'none'}; start Ray on it with `ray start"
        f" --address HEAD:6379 --node-name {name}`, or plan for the hosts that are here."
    )


def _placed(
    stage: ClusterStage, node: ClusterNode, bundle: Bundle, found: Discovery
) -> PlacedStage:
    facts = found.facts[node.name]
    gpus = {gpu.name: gpu.uuid for gpu in facts.host.gpus if gpu.uuid}
    threads = max(1, min(facts.host.cpu.usable_cores, int(node.cpus)))
    launch = launch_of(stage, bundle, facts.working, gpus, threads)
    return PlacedStage(replace(launch, device=f"{node.name}/{stage.device}"), node)
