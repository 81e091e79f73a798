"""Chains: hosts in the order that a token visits them, from the driver and back to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from scheduler.host_table import HostOption

Cost = tuple[float, float]
"""Seconds that a message of one decode step takes, and seconds that it occupies its link."""


@dataclass(frozen=True)
class Network:
    """What travelling costs between hosts, which are numbers: from the driver, on, and back."""

    entry: Sequence[Cost]
    back: Sequence[Cost]
    between: Callable[[int, int], Cost]


@dataclass(frozen=True)
class Chain:
    """Hosts in order with what each runs; seconds of a step, and of its slowest stage or link."""

    hosts: tuple[int, ...]
    options: tuple[HostOption, ...]
    total_seconds: float
    slowest_seconds: float

    def round_seconds(self, groups: int) -> float:
        """A token for every slot, with that many groups of requests following each other."""
        return max(self.slowest_seconds, self.total_seconds / groups)


def chain_of(network: Network, hosts: Sequence[int], options: Sequence[HostOption]) -> Chain:
    """Sum up a chain."""
    costs = [
        network.entry[hosts[0]],
        *(network.between(a, b) for a, b in pairwise(hosts)),
        network.back[hosts[-1]],
    ]
    total = sum(cost[0] for cost in costs) + sum(option.seconds for option in options)
    slowest = max(*(cost[1] for cost in costs), *(option.slowest_seconds for option in options))
    return Chain(tuple(hosts), tuple(options), total, slowest)


def passable(cost: Cost, bound: float) -> float:
    """The seconds of a message, or infinity where it would occupy its link over the bound."""
    return cost[0] if cost[1] <= bound else inf
