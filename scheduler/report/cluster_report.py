"""How many hosts: the cluster report's document, from plans for more and more of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pydantic import Field

from scheduler.cluster import Cluster
from scheduler.cluster_plan import ClusterPlan, WireDtype
from scheduler.cluster_planner import make_cluster_plan
from scheduler.errors import PlanError
from scheduler.fit_search import Objective
from scheduler.model import ModelSpec
from scheduler.plan import Document, Precision, Provenance
from scheduler.request import PlanRequest

CLUSTER_REPORT_SCHEMA: Final = "glm-plan/cluster-report/1"

_EVERY_COUNT = 16
_MOST_COUNTS = 32


class ClusterSize(Document):
    """What the first `hosts` hosts of the cluster do; null where the model does not fit them."""

    hosts: int = Field(ge=1)
    gpu_precision: Precision
    cpu_precision: Precision
    context_tokens: int
    slots: int
    price_usd: float | None = Field(description="of these hosts; null where one has no price")
    tokens_per_second_per_slot: float | None = Field(description="of the plan for latency")
    time_to_first_token_seconds: float | None = Field(description="of the plan for latency")
    hosts_used: int | None = Field(description="by the plan for latency")
    together_tokens_per_second: float | None = Field(
        description="of all slots of all replicas, by the plan for throughput"
    )
    replicas: int | None = Field(description="of the plan for throughput")
    provenance: Provenance | None = Field(description="of the least certain figure in both plans")
    missing: str | None = Field(description="why it does not fit")


class HostCount(Document):
    """The fewest hosts of one setting that hold the model, and that reach the target."""

    gpu_precision: Precision
    cpu_precision: Precision
    context_tokens: int
    slots: int
    to_hold: int | None
    to_reach_target: int | None = Field(description="each slot; null: not with this cluster")
    price_to_reach_target_usd: float | None


class ClusterReport(Document):
    """Speed and cost against the number of hosts; its JSON is a contract."""

    schema_: Literal["glm-plan/cluster-report/1"] = Field(CLUSTER_REPORT_SCHEMA, alias="schema")
    model: str
    hosts: int = Field(description="in the cluster")
    driver_host: str
    wire: WireDtype
    target_tokens_per_second: float | None
    sizes: list[ClusterSize]
    counts: list[HostCount]
    command: str
    version: str
    date: str


@dataclass(frozen=True)
class ClusterStudy:
    """What a cluster report is asked about; precisions are pairs of GPU and CPU."""

    model: ModelSpec
    cluster: Cluster
    precisions: Sequence[tuple[Precision, Precision]]
    contexts: Sequence[int | None]
    slots: Sequence[int]
    target_tps: float | None
    command: str
    version: str
    date: str
    wire: WireDtype = "fp32"


def build_cluster_report(study: ClusterStudy) -> ClusterReport:
    """Plan every setting for every counted size of the cluster, the driver's host first."""
    order = [study.cluster.driver]
    order += [host.name for host in study.cluster.hosts if host.name != study.cluster.driver]
    requests = [
        PlanRequest(
            study.model,
            gpu_precision=gpu,
            cpu_precision=cpu,
            context=context,
            slots=slots,
            policy="fit",
        )
        for gpu, cpu in study.precisions
        for context in study.contexts
        for slots in study.slots
    ]
    sizes: list[ClusterSize] = []
    counts: list[HostCount] = []
    for request in requests:
        own = [_size(study, request, order[:number]) for number in host_counts(len(order))]
        sizes += own
        counts.append(_count(study, request, own))
    return ClusterReport(
        model=study.model.name,
        hosts=len(order),
        driver_host=study.cluster.driver,
        wire=study.wire,
        target_tokens_per_second=study.target_tps,
        sizes=sizes,
        counts=counts,
        command=study.command,
        version=study.version,
        date=study.date,
    )


def host_counts(most: int) -> list[int]:
    """Every number up to 16; beyond, growing steps, and the whole cluster."""
    counts = list(range(1, min(most, _EVERY_COUNT) + 1))
    left = _MOST_COUNTS - _EVERY_COUNT
    while counts[-1] < most:
        step = max(1, round(counts[-1] * ((most / counts[-1]) ** (1 / max(1, left)) - 1)))
        counts.append(min(most, counts[-1] + step))
        left -= 1
    return counts


def _size(study: ClusterStudy, request: PlanRequest, names: Sequence[str]) -> ClusterSize:
    cluster = study.cluster.only(frozenset(names))
    prices = [host.price_usd for host in cluster.hosts]
    fast, missing = _plan(study, request, cluster, "latency")
    full, _ = _plan(study, request, cluster, "throughput")
    return ClusterSize(
        hosts=len(names),
        gpu_precision=request.gpu_precision,
        cpu_precision=request.cpu_precision,
        context_tokens=request.context_tokens,
        slots=request.slots,
        price_usd=None if None in prices else sum(price or 0.0 for price in prices),
        tokens_per_second_per_slot=fast and fast.speed.tokens_per_second_per_slot,
        time_to_first_token_seconds=fast and fast.speed.time_to_first_token_seconds,
        hosts_used=fast and fast.decision["hosts_used"],
        together_tokens_per_second=full and full.speed.tokens_per_second,
        replicas=full and len(full.replicas),
        provenance=fast and fast.speed.provenance,
        missing=missing,
    )


def _plan(
    study: ClusterStudy, request: PlanRequest, cluster: Cluster, objective: Objective
) -> tuple[ClusterPlan | None, str | None]:
    """A plan, or why there is none."""
    try:
        return make_cluster_plan(replace(request, objective=objective), cluster, study.wire), None
    except PlanError as error:
        return None, str(error)


def _count(study: ClusterStudy, request: PlanRequest, sizes: Sequence[ClusterSize]) -> HostCount:
    rates = [(size, size.tokens_per_second_per_slot) for size in sizes]
    holding = next((size for size, rate in rates if rate is not None), None)
    target = study.target_tps
    reaching = None
    if target is not None:
        reaching = next((size for size, rate in rates if rate is not None and rate >= target), None)
    return HostCount(
        gpu_precision=request.gpu_precision,
        cpu_precision=request.cpu_precision,
        context_tokens=request.context_tokens,
        slots=request.slots,
        to_hold=holding and holding.hosts,
        to_reach_target=reaching and reaching.hosts,
        price_to_reach_target_usd=reaching and reaching.price_usd,
    )
