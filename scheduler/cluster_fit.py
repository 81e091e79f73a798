"""`fit` over a cluster: runs of blocks over hosts and their devices, fastest within all memory.

For latency the time of a token through all stages and over the network is least; for throughput the
time in which every slot gets a token while groups of requests follow each other, over one chain or
over several, each a whole copy of the model on hosts of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from scheduler.chain import Chain, Cost, Network
from scheduler.chain_exact import best_chain
from scheduler.chain_likely import likely_chain
from scheduler.choose import question_of
from scheduler.cluster import Cluster, Host
from scheduler.cluster_plan import WireDtype
from scheduler.cost import hidden_bytes
from scheduler.fit import FitQuestion, seat_of
from scheduler.host_table import HostRoom, HostTable, host_table
from scheduler.memory import DRIVER_BYTES, hop_bytes
from scheduler.model import ModelSpec
from scheduler.request import PlanRequest
from scheduler.slots import decode_groups
from scheduler.units import MIB

HOST_AGENT_BYTES = 256 * MIB
"""RAM of what starts stages on a host and keeps in touch with the others (an assumption)."""

EXACT_HOSTS = 8
"""Up to so many hosts every set and order is tried, of models of up to `EXACT_BLOCKS` blocks."""
EXACT_BLOCKS = 100
_EXACT_HOSTS_OF_LARGE = 6
_LOGIT_BYTES = 4
_HALVES = 5


@dataclass(frozen=True)
class ClusterQuestion:
    """A settled request (precision, context, slots, objective), a cluster, and the wire's dtype."""

    request: PlanRequest
    cluster: Cluster
    wire: WireDtype = "fp32"

    @property
    def groups(self) -> int:
        """Groups of slots that can be under way at once."""
        return decode_groups(self.request.slots)


def wire_bytes(spec: ModelSpec, tokens: int, wire: WireDtype) -> int:
    """Bytes of the hidden states of so many tokens on a network: half of fp32's at fp16."""
    size_bytes = hidden_bytes(spec, tokens)
    return size_bytes // 2 if wire == "fp16" else size_bytes


def logits_wire_bytes(spec: ModelSpec, slots: int) -> int:
    """Bytes of the logits that return to the driver in a step, fp32."""
    return slots * spec.vocab_size * _LOGIT_BYTES


def rooms_of(question: ClusterQuestion) -> list[HostRoom]:
    """What each host has for stages, in the cluster's order."""
    known: dict[tuple[int, bool], HostRoom] = {}
    rooms = []
    for host in question.cluster.hosts:
        key = (id(host.machine), host.name == question.cluster.driver)
        if key not in known:
            known[key] = _room(question, host)
        rooms.append(known[key])
    return rooms


def questions_of_host(question: ClusterQuestion, host: Host) -> FitQuestion:
    """What `fit` would be asked about this host alone."""
    return question_of(question.request, host.machine.devices(question.request))


def fixed_ram_bytes(question: ClusterQuestion, host: Host) -> int:
    """RAM that a host with stages needs beside them, or that the driver's host needs anyhow."""
    request = question.request
    shared = hop_bytes(request.model, 0, request.context_tokens, request.slots)
    driving = DRIVER_BYTES if host.name == question.cluster.driver else 0
    return HOST_AGENT_BYTES + driving + shared


def stage_ram_bytes(request: PlanRequest) -> int:
    """RAM of the host that one more stage takes for what it hands on."""
    context, slots = request.context_tokens, request.slots
    return hop_bytes(request.model, 1, context, slots) - hop_bytes(request.model, 0, context, slots)


def _room(question: ClusterQuestion, host: Host) -> HostRoom:
    asked = questions_of_host(question, host)
    available = asked.rooms[-1].budget_bytes
    ram = None if available is None else available - fixed_ram_bytes(question, host)
    spec, slots = question.request.model, question.request.slots
    hop = asked.speeds.hop.seconds(hidden_bytes(spec, slots), question.groups)
    seats = tuple(seat_of(asked, room) for room in asked.rooms)
    return HostRoom(seats, ram, stage_ram_bytes(question.request), hop)


def network_of(question: ClusterQuestion) -> Network:
    """What hidden states and logits of one decode step cost between the cluster's hosts."""
    cluster, spec = question.cluster, question.request.model
    slots, groups = question.request.slots, question.groups
    hidden = wire_bytes(spec, slots, question.wire)
    logits = logits_wire_bytes(spec, slots)
    driver = cluster.host(cluster.driver)
    inside = driver.machine.speeds.hop.seconds(hidden_bytes(spec, slots), groups)

    def cost(one: Host, other: Host, size_bytes: int) -> Cost:
        link = cluster.link(one, other)
        return link.seconds(size_bytes, groups), link.transfer_seconds(size_bytes)

    def between(a: int, b: int) -> Cost:
        return cost(cluster.hosts[a], cluster.hosts[b], hidden)

    return Network(
        [(inside, 0.0) if host is driver else cost(driver, host, hidden) for host in cluster.hosts],
        [(0.0, 0.0) if host is driver else cost(host, driver, logits) for host in cluster.hosts],
        between,
    )


