"""Replicas: several copies of a model, each on hosts of its own, for the most tokens per second.

Up to `EXACT_HOSTS` hosts every way to divide them is tried. Beyond, hosts are taken in the order of
their speed until they hold the blocks so many times over; from these a chain is built, what it
leaves is taken up again, and the number of times that gives the most is kept. Up to 64 hosts other
orders are tried as well: by their room for blocks, and both the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.chain import Chain
from scheduler.cluster_fit import Fitter

EXACT_HOSTS = 6
_FEW_HOSTS = 64
_TIMES = (1.0, 1.5, 2.5, 4.0)
_TIMES_OF_MANY = (1.0, 2.5)


def best_chains(fitter: Fitter) -> list[Chain]:
    """The chains that serve the cluster's objective best; one for latency, none if nothing fits."""
    hosts = range(len(fitter.rooms))
    if fitter.question.request.objective == "latency" or len(hosts) == 1:
        whole = fitter.best(hosts)
        return [] if whole is None else [whole]
    if len(hosts) <= EXACT_HOSTS:
        return _divided(fitter)
    return carved_chains(fitter)


def carved_chains(fitter: Fitter) -> list[Chain]:
    """The best that taking hosts by their speed finds, one chain over all of them included."""
    whole = fitter.best(range(len(fitter.rooms)))
    hosts = range(len(fitter.rooms))
    by_speed = sorted(hosts, key=lambda host: (fitter.block_seconds(host), host))
    few = len(hosts) <= _FEW_HOSTS
    candidates = [_carved(fitter, by_speed, times) for times in (_TIMES if few else _TIMES_OF_MANY)]
    if few:
        by_size = sorted(hosts, key=lambda host: (-fitter.most_blocks(host), host))
        for order in (by_size, by_size[::-1], by_speed[::-1]):
            candidates += [_carved(fitter, order, times) for times in _TIMES]
    candidates += [[whole]] if whole is not None else []
    return max(candidates, key=lambda chains: (rate(fitter, chains), -len(chains)))


def rate(fitter: Fitter, chains: Sequence[Chain]) -> float:
    """Rounds per second of all chains together; each gives a token to every slot of its chain."""
    return sum(1 / chain.round_seconds(fitter.question.groups) for chain in chains)


def _divided(fitter: Fitter) -> list[Chain]:
    """The best division of the hosts into sets, found by growing sets; exact."""
    count = len(fitter.rooms)
    own = [
        fitter.best([host for host in range(count) if hosts >> host & 1]) if hosts else None
        for hosts in range(1 << count)
    ]
    best: list[list[Chain]] = [[]]
    for hosts in range(1, 1 << count):
        first = hosts & -hosts
        chosen = best[hosts ^ first]  # the first host stays idle
        part = hosts
        while part:
            chain = own[part]
            if part & first and chain is not None:
                together = [chain, *best[hosts ^ part]]
                if rate(fitter, together) > rate(fitter, chosen) * (1 + 1e-12):
                    chosen = together
            part = (part - 1) & hosts
        best.append(chosen)
    return best[-1]


def _carved(fitter: Fitter, order: Sequence[int], times: float) -> list[Chain]:
    blocks = fitter.question.request.model.blocks
    left = list(order)
    chains = []
    while left:
        taken: list[int] = []
        room = 0
        chain = None
        for host in left:
            taken.append(host)
            room += fitter.most_blocks(host)
            if room >= times * blocks:
                chain = fitter.best(taken)
                if chain is not None:
                    break
        if chain is None and taken and room >= blocks:
            chain = fitter.best(taken)
        if chain is None:
            break
        chains.append(chain)
        used = set(chain.hosts)
        left = [host for host in left if host not in used]
    return chains
