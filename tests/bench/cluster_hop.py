"""What a hop costs between processes of two nodes of a Ray cluster on this machine.

    python -m tests.bench.cluster_hop [--calls N]

Beside each other: two chained calls of plain Ray actors that carry the hidden states, and wires
between the same actors. Then steps of the tiny model over two, three and four nodes: all that was
neither a stage nor lm_head, and what the planner says of it for the links as they were measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bundle import open_bundle
from runtime.cluster.discover import Discovery, discover
from runtime.cluster.place import placed_stages
from runtime.cluster.ray_door import join, load_ray, nodes, on_node
from runtime.cluster.start import ClusterStart, StayWhereTheyAre
from runtime.cluster.wire import Wire, WireListener, connect
from runtime.engine import Engine, Generation
from runtime.sampling import Sampling
from tests.support.cluster_plans import cpu_request, plan_of_counts
from tests.support.ray_cluster import LocalCluster
from tests.support.tiny import TINY_BUNDLE

SIZES = {"one row of width 128": 512, "one row of 4,096": 16 << 10, "four rows of 4,096": 64 << 10}
MOST_BYTES = 1 << 20
STEPS = ((5, 3), (3, 3, 2), (2, 2, 2, 2))
CONTEXT = 256


class Relay:
    """An actor that gives back what it gets: by Ray, or over wires to a next one."""

    def __init__(self) -> None:
        self._listener = WireListener("127.0.0.1", b"s" * 32)

    def port(self) -> int:
        return self._listener.port

    def call(self, numbers: np.ndarray) -> np.ndarray:
        return numbers

    def relay(self, after: int | None) -> None:
        """Pass messages on to the relay at a port, or answer where they come from."""
        _, before = self._listener.accept(MOST_BYTES, 60.0)
        onwards = before if after is None else connect_to(after)
        try:
            while True:
                onwards.send(before.receive())
                if after is not None:
                    before.send(onwards.receive())
        except (EOFError, ConnectionResetError):
            before.close()
            onwards.close()


def connect_to(port: int) -> Wire:
    return connect("127.0.0.1", port, b"s" * 32, "bench", MOST_BYTES)


def median_ms(work: Callable[[], object], calls: int) -> float:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def compare(calls: int) -> None:
    ray: Any = load_ray()
    actors = [
        ray.remote(Relay)
        .options(num_cpus=0, max_concurrency=2, scheduling_strategy=on_node(node))
        .remote()
        for node in nodes()[:2]
    ]
    ports = ray.get([actor.port.remote() for actor in actors])
    actors[1].relay.remote(None)
    actors[0].relay.remote(ports[1])
    wire = connect_to(ports[0])
    print("measured, medians; a chain is driver > a > b > driver, two hops and the way back")
    for name, size in SIZES.items():
        numbers = np.zeros(size // 4, np.float32)

        def plain(numbers: np.ndarray = numbers) -> object:
            return ray.get(actors[1].call.remote(actors[0].call.remote(numbers)))

        def wired(data: bytes = numbers.tobytes()) -> bytes:
            wire.send(data)
            return wire.receive()

        wired()
        plain()
        chained, over_wires = median_ms(plain, calls), median_ms(wired, 4 * calls)
        # The relays answer along the way they came: four passages, of which a chain has three.
        print(
            f"{name} ({size:,} B): plain Ray calls {chained:.2f} ms, wires {over_wires * 0.75:.2f}"
            f" ms ({over_wires / 4:.3f} ms a hop)"
        )
    wire.close()


def step(found: Discovery, counts: tuple[int, ...]) -> None:
    bundle = open_bundle(TINY_BUNDLE)
    plan = plan_of_counts(cpu_request(bundle, CONTEXT), found.cluster(), counts)
    placed = tuple(placed_stages(plan, bundle, found))
    start = ClusterStart("auto", placed, bundle, StayWhereTheyAre(placed))
    with Engine(bundle, start.launches, CONTEXT, cores=start.cores, start_pipeline=start) as engine:
        generation = Generation()
        prompt = [100, 200, 300]
        list(engine.submit(prompt, Sampling(), 200, ignore_end=True, generation=generation))
    hops = [1e3 * one.hop_seconds for one in generation.decode]
    print(
        f"{len(counts)} stages: median {statistics.median(hops):.2f} ms in {len(counts) + 1} hops,"
        f" 95 % under {statistics.quantiles(hops, n=20)[-1]:.2f} ms (measured); planner"
        f" {1e3 * plan.replicas[0].speed.hop_seconds:.2f} ms (estimated)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = LocalCluster(Path(folder), cpus=(1, 1, 1, 1))
        try:
            join(cluster.address)
            compare(arguments.calls)
            found = discover(nodes())
            print("a step of the tiny model, all that was neither a stage nor lm_head:")
            for counts in STEPS:
                step(found, counts)
        finally:
            cluster.close()


if __name__ == "__main__":
    main()
