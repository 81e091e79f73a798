"""Cluster plans with a division of the blocks chosen by hand; all else is the planner's."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.bundle import Bundle
from runtime.bundle_spec import spec_of_bundle
from scheduler.chain import chain_of
from scheduler.cluster import Cluster
from scheduler.cluster_fit import ClusterQuestion, Fitter
from scheduler.cluster_plan import ClusterPlan, HostBudget
from scheduler.cluster_planner import make_cluster_plan
from scheduler.cluster_stages import replica_of
from scheduler.host_table import host_table
from scheduler.request import PlanRequest


def cpu_request(bundle: Bundle, context: int) -> PlanRequest:
    """The bundle at fp32 on CPUs, one slot."""
    return PlanRequest(
        spec_of_bundle(bundle),
        gpu_precision="fp32",
        cpu_precision="fp32",
        context=context,
        policy="fit",
    )


def plan_of_counts(request: PlanRequest, cluster: Cluster, counts: Sequence[int]) -> ClusterPlan:
    """So many blocks on the first hosts of a cluster, in its order; lm_head is on the last.

    Only for hosts without GPUs.
    """
    fitter = Fitter(ClusterQuestion(request, cluster))
    last, blocks = len(counts) - 1, request.model.blocks
    options = [
        host_table(fitter.rooms[host], blocks).option(count, host == last)
        for host, count in enumerate(counts)
    ]
    chain = chain_of(fitter.network, range(len(counts)), options)
    plan = make_cluster_plan(request, cluster)
    names = [cluster.driver, *(host.name for host in cluster.hosts[: len(counts)])]
    budgets = [HostBudget(name=name, ram=plan.hosts[0].ram) for name in dict.fromkeys(names)]
    changes = {"replicas": [replica_of(fitter.question, chain)], "hosts": budgets}
    return plan.model_copy(update=changes)
