"""Nodes and processes of a real Ray cluster are killed under many answers: all end right."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import psutil
import pytest

from runtime.bundle import Bundle, open_bundle
from runtime.cluster.cluster_pipeline import ClusterPipeline
from runtime.cluster.ray_door import join, nodes
from runtime.cluster.start import ClusterStart
from runtime.engine import Engine
from runtime.sampling import Sampling
from runtime.stream import Stream
from runtime.supervision import Supervision
from tests.support.cluster_splits import EvenSplit
from tests.support.engines import start_engine
from tests.support.ray_cluster import LocalCluster
from tests.support.tiny import TINY_BUNDLE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
CONTEXT, TOKENS, REQUESTS, SLOTS = 256, 100, 20, 4
WILD = Sampling(temperature=3.0, top_k=40, seed=2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    local = LocalCluster(tmp_path_factory.mktemp("nodes"), cpus=(1, 1, 1))
    try:
        join(local.address)
        yield local
    finally:
        local.close()


def ask(engine: Engine, bundle: Bundle) -> list[Stream]:
    """Twenty requests, every other one sampled."""
    tokens = bundle.manifest.tokens
    assert tokens is not None
    return [
        engine.submit(
            [20 + n, 31 * n + 5, 42, tokens.gmask, tokens.bos],
            WILD if n % 2 else Sampling(),
            TOKENS,
            ignore_end=True,
        )
        for n in range(REQUESTS)
    ]


def pauses_of(stream: Stream) -> list[float]:
    """The two longest waits for a token, in seconds, in their order."""
    seconds = stream.generation.token_seconds
    waits = [after - before for before, after in pairwise(seconds)]
    longest = sorted(range(len(waits)), key=lambda at: waits[at])[-2:]
    return [waits[at] for at in sorted(longest)]


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """What one process answers."""
    bundle = open_bundle(TINY_BUNDLE)
    with start_engine(bundle, slots=SLOTS, context=CONTEXT) as engine:
        return [list(stream) for stream in ask(engine, bundle)]


def test_a_stage_that_hangs_is_ended_and_changes_no_answer(
    cluster: LocalCluster, expected: list[list[int]]
) -> None:
    bundle = open_bundle(TINY_BUNDLE)
    replan = EvenSplit(bundle)
    placed = tuple(replan(nodes()).stages)
    patience = Supervision(stall_seconds=4.0, token_seconds=0.0)
    start = ClusterStart("auto", placed, bundle, replan, supervision=patience)
    with Engine(
        bundle, start.launches, CONTEXT, slots=SLOTS, cores=2, start_pipeline=start
    ) as engine:
        pipeline = engine.pipeline
        assert isinstance(pipeline, ClusterPipeline)
        until(lambda: len(pipeline.statuses()) == 2, "the stages do not answer")
        hung, other = pipeline.statuses()[1]["pid"], pipeline.statuses()[0]["pid"]
        streams = ask(engine, bundle)
        given = [next(streams[0]) for _ in range(5)]
        os.kill(hung, signal.SIGSTOP)
        answers = [given + list(streams[0]), *(list(stream) for stream in streams[1:])]
        assert answers == expected
        assert pipeline.losses == 1
        assert "c/cpu (mnn:cpu, blocks 4-7) is lost: it made no progress" in str(pipeline.last_loss)
        assert not psutil.pid_exists(hung)
        now = [one["pid"] for one in pipeline.statuses()]
        assert now[0] == other  # what does not hang stays loaded
        assert now[1] != hung


def test_a_killed_process_and_a_killed_node_change_no_answer(
    cluster: LocalCluster, expected: list[list[int]], record_property: Callable[[str, object], None]
) -> None:
    """Then the node returns, and is used again when nothing runs."""
    bundle = open_bundle(TINY_BUNDLE)
    replan = EvenSplit(bundle)
    placed = tuple(replan(nodes()).stages)
    start = ClusterStart("auto", placed, bundle, replan, shared=False)
    with Engine(
        bundle, start.launches, CONTEXT, slots=SLOTS, cores=2, start_pipeline=start
    ) as engine:
        pipeline = engine.pipeline
        assert isinstance(pipeline, ClusterPipeline)
        streams = ask(engine, bundle)
        given = [next(streams[0]) for _ in range(5)]
        victim = pipeline.statuses()[1]["pid"]
        os.kill(victim, signal.SIGKILL)
        given += [next(streams[0]) for _ in range(20)]
        assert pipeline.losses == 1
        assert "the stage of c/cpu (mnn:cpu, blocks 4-7) is lost" in str(pipeline.last_loss)
        assert victim not in [one["pid"] for one in pipeline.statuses()]
        assert not pipeline.degraded
        cluster.kill("c")
        answers = [given + list(streams[0]), *(list(stream) for stream in streams[1:])]
        assert answers == expected
        pauses = pauses_of(streams[0])
        record_property(
            "figure",
            f"of 20 answers on a cluster, the first paused {pauses[0]:.1f} s for a killed stage,"
            f" {pauses[1]:.1f} s for a killed node (measured)",
        )
        assert pipeline.losses == 2
        assert [one.launch.device for one in pipeline.placed] == ["b/cpu"]
        assert pipeline.degraded == ["c is lost; b compute its blocks"]
        cluster.add("c")
        until(lambda: not pipeline.degraded, "the node that returned is not used")
        assert [one.launch.device for one in pipeline.placed] == ["b/cpu", "c/cpu"]
        assert [list(stream) for stream in ask(engine, bundle)] == expected
