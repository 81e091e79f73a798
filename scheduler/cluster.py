"""Clusters: hosts with their devices, the links between them, and the host that drives the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from scheduler.machine import Machine
from scheduler.plan import Provenance

BITS_PER_GBIT = 1e9


@dataclass(frozen=True)
class Link:
    """What moving bytes from one host to another costs; `gbit_per_second` in 10^9 bits per second.

    `latency_seconds` passes between sending a small message and its arrival, one way.
    """

    gbit_per_second: float
    latency_seconds: float
    provenance: Provenance = "given"

    def transfer_seconds(self, size_bytes: int) -> float:
        """How long these bytes occupy the link."""
        return 8 * size_bytes / (BITS_PER_GBIT * self.gbit_per_second)

    def seconds(self, size_bytes: int, messages: int = 1) -> float:
        """From the first byte sent to the last one received, in so many messages."""
        return messages * self.latency_seconds + self.transfer_seconds(size_bytes)


@dataclass(frozen=True)
class Host:
    """A machine of a cluster: devices that share one RAM, and how it reaches the others.

    `link` is its own connection; `address` is where a runner finds it, `price_usd` what it costs.
    """

    name: str
    machine: Machine
    link: Link
    address: str | None = None
    price_usd: float | None = None


@dataclass(frozen=True)
class Cluster:
    """Hosts, and pairs whose link differs from what their own connections give.

    Keys of `pairs` are names in either order. `driver` names the host of the process with
    tokenizer, embedding and sampler, from which hidden states set out and to which logits return.
    """

    hosts: tuple[Host, ...]
    driver: str
    pairs: Mapping[tuple[str, str], Link] = field(default_factory=dict, hash=False)

    @cached_property
    def _by_name(self) -> dict[str, Host]:
        return {host.name: host for host in self.hosts}

    def link(self, one: Host, other: Host) -> Link:
        """The pair's link if it has its own, else the slower rate and the longer latency of both.

        Only for two different hosts: inside a host nothing travels over a network.
        """
        own = self.pairs.get((one.name, other.name)) or self.pairs.get((other.name, one.name))
        if own is not None:
            return own
        a, b = one.link, other.link
        return Link(
            min(a.gbit_per_second, b.gbit_per_second),
            max(a.latency_seconds, b.latency_seconds),
            a.provenance if a.provenance == b.provenance else "estimated",
        )

    def host(self, name: str) -> Host:
        """The host of this name; raises KeyError."""
        return self._by_name[name]

    def only(self, names: frozenset[str]) -> Cluster:
        """The same cluster with some of its hosts, among which the driver's has to be."""
        return Cluster(
            tuple(host for host in self.hosts if host.name in names), self.driver, self.pairs
        )
