"""What a node has now: processor, RAM, GPUs, backends that work, and its links to other nodes."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from runtime.cluster.stage_host import Address, release
from runtime.cluster.wire import WireListener, connect
from scheduler.cost import Speeds
from scheduler.estimates import estimated_speeds
from scheduler.hardware import Host
from scheduler.planning import this_machine_planning

_LARGE_BYTES = 4 << 20
_MOST_BYTES = _LARGE_BYTES + 1
_ROUND_TRIPS = 50
_LARGE_SECONDS = 0.3  # of the bandwidth's measurement, after which no other piece is sent
_ACCEPT_SECONDS = 30.0
_END, _ECHO = b"e", b"p"


@dataclass(frozen=True)
class NodeFacts:
    """One node as it describes itself; `working` names backends that were proved on it."""

    host: Host
    speeds: Speeds  # as the node was calibrated, or estimated
    working: frozenset[str]
    release: str


@dataclass(frozen=True)
class LinkFacts:
    """One direction of a link, measured over a wire."""

    latency_seconds: float  # half of the median round trip of one byte
    bandwidth_gbps: float  # 10^9 bytes per second of messages of 4 MiB


class NodeProbe:
    """Runs on a node for as long as it takes to describe it and its links."""

    def __init__(self, address: str, secret: bytes) -> None:
        self._address, self._secret = address, secret
        self._listener = WireListener(address, secret)

    def describe(self, kinds: tuple[str, ...]) -> NodeFacts:
        """This node; `kinds` are the backends of ONNX Runtime to prove beside MNN's."""
        host, speeds = this_machine_planning().machine()
        working = frozenset({"mnn:cpu"})
        if host.gpus:
            from runtime.backends.proof import prove_backends

            working = prove_backends(host.gpus).working
        if kinds:
            from runtime.backends.ort_proof import prove_ort

            working |= prove_ort(kinds).working
        return NodeFacts(host, speeds or estimated_speeds(host), working, release())

    def where(self) -> Address:
        """Where `measure` of another node finds this one."""
        return Address(self._address, self._listener.port)

    def echo(self) -> None:
        """Answer one `measure` of another node."""
        _, wire = self._listener.accept(_MOST_BYTES, _ACCEPT_SECONDS)
        try:
            while (data := wire.receive()) != _END:
                wire.send(data[:1])
        finally:
            wire.close()

    def measure(self, other: Address) -> LinkFacts:
        """Time messages to a node that runs `echo`."""
        wire = connect(other.host, other.port, self._secret, "probe", _MOST_BYTES)
        try:
            trips = []
            for _ in range(_ROUND_TRIPS):
                began = time.perf_counter()
                wire.send(_ECHO)
                wire.receive()
                trips.append(time.perf_counter() - began)
            trip = statistics.median(trips)
            large, sent_bytes = bytes(_LARGE_BYTES), 0
            began = time.perf_counter()
            while time.perf_counter() - began < _LARGE_SECONDS:
                wire.send(large)
                wire.receive()
                sent_bytes += _LARGE_BYTES
            seconds = time.perf_counter() - began
            pieces = sent_bytes / _LARGE_BYTES
            # Each piece waited for its answer as well, which is no part of the bandwidth.
            seconds = max(seconds - pieces * trip, seconds / 2)
            wire.send(_END)
            return LinkFacts(trip / 2, sent_bytes / seconds / 1e9)
        finally:
            wire.close()
