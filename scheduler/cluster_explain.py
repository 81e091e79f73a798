"""Explain a cluster plan: why each device holds what it holds, and what the network costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from scheduler.chain import Chain
from scheduler.cluster import Cluster
from scheduler.cluster_fit import ClusterQuestion, Fitter
from scheduler.cluster_plan import ClusterPlan, ClusterStage
from scheduler.cost import device_kind
from scheduler.memory import stage_memory
from scheduler.request import PlanRequest
from scheduler.units import format_size

_STAGES_TOLD = 12


def explain_cluster(plan: ClusterPlan, request: PlanRequest, cluster: Cluster) -> list[str]:
    """Sentences about the first stages, the network, and hosts that could do it alone."""
    stages = [stage for replica in plan.replicas for stage in replica.stages][:_STAGES_TOLD]
    return [
        *(_on_stage(plan, request, cluster, stage) for stage in stages if stage.blocks),
        *_on_network(plan),
        *_on_one_host(plan, request, cluster),
    ]


def _on_stage(
    plan: ClusterPlan, request: PlanRequest, cluster: Cluster, stage: ClusterStage
) -> str:
    count = len(stage.blocks)
    told = (
        f"{stage.host}/{stage.device} holds {count} block{'s' * (count != 1)} in"
        f" {1e3 * stage.step_seconds:.3g} ms of a step ({stage.speed_provenance})"
    )
    if count == plan.blocks:
        return f"{told}: all there are."
    more = stage_memory(
        request.model,
        device_kind(stage.device),
        count + 1,
        stage.precision,
        stage.lm_head_precision,
        plan.context_tokens,
        plan.slots,
        cluster.host(stage.host).machine.threads,
    ).total_bytes
    free, kept = stage.free_bytes, request.reserve_bytes or 0
    if stage.device == "cpu":
        ram = next(host.ram for host in plan.hosts if host.name == stage.host)
        more += ram.needed_bytes - stage.memory.total_bytes
        free, kept = ram.available_bytes, 0
    if free is None:
        return f"{told}; how much memory there is, is unknown."
    if more > free - kept:
        short = format_size(more - free + kept)
        return f"{told}: one more needs {format_size(more)}, {short} more than there is."
    return f"{told}: one more fits and would not make the plan faster."


def _on_network(plan: ClusterPlan) -> Iterator[str]:
    for replica in plan.replicas[:1]:
        hops = [hop for hop in (replica.entry, *(s.hop for s in replica.stages)) if hop.network]
        if not hops:
            yield "Nothing of a step travels over the network."
            continue
        seconds = sum(hop.step_seconds for hop in hops)
        yield (
            f"{len(hops)} hops over the network carry"
            f" {format_size(sum(hop.step_bytes for hop in hops))} in a step and take"
            f" {1e3 * seconds:.3g} ms, {seconds / replica.speed.step_seconds:.0%} of it."
        )


def _on_one_host(plan: ClusterPlan, request: PlanRequest, cluster: Cluster) -> Iterator[str]:
    """The fastest host that holds the whole model, where the plan uses more than one."""
    if plan.decision["hosts_used"] == 1 or len(cluster.hosts) > _STAGES_TOLD:
        return
    precisions = {side: plan.decision[side] for side in ("gpu_precision", "cpu_precision")}
    fitter = Fitter(ClusterQuestion(replace(request, **precisions), cluster, plan.wire))
    alone: list[Chain] = [
        chain
        for number in range(len(cluster.hosts))
        if (chain := fitter.chain([number])) is not None
    ]
    if not alone:
        yield "No host holds the whole model alone."
        return
    best = min(alone, key=lambda chain: chain.total_seconds)
    yield (
        f"{cluster.hosts[best.hosts[0]].name} alone would take {1e3 * best.total_seconds:.3g} ms"
        f" a step instead of {1e3 * plan.replicas[0].speed.step_seconds:.3g}."
    )