class Fitter:
    """Answers about one question and any set of its hosts; tables are made once."""

    def __init__(self, question: ClusterQuestion, exact: bool | None = None) -> None:
        self.question = question
        self.rooms = rooms_of(question)
        self.network = network_of(question)
        self._exact = exact
        self._tables: dict[tuple[int, float], HostTable] = {}
        hidden = wire_bytes(question.request.model, question.request.slots, question.wire)
        self._arrival = [
            host.link.seconds(hidden, question.groups) for host in question.cluster.hosts
        ]

    def is_exact(self, hosts: Sequence[int]) -> bool:
        """Whether every set and order of these hosts is tried."""
        if self._exact is not None:
            return self._exact
        large = self.question.request.model.blocks > EXACT_BLOCKS
        return len(hosts) <= (_EXACT_HOSTS_OF_LARGE if large else EXACT_HOSTS)

    def chain(self, hosts: Sequence[int], bound: float = inf) -> Chain | None:
        """The fastest chain over some hosts with no stage and no link busy over the bound."""
        blocks = self.question.request.model.blocks
        tables = [self._table(host, bound) for host in hosts]
        entry = [self.network.entry[host] for host in hosts]
        back = [self.network.back[host] for host in hosts]
        network = Network(entry, back, lambda a, b: self.network.between(hosts[a], hosts[b]))
        if self.is_exact(hosts):
            chain = best_chain(tables, network, blocks, bound)
        else:
            arrival = [self._arrival[host] for host in hosts]
            chain = likely_chain(tables, network, arrival, blocks, bound)
        if chain is None:
            return None
        own = tuple(hosts[host] for host in chain.hosts)
        return Chain(own, chain.options, chain.total_seconds, chain.slowest_seconds)

    def best(self, hosts: Sequence[int]) -> Chain | None:
        """The best single chain over some hosts, by the question's objective."""
        fastest = self.chain(hosts)
        groups = self.question.groups
        if fastest is None or self.question.request.objective == "latency" or groups == 1:
            return fastest
        if self.is_exact(hosts):
            return self._best_round(hosts, fastest)
        return self._likely_round(hosts, fastest)

    def most_blocks(self, host: int) -> int:
        """The most blocks that a host can hold without lm_head."""
        return len(self._table(host, inf).plain) - 1

    def block_seconds(self, host: int) -> float:
        """Seconds per block of a host that holds all it can."""
        most = self.most_blocks(host)
        return self._table(host, inf).plain[-1] / most if most else inf

    def _table(self, host: int, bound: float) -> HostTable:
        room = self.rooms[host]
        key = (id(room), bound)
        if key not in self._tables:
            self._tables[key] = host_table(room, self.question.request.model.blocks, bound)
        return self._tables[key]

    def _best_round(self, hosts: Sequence[int], fastest: Chain) -> Chain:
        """Try the bounds that stages and links can reach: a looser bound never makes steps slower.

        The best round lies where the bound meets the step's time over the groups.
        """
        groups = self.question.groups
        best = fastest
        bounds = [bound for bound in self._bounds(hosts) if bound < fastest.slowest_seconds]
        low, high = 0, len(bounds)
        while low < high:
            middle = (low + high) // 2
            chain = self.chain(hosts, bounds[middle])
            if chain is not None and chain.round_seconds(groups) < best.round_seconds(groups):
                best = chain
            if chain is None or chain.total_seconds / groups > bounds[middle]:
                low = middle + 1
            else:
                high = middle
        return best

    def _likely_round(self, hosts: Sequence[int], fastest: Chain) -> Chain:
        """Halve the range between the fastest step over the groups and its slowest stage."""
        groups = self.question.groups
        best = fastest
        low, high = fastest.total_seconds / groups, fastest.slowest_seconds
        for _ in range(_HALVES):
            if high <= low * 1.02:
                break
            middle = (low + high) / 2
            chain = self.chain(hosts, middle)
            if chain is not None and chain.round_seconds(groups) < best.round_seconds(groups):
                best = chain
            if chain is None or chain.total_seconds / groups > middle:
                low = middle
            else:
                high = min(middle, chain.slowest_seconds)
        return best

    def _bounds(self, hosts: Sequence[int]) -> list[float]:
        """Every time that a stage or link of these hosts can take, in order."""
        found: set[float] = set()
        for room in {id(self.rooms[host]): self.rooms[host] for host in hosts}.values():
            for seat in room.seats:
                found.add(seat.lm_head_seconds)
                for count in range(1, max(0, *seat.most_blocks) + 1):
                    found.add(count * seat.block_seconds)
                    found.add(count * seat.block_seconds + seat.lm_head_seconds)
        for a in hosts:
            found |= {self.network.entry[a][1], self.network.back[a][1]}
            found |= {self.network.between(a, b)[1] for b in hosts if a != b}
        return sorted(found)
