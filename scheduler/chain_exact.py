"""The best chain over a few hosts: every set of them, every order, every division of the blocks.

Blocks are alike, so a chain's time is that of its route plus that of its blocks: the best route
through each set of hosts and the best division among them are found apart, both by growing sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from scheduler.chain import Chain, Network, chain_of, passable
from scheduler.host_table import HostTable

_Best = list[tuple[float, tuple[int, ...]]]  # by number of blocks: seconds, blocks per host


def best_chain(
    tables: Sequence[HostTable], network: Network, blocks: int, bound: float = inf
) -> Chain | None:
    """Find the chain of least total time in which no link is occupied over the bound.

    The tables keep the same bound for stages. None where the blocks do not fit. Takes time that
    doubles with each host.
    """
    routes = _routes(len(tables), network, bound)
    divisions: dict[int, _Best] = {0: [(0.0, ())]}
    best: tuple[float, int, int, int] | None = None  # seconds, set, last, its blocks
    for hosts in range(1, 1 << len(tables)):
        for last in _members(hosts):
            route = routes[hosts].get(last, (inf, -1))[0]
            route += passable(network.back[last], bound)
            if route == inf or (best is not None and route >= best[0]):
                continue
            rest = _division(hosts & ~(1 << last), tables, divisions, blocks)
            for count, own in enumerate(tables[last].with_head[: blocks + 1]):
                others = blocks - count
                if own == inf or others >= len(rest):
                    continue
                seconds = route + own + rest[others][0]
                if seconds < inf and (best is None or seconds < best[0]):
                    best = (seconds, hosts, last, count)
    if best is None:
        return None
    _, hosts, last, count = best
    before = [host for host in _members(hosts) if host != last]
    counts = divisions[hosts & ~(1 << last)][blocks - count][1]
    held = {**dict(zip(before, counts, strict=True)), last: count}
    order = _trace(routes, hosts, last)
    return chain_of(network, order, [tables[h].option(held[h], h == last) for h in order])


def _members(hosts: int) -> list[int]:
    return [number for number in range(hosts.bit_length()) if hosts >> number & 1]


def _routes(count: int, network: Network, bound: float) -> list[dict[int, tuple[float, int]]]:
    """By set of hosts and last one: seconds of the best route from the driver, and the one before.

    Held and Karp's way.
    """
    routes: list[dict[int, tuple[float, int]]] = [{} for _ in range(1 << count)]
    for host in range(count):
        routes[1 << host][host] = (passable(network.entry[host], bound), -1)
    hop = [
        [passable(network.between(a, b), bound) if a != b else inf for b in range(count)]
        for a in range(count)
    ]
    for hosts in range(1, 1 << count):
        for last, (seconds, _) in routes[hosts].items():
            for following in range(count):
                if hosts >> following & 1:
                    continue
                reached = seconds + hop[last][following]
                known = routes[hosts | 1 << following].get(following)
                if known is None or reached < known[0]:
                    routes[hosts | 1 << following][following] = (reached, last)
    return routes


def _trace(routes: list[dict[int, tuple[float, int]]], hosts: int, last: int) -> list[int]:
    order = []
    while last >= 0:
        order.append(last)
        before = routes[hosts][last][1]
        hosts &= ~(1 << last)
        last = before
    return order[::-1]


def _division(
    hosts: int, tables: Sequence[HostTable], known: dict[int, _Best], blocks: int
) -> _Best:
    """The best division of each number of blocks among a set of hosts, each with one or more."""
    if hosts in known:
        return known[hosts]
    last = hosts.bit_length() - 1
    rest = _division(hosts & ~(1 << last), tables, known, blocks)
    most = min(blocks, len(rest) + len(tables[last].plain) - 2)
    best: _Best = [(inf, ())] * (most + 1)
    for count, seconds in enumerate(tables[last].plain):
        if count == 0 or seconds == inf:
            continue
        for before, (others, counts) in enumerate(rest[: max(0, blocks - count + 1)]):
            if others + seconds < best[before + count][0]:
                best[before + count] = (others + seconds, (*counts, count))
    known[hosts] = best
    return best
