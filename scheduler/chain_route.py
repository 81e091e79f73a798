"""The order of chosen hosts: the shortest way from the driver through all of them and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations
from math import inf

from scheduler.chain import Network, passable

_EVERY_ORDER = 5
"""So many hosts before the last are tried in every order; more by the nearest next and repairs."""


def short_route(
    network: Network, before: Sequence[int], last: int, bound: float = inf
) -> list[int] | None:
    """Order the hosts `before` the last one; None where a link over the bound cannot be avoided."""

    def seconds(order: Sequence[int]) -> float:
        return passable(network.entry[order[0]], bound) + sum(
            passable(network.between(a, b), bound) for a, b in pairwise(order)
        )

    if len(before) <= _EVERY_ORDER:
        route = min(([*order, last] for order in permutations(before)), key=seconds)
    else:
        route = _repaired(_nearest_next(network, before, last), network, bound)
    whole = seconds(route) + passable(network.back[last], bound)
    return route if whole < inf else None


def _nearest_next(network: Network, before: Sequence[int], last: int) -> list[int]:
    left = list(before)
    route = [min(left, key=lambda host: network.entry[host][0])]
    left.remove(route[0])
    while left:
        route.append(min(left, key=lambda host: network.between(route[-1], host)[0]))
        left.remove(route[-1])
    return [*route, last]


def _repaired(route: list[int], network: Network, bound: float) -> list[int]:
    """Turn stretches of the route round for as long as that shortens it; the last host stays."""
    known: dict[tuple[int, int], float] = {}

    def hop(a: int, b: int) -> float:
        if (a, b) not in known:
            cost = network.entry[b] if a < 0 else network.between(a, b)
            known[a, b] = passable(cost, bound)
        return known[a, b]

    places = [-1, *route]
    improved = True
    while improved:
        improved = False
        for i in range(1, len(places) - 2):
            for j in range(i + 1, len(places) - 1):
                a, b, c, d = places[i - 1], places[i], places[j], places[j + 1]
                if hop(a, c) + hop(b, d) < hop(a, b) + hop(c, d) - 1e-12:
                    places[i : j + 1] = places[i : j + 1][::-1]
                    improved = True
    return places[1:]
