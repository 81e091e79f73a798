"""The hosts of a running Ray cluster and the links between them, described by a probe on each."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.cluster.actors import end_actor
from runtime.cluster.node_probe import LinkFacts, NodeFacts, NodeProbe
from runtime.cluster.ray_door import ClusterNode, answer, load_ray, on_node
from runtime.cluster.wire import SECRET_BYTES

_DESCRIBE_SECONDS = 180.0  # proving the backend of a GPU takes a minute at most
_PROBE_CALLS_AT_ONCE = 2


@dataclass(frozen=True)
class Discovery:
    """Nodes, what each has, and the links between every two of them, by their names."""

    nodes: tuple[ClusterNode, ...]
    facts: Mapping[str, NodeFacts]
    links: Mapping[tuple[str, str], LinkFacts]


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
    return Discovery(tuple(nodes), facts, measured)


def _probe(node: ClusterNode, secret: bytes) -> Any:
    remote = load_ray().remote(NodeProbe)
    options = remote.options(
        num_cpus=0, max_concurrency=_PROBE_CALLS_AT_ONCE, scheduling_strategy=on_node(node)
    )
    return options.remote(node.address, secret)
