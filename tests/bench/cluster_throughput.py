"""Requests that follow each other through two stages on two nodes, against one stage on one.

    python -m tests.bench.cluster_throughput [--bundle DIR] [--requests 8] [--tokens 64]

Each stage has one thread, so two stages have twice the cores of one. The bubble share is the part
of the stages' time in which they wait: 1 - busy / (stages x wall time).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from runtime.bundle import Bundle, open_bundle
from runtime.cluster.ray_door import join, nodes
from runtime.cluster.start import ClusterStart, StayWhereTheyAre
from runtime.engine import Engine, Generation
from runtime.sampling import Sampling
from tests.support.cluster_splits import split
from tests.support.ray_cluster import LocalCluster
from tests.support.tiny import TINY_BUNDLE

CONTEXT = 512


def measure(
    bundle: Bundle, counts: tuple[int, ...], requests: int, tokens: int, precision: str
) -> tuple[float, float]:
    """Tokens per second of all requests together, and the bubble share."""
    placed = tuple(split(bundle, nodes(), counts, precision=precision))
    start = ClusterStart("auto", placed, bundle, StayWhereTheyAre(placed))
    engine = Engine(
        bundle, start.launches, CONTEXT, slots=requests, cores=len(counts), start_pipeline=start
    )
    with engine:
        best, share = 0.0, 1.0
        for _ in range(3):
            generations = [Generation() for _ in range(requests)]
            began = time.perf_counter()
            streams = [
                engine.submit(
                    [20 + n, 31, 42, 53], Sampling(), tokens, ignore_end=True, generation=generation
                )
                for n, generation in enumerate(generations)
            ]
            for stream in streams:
                list(stream)
            wall = time.perf_counter() - began
            # Rows of a group share their steps: each step counts once.
            steps = {id(step): step for one in generations for step in one.decode}
            busy = sum(sum(one.stage_seconds) + one.lm_head_seconds for one in steps.values())
            if requests * tokens / wall > best:
                best, share = requests * tokens / wall, 1 - busy / (len(counts) * wall)
    return best, share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=TINY_BUNDLE)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    blocks = bundle.manifest.geometry.blocks
    with tempfile.TemporaryDirectory() as folder:
        cluster = LocalCluster(Path(folder))
        try:
            join(cluster.address)
            results = []
            for counts in ((blocks,), (blocks - blocks // 2, blocks // 2)):
                rate, share = measure(
                    bundle, counts, arguments.requests, arguments.tokens, arguments.precision
                )
                results.append(rate)
                print(
                    f"{len(counts)} stages, {arguments.requests} requests: {rate:.1f} tokens/s,"
                    f" bubble share {100 * share:.0f} % (measured, best of 3)"
                )
            print(f"two stages over one: {results[1] / results[0]:.2f} times")
        finally:
            cluster.close()


if __name__ == "__main__":
    main()
