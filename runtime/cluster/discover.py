"""The hosts of a running Ray cluster and the links between them, described by a probe on each."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.cluster.actors import end_actor
from runtime.cluster.node_probe import LinkFacts, NodeFacts, NodeProbe
from runtime.cluster.ray_door import ClusterNode, answer, load_ray, on_node
from runtime.cluster.wire import SECRET_BYTES
from scheduler.cluster import Cluster, Host, Link
from scheduler.machine import Machine, name_of

_DESCRIBE_SECONDS = 180.0  # proving the backend of a GPU takes a minute at most
_PROBE_CALLS_AT_ONCE = 2
BITS_PER_BYTE = 8


@dataclass(frozen=True)
class Discovery:
    """Nodes, what each has, and the links between every two of them, by their names."""

    nodes: tuple[ClusterNode, ...]
    facts: Mapping[str, NodeFacts]
    links: Mapping[tuple[str, str], LinkFacts]
    driver: str  # the node of this process

    def cluster(self) -> Cluster:
        """What the planner knows of it: each host as Ray may use it, each link as measured."""
        slowest = {
            node.name: [fact for pair, fact in self.links.items() if node.name in pair]
            for node in self.nodes
        }
        hosts = tuple(
            Host(node.name, _machine(node, self.facts[node.name]), _worst(slowest[node.name]))
            for node in self.nodes
        )
        pairs = {}
        for one, other in self.links:
            both = [self.links[one, other], self.links.get((other, one), self.links[one, other])]
            pairs[min(one, other), max(one, other)] = _worst(both)
        return Cluster(hosts, self.driver, pairs)


def discover(
    nodes: Sequence[ClusterNode], kinds: Sequence[str] = (), *, links: bool = True
) -> Discovery:
    """Describe all nodes at once, then measure links one by one, so that none disturbs another.

    Raises EngineError where a node does not answer.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    probes: dict[str, Any] = {}
    try:
        for node in nodes:
            probes[node.name] = _probe(node, secret)
        asked = {name: probe.describe.remote(tuple(kinds)) for name, probe in probes.items()}
        facts = {
            name: answer(one, f"the probe of {name}", _DESCRIBE_SECONDS)
            for name, one in asked.items()
        }
        measured = {}
        pairs = [(a, b) for a in probes for b in probes if a != b] if links else []
        for source, target in pairs:
            what = f"the link from {source} to {target}"
            where = answer(probes[target].where.remote(), what)
            probes[target].echo.remote()
            measured[source, target] = answer(probes[source].measure.remote(where), what)
    finally:
        for probe in probes.values():
            end_actor(probe)
    here = load_ray().get_runtime_context().get_node_id()
    driver = next((node.name for node in nodes if node.node_id == here), nodes[0].name)
    return Discovery(tuple(nodes), facts, measured, driver)


def _machine(node: ClusterNode, facts: NodeFacts) -> Machine:
    """The node within what Ray may give away of it: cores and memory."""
    cpu = facts.host.cpu
    available = min(cpu.available_bytes, node.memory_bytes or cpu.available_bytes)
    cores = max(1, min(cpu.usable_cores, int(node.cpus)))
    own = replace(facts.host, cpu=replace(cpu, usable_cores=cores, available_bytes=available))
    return Machine(name_of(own), own, facts.speeds)


def _worst(facts: Sequence[LinkFacts]) -> Link:
    """The slowest of some links; what a host has inside where it has none."""
    if not facts:
        return Link(gbit_per_second=100.0, latency_seconds=1e-4, provenance="estimated")
    return Link(
        BITS_PER_BYTE * min(one.bandwidth_gbps for one in facts),
        max(one.latency_seconds for one in facts),
        "measured",
    )


def _probe(node: ClusterNode, secret: bytes) -> Any:
    remote = load_ray().remote(NodeProbe)
    options = remote.options(
        num_cpus=0, max_concurrency=_PROBE_CALLS_AT_ONCE, scheduling_strategy=on_node(node)
    )
    return options.remote(node.address, secret)
