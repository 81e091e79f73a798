"""Plan for a cluster: a question in, a ClusterPlan out. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from scheduler.chain import Chain
from scheduler.choose import USABLE_TOKENS_PER_SECOND, candidates
from scheduler.cluster import Cluster, Host
from scheduler.cluster_fit import (
    ClusterQuestion,
    Fitter,
    fixed_ram_bytes,
    stage_ram_bytes,
)
from scheduler.cluster_plan import ClusterPlan, ClusterSpeed, HostBudget, Replica, WireDtype
from scheduler.cluster_replicas import EXACT_HOSTS as EXACT_REPLICA_HOSTS
from scheduler.cluster_replicas import best_chains
from scheduler.cluster_shortage import cluster_shortage
from scheduler.cluster_stages import least_certain_of, replica_of
from scheduler.errors import PlanError
from scheduler.free_memory import free_of_ram
from scheduler.model import embedding_bytes
from scheduler.plan import RamBudget
from scheduler.request import PlanRequest, check_request, flag_size
from scheduler.slots import GROUP_ROWS
from scheduler.speed import DEFAULT_PROMPT
from scheduler.units import format_size

_NAMES_TOLD = 5
FORMULA = {
    "latency": "least seconds per token over all hosts and links",
    "throughput": "most tokens per second with groups of requests following each other",
}


def make_cluster_plan(
    request: PlanRequest, cluster: Cluster, wire: WireDtype = "fp32", file: str = "FILE"
) -> ClusterPlan:
    """Place every block of the model on the cluster's hosts, and predict what that does.

    Precisions that the request leaves open are settled as `fit` does on one machine: the most
    faithful that decodes at a usable speed. `file` is named in the plan's command. Raises
    UserInputError for numbers that make no sense, PlanError with what is missing where nothing
    fits.
    """
    check_request(request)
    asked = _candidates(request, cluster)
    placed: list[tuple[Fitter, list[Chain]]] = []
    for candidate in asked:
        fitter = Fitter(ClusterQuestion(candidate, cluster, wire))
        _check_driver(fitter.question)
        chains = best_chains(fitter)
        if not chains:
            continue
        placed.append((fitter, chains))
        if _rate_of_a_slot(fitter, chains) >= USABLE_TOKENS_PER_SECOND:
            break
    if not placed:
        raise PlanError(cluster_shortage(ClusterQuestion(asked[-1], cluster, wire)))
    usable = _rate_of_a_slot(*placed[-1]) >= USABLE_TOKENS_PER_SECOND
    fitter, chains = placed[-1] if usable else max(placed, key=lambda one: _rate_of_a_slot(*one))
    return _plan(fitter, chains, file, _notes(fitter, chains, chosen=len(asked) > 1))


def _candidates(request: PlanRequest, cluster: Cluster) -> list[PlanRequest]:
    """The request at every precision that it leaves open, most faithful first."""
    with_gpu = next((host for host in cluster.hosts if host.machine.host.gpus), cluster.hosts[0])
    return candidates(request, with_gpu.machine.devices(request))


def _rate_of_a_slot(fitter: Fitter, chains: Sequence[Chain]) -> float:
    """Tokens per second of one slot of the slowest chain, by the question's objective."""
    question = fitter.question
    groups = question.groups if question.request.objective == "throughput" else 1
    return 1 / max(chain.round_seconds(groups) for chain in chains)


def _check_driver(question: ClusterQuestion) -> None:
    driver = question.cluster.host(question.cluster.driver)
    needed, available = fixed_ram_bytes(question, driver), driver.machine.ram_bytes
    if needed > available:
        raise PlanError(
            f"The driver's process on {driver.name} needs {format_size(needed)} of RAM with"
            f" {question.request.context_tokens} tokens and {question.request.slots} slots, and"
            f" {format_size(available)} are available; name another driver."
        )


def _plan(fitter: Fitter, chains: Sequence[Chain], file: str, notes: list[str]) -> ClusterPlan:
    question = fitter.question
    request, cluster = question.request, question.cluster
    spec = request.model
    replicas = [replica_of(question, chain) for chain in chains]
    speed = _speed(question, replicas)
    hosts = range(len(cluster.hosts))
    single = fitter.is_exact(hosts)
    exact = single and (request.objective == "latency" or len(hosts) <= EXACT_REPLICA_HOSTS)
    return ClusterPlan(
        model=spec.name,
        blocks=spec.blocks,
        objective=request.objective,
        wire=question.wire,
        driver_host=cluster.driver,
        context_tokens=request.context_tokens,
        slots=request.slots,
        replicas=replicas,
        hosts=_budgets(question, replicas),
        embedding_bytes=embedding_bytes(spec),
        speed=speed,
        decision={
            "formula": FORMULA[request.objective],
            "search": "exact" if exact else "heuristic",
            "hosts": len(cluster.hosts),
            "hosts_used": len({stage.host for replica in replicas for stage in replica.stages}),
            "gpu_precision": request.gpu_precision,
            "cpu_precision": request.cpu_precision,
            "reserve_bytes": request.reserve_bytes or 0,
        },
        notes=notes,
        command=cluster_command(question, file),
    )


