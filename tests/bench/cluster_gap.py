"""How far the heuristic for large clusters is from the exact answer, and how long large ones take.

    python -m tests.bench.cluster_gap [--cases N] [--seed S]

Random clusters of 5 to 8 hosts (4 or 5 with replicas) are planned both ways, for latency and for
throughput. Hosts differ in RAM, GPU, speed and network, every third pair has a link of its own.
Then 1,000 hosts, all different, take 400 blocks of ChatGLM-6B's size. Seconds are processor time
of one thread.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace
from statistics import mean, quantiles

from scheduler.chain import Chain
from scheduler.cluster import Cluster, Host, Link
from scheduler.cluster_fit import ClusterQuestion, Fitter
from scheduler.cluster_replicas import best_chains, carved_chains, rate
from scheduler.fit_search import Objective
from scheduler.machine import Machine
from scheduler.profiles import load_model
from scheduler.request import PlanRequest
from tests.scheduler.clusters import machine


def random_machine(rng: random.Random) -> Machine:
    """A machine with 4 to 48 GiB of free RAM and none, one or two GPUs of 3 to 24 GiB."""
    gpus = tuple(
        (rng.randint(3, 24) * 1024, rng.uniform(1e11, 6e11))
        for _ in range(rng.choice([0, 1, 1, 2]))
    )
    return machine("machine", rng.randint(4, 48) * 1024, rng.uniform(1e10, 5e10), gpus)


def random_link(rng: random.Random) -> Link:
    """0.1 to 10 Gbit/s and 0.1 to 5 ms."""
    return Link(rng.choice([0.1, 1.0, 1.0, 2.5, 10.0]), rng.choice([1e-4, 3e-4, 1e-3, 5e-3]))


def random_cluster(rng: random.Random, count: int) -> Cluster:
    """Hosts h0 (the driver's), h1, ...; every third pair of small clusters has its own link."""
    hosts = tuple(Host(f"h{n}", random_machine(rng), random_link(rng)) for n in range(count))
    names = [host.name for host in hosts] if count < 10 else []
    pairs = {
        (a, b): random_link(rng) for a in names for b in names if a < b and rng.random() < 1 / 3
    }
    return Cluster(hosts, "h0", pairs)


def question(
    cluster: Cluster, blocks: int, objective: Objective, slots: int, rng: random.Random
) -> ClusterQuestion:
    """ChatGLM-6B with another number of blocks."""
    precision = rng.choice([("fp16", "fp32"), ("int4", "int4")])
    request = PlanRequest(
        model=replace(load_model("chatglm-6b"), blocks=blocks),
        gpu_precision=precision[0],  # type: ignore[arg-type]
        cpu_precision=precision[1],  # type: ignore[arg-type]
        context=1024,
        slots=slots,
        policy="fit",
        objective=objective,
    )
    return ClusterQuestion(request, cluster)


def gap(asked: ClusterQuestion) -> float | None:
    """The heuristic's time over the exact one, less 1; None where nothing fits."""
    exact, likely = Fitter(asked, exact=True), Fitter(asked, exact=False)
    hosts = range(len(exact.rooms))
    if asked.request.objective == "latency":
        return _over(exact.best(hosts), likely.best(hosts), 1)
    return _over(exact.best(hosts), likely.best(hosts), asked.groups)


def _over(best: Chain | None, found: Chain | None, groups: int) -> float | None:
    if best is None:
        return None
    return (
        float("inf")
        if found is None
        else found.round_seconds(groups) / best.round_seconds(groups) - 1
    )


def replica_gap(asked: ClusterQuestion) -> float | None:
    """The exact rate of all replicas over the heuristic's, less 1."""
    exact, likely = Fitter(asked, exact=True), Fitter(asked, exact=False)
    best = best_chains(exact)
    if not best:
        return None
    found = carved_chains(likely)
    return rate(exact, best) / rate(likely, found) - 1 if found else float("inf")


def tell(what: str, gaps: list[float]) -> None:
    """One line of the distribution."""
    ended = [value for value in gaps if value < float("inf")]
    missed = len(gaps) - len(ended)
    same = sum(value < 1e-9 for value in ended)
    print(
        f"{what}: {len(gaps)} cases, {same} exact, mean {mean(ended):.2%},"
        f" 95th percentile {quantiles(ended, n=20)[-1]:.2%}, worst {max(ended):.2%},"
        f" {missed} found no plan where there is one"
    )


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--cases", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    rng = random.Random(given.seed)
    kinds = {"latency": gap, "throughput, one chain": gap, "throughput, replicas": replica_gap}
    for what, measure in kinds.items():
        objective: Objective = "latency" if what == "latency" else "throughput"
        least, most, blocks = (5, 8, 90) if measure is gap else (4, 5, 40)
        gaps: list[float] = []
        for _ in range(given.cases):
            cluster = random_cluster(rng, rng.randint(least, most))
            slots = 1 if objective == "latency" else 16
            found = measure(question(cluster, rng.randint(12, blocks), objective, slots, rng))
            if found is not None:
                gaps.append(found)
        tell(what, gaps)
    cluster = random_cluster(rng, 1000)
    for objective, slots in (("latency", 1), ("throughput", 16)):
        asked = question(cluster, 400, objective, slots, rng)  # type: ignore[arg-type]
        start = time.process_time()
        fitter = Fitter(asked)
        chains = best_chains(fitter)
        seconds = time.process_time() - start
        used = sum(len(chain.hosts) for chain in chains)
        print(
            f"{objective}: 1,000 hosts, 400 blocks in {seconds:.1f} s: {len(chains)} chains over"
            f" {used} hosts"
        )


if __name__ == "__main__":
    main()
