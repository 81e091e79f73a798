"""A good chain over many hosts, where trying every set of them would take too long.

Every host offers its blocks at a price: the seconds of its options and of one hop to it. Offers are
taken cheapest per block first (the lower convex hull of each host's prices), and at each step the
rest is offered to every single host; the best of these ends is kept. That is done for each likely
home of lm_head, the hosts are put in a short order, hops are priced anew by what that order pays,
and a small pool of the hosts found and the next best ones is solved exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf

from scheduler.chain import Chain, Network, chain_of
from scheduler.chain_exact import best_chain
from scheduler.chain_route import short_route
from scheduler.host_table import HostTable

POOL = 6
"""Hosts of a pool that is solved exactly at the end."""
_HOMES = 6
_ROUNDS = 3
_ENDS = 48

_Offer = tuple[float, int, int, int]  # seconds per block, host, blocks so far, and with it


def likely_chain(
    tables: Sequence[HostTable],
    network: Network,
    arrival: Sequence[float],
    blocks: int,
    bound: float = inf,
) -> Chain | None:
    """Find a chain whose total time is small; `arrival` guesses the seconds of a hop to each host.

    Bounds as for `best_chain`. None where no set of hosts was found that holds the blocks.
    """
    prices = list(arrival)
    best: Chain | None = None
    for _ in range(_ROUNDS):
        found = _by_price(tables, network, prices, blocks, bound)
        if found is None or (best is not None and found.total_seconds >= best.total_seconds):
            break
        best = found
        prices = _prices(network, best, len(tables))
    if best is None or len(best.hosts) >= POOL:
        return best
    pool = _pool(tables, prices, best)
    part = Network(
        [network.entry[host] for host in pool],
        [network.back[host] for host in pool],
        lambda a, b: network.between(pool[a], pool[b]),
    )
    exact = best_chain([tables[host] for host in pool], part, blocks, bound)
    if exact is None or exact.total_seconds >= best.total_seconds:
        return best
    return chain_of(network, [pool[host] for host in exact.hosts], exact.options)


def _prices(network: Network, chain: Chain, hosts: int) -> list[float]:
    """What a hop to each host costs: as the chain pays it, else from the nearest host in it."""
    paid = dict(zip(chain.hosts[1:], pairwise(chain.hosts), strict=True))
    first = chain.hosts[0]
    prices = []
    for host in range(hosts):
        if host == first:
            prices.append(network.entry[host][0])
        elif host in paid:
            prices.append(network.between(*paid[host])[0])
        else:
            prices.append(min(network.between(near, host)[0] for near in chain.hosts))
    return prices


def _pool(tables: Sequence[HostTable], prices: Sequence[float], chain: Chain) -> list[int]:
    """The chain's hosts, and others by what a block costs there at best."""

    def rate(host: int) -> float:
        return min(
            (
                (seconds + prices[host]) / count
                for count, seconds in enumerate(tables[host].plain)
                if count
            ),
            default=inf,
        )

    others = [host for host in range(len(tables)) if host not in chain.hosts]
    return [*chain.hosts, *sorted(others, key=rate)[: POOL - len(chain.hosts)]]


def _by_price(
    tables: Sequence[HostTable],
    network: Network,
    prices: Sequence[float],
    blocks: int,
    bound: float,
) -> Chain | None:
    offers = sorted(
        offer
        for host, table in enumerate(tables)
        for offer in _offers(table.plain, host, prices[host])
    )
    rank = list(dict.fromkeys(offer[1] for offer in offers))
    homes = [host for host in range(len(tables)) if tables[host].seconds(0, head=True) < inf]
    homes.sort(
        key=lambda home: (
            tables[home].seconds(0, head=True) + prices[home] + network.back[home][0],
            home,
        )
    )
    able = set(homes)
    homes = list(dict.fromkeys([*homes[:_HOMES], *(h for h in rank[:_HOMES] if h in able)]))
    best: Chain | None = None
    for home in homes:
        counts = _counts(tables, offers, rank[:_ENDS], prices, home, blocks)
        if counts is None:
            continue
        before = [host for host, count in counts.items() if count and host != home]
        order = short_route(network, before, home, bound)
        if order is None:
            continue
        options = [tables[host].option(counts[host], host == home) for host in order]
        chain = chain_of(network, order, options)
        if best is None or chain.total_seconds < best.total_seconds:
            best = chain
    return best


def _offers(seconds: Sequence[float], host: int, arrival: float) -> list[_Offer]:
    """The lower convex hull of what 0, 1, 2, ... blocks cost on a host, as steps."""
    corners: list[tuple[int, float]] = [(0, seconds[0])]
    for count in range(1, len(seconds)):
        if seconds[count] == inf:
            continue
        point = (count, seconds[count] + arrival)
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) >= _slope(corners[-1], point):
            corners.pop()
        corners.append(point)
    return [(_slope(a, b), host, a[0], b[0]) for a, b in pairwise(corners)]


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _counts(
    tables: Sequence[HostTable],
    offers: Sequence[_Offer],
    ends: Sequence[int],
    prices: Sequence[float],
    home: int,
    blocks: int,
) -> dict[int, int] | None:
    """Blocks per host, with lm_head on `home`: offers in turn, and the best single host to end."""
    counts = {home: 0}
    own = _offers(tables[home].with_head, home, 0.0)
    seconds, left = 0.0, blocks
    best_seconds, best = inf, None

    def added(host: int, count: int) -> float:
        now = counts.get(host, 0)
        arriving = prices[host] if host != home and not now else 0.0
        table = tables[host]
        return (
            table.seconds(now + count, host == home) - table.seconds(now, host == home) + arriving
        )

    merged = (
        sorted([*own, *(offer for offer in offers if offer[1] != home)])
        if own
        else [offer for offer in offers if offer[1] != home]
    )
    for _, host, before, after in merged:
        end = min({*ends, *counts}, key=lambda host: (added(host, left), host))
        whole = seconds + added(end, left)
        if whole < best_seconds:
            best_seconds, best = whole, {**counts, end: counts.get(end, 0) + left}
        taken = min(after - before, left)
        seconds += added(host, taken)
        counts[host] = counts.get(host, 0) + taken
        left -= taken
        if not left:
            return counts if seconds < best_seconds else best
    return best