def _speed(question: ClusterQuestion, replicas: Sequence[Replica]) -> ClusterSpeed:
    overlapping = question.request.objective == "throughput"
    rates = [
        replica.speed.pipelined_tokens_per_second
        if overlapping
        else replica.speed.decode_tokens_per_second
        for replica in replicas
    ]
    stages = [stage for replica in replicas for stage in replica.stages]
    shares = [(replica.speed.bubble_share, len(replica.stages)) for replica in replicas]
    return ClusterSpeed(
        tokens_per_second=sum(rates),
        tokens_per_second_per_slot=min(rates) / question.request.slots,
        time_to_first_token_seconds=max(
            replica.speed.time_to_first_token_seconds for replica in replicas
        ),
        prompt_tokens=min(DEFAULT_PROMPT, question.request.context_tokens),
        bubble_share=sum(share * count for share, count in shares) / len(stages),
        provenance=least_certain_of(replicas),
    )


def _budgets(question: ClusterQuestion, replicas: Sequence[Replica]) -> list[HostBudget]:
    """RAM of every host with stages, and of the driver's, which comes first."""
    cluster, request = question.cluster, question.request
    held: dict[str, list[int]] = {cluster.driver: []}
    for replica in replicas:
        for stage in replica.stages:
            own = cluster.host(stage.host).machine.host.planned.get(stage.device)
            in_ram = stage.device == "cpu" or (own is not None and own.shares_ram)
            total = stage.host_bytes + (stage.memory.total_bytes if in_ram else 0)
            held.setdefault(stage.host, []).append(total)
    return [
        _budget(request, cluster.host(name), stages, fixed_ram_bytes(question, cluster.host(name)))
        for name, stages in held.items()
    ]


def _budget(request: PlanRequest, host: Host, stages: list[int], fixed_bytes: int) -> HostBudget:
    free = free_of_ram(request, host.machine.host)
    beside = fixed_bytes + len(stages) * stage_ram_bytes(request)
    return HostBudget(
        name=host.name,
        address=host.address,
        ram=RamBudget(
            needed_bytes=beside + sum(stages),
            driver_bytes=beside,
            available_bytes=free.free_bytes,
            available_provenance=free.provenance,
        ),
    )


def _notes(fitter: Fitter, chains: Sequence[Chain], *, chosen: bool) -> list[str]:
    question = fitter.question
    settled, notes = question.request, []
    if chosen:
        rate = _rate_of_a_slot(fitter, chains)
        reason = (
            f"the most faithful that fits and reaches {USABLE_TOKENS_PER_SECOND:g} tok/s a slot"
            if rate >= USABLE_TOKENS_PER_SECOND
            else f"none that fits reaches {USABLE_TOKENS_PER_SECOND:g} tok/s, this one is fastest"
        )
        notes.append(
            f"Chosen: {settled.gpu_precision} on GPUs and {settled.cpu_precision} on CPUs,"
            f" {rate:.3g} tok/s: {reason}."
        )
    cluster = question.cluster
    used = {cluster.hosts[host].name for chain in chains for host in chain.hosts}
    idle = [host.name for host in cluster.hosts if host.name not in used]
    if idle:
        more = f" and {len(idle) - _NAMES_TOLD} more" if len(idle) > _NAMES_TOLD else ""
        notes.append(
            f"Left idle: {', '.join(idle[:_NAMES_TOLD])}{more}; no plan that was tried is better"
            " with more hosts."
        )
    waits = [c.total_seconds / (question.groups * c.slowest_seconds) for c in chains]
    if settled.objective == "throughput" and max(waits) > 1.05:
        slots = GROUP_ROWS * math.ceil(question.groups * max(waits))
        notes.append(
            f"{settled.slots} slots are too few groups of {GROUP_ROWS} to keep every stage busy;"
            f" --slots {slots} would, where they fit."
        )
    return notes


def cluster_command(question: ClusterQuestion, file: str) -> str:
    """Spell the command that makes this plan again."""
    request = question.request
    words = ["glm-plan", "plan", "--cluster", file, "--model", request.model.name]
    words += ["--gpu-precision", request.gpu_precision, "--cpu-precision", request.cpu_precision]
    words += ["--context", str(request.context_tokens), "--slots", str(request.slots)]
    if request.objective != "latency":
        words += ["--objective", request.objective]
    if question.wire != "fp32":
        words += ["--wire", question.wire]
    if request.max_vram_bytes is not None:
        words += ["--max-vram", flag_size(request.max_vram_bytes)]
    if request.reserve_bytes is not None:
        words += ["--reserve", flag_size(request.reserve_bytes)]
    for side, backend in (("gpu", request.gpu_backend), ("cpu", request.cpu_backend)):
        words += [f"--{side}-backend", backend] if backend else []
    return shlex.join(words)
