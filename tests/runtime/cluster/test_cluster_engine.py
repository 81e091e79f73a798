"""Real Ray clusters of several nodes on this machine: answers are those of one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from runtime.bundle import Bundle, open_bundle
from runtime.cluster.cluster_pipeline import ClusterPipeline
from runtime.cluster.placed import PlacedStage
from runtime.cluster.ray_door import join, nodes
from runtime.cluster.start import ClusterStart, StayWhereTheyAre
from runtime.engine import Engine, Generation
from runtime.sampling import Sampling
from tests.support.cluster_splits import split
from tests.support.engines import start_engine
from tests.support.ray_cluster import LocalCluster
from tests.support.tiny import TINY_BUNDLE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]
CONTEXT = 256
WILD = Sampling(temperature=3.0, top_k=40, seed=2)
ANSWER_TOKENS = 24


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    local = LocalCluster(tmp_path_factory.mktemp("nodes"), cpus=(1, 1, 1, 1))
    try:
        join(local.address)
        yield local
    finally:
        local.close()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(TINY_BUNDLE)


def prompts(bundle: Bundle, count: int) -> list[list[int]]:
    tokens = bundle.manifest.tokens
    assert tokens is not None
    return [[20 + n, 31 * n + 5, 42, tokens.gmask, tokens.bos] for n in range(count)]


def cluster_engine(placed: list[PlacedStage], bundle: Bundle, slots: int, **how: Any) -> Engine:
    there = tuple(placed)
    start = ClusterStart("auto", there, bundle, StayWhereTheyAre(there), **how)
    return Engine(
        bundle, start.launches, CONTEXT, slots=slots, cores=len(placed), start_pipeline=start
    )


def answers(engine: Engine, asked: Sequence[list[int]], sampling: Sampling) -> list[list[int]]:
    """All at once."""
    streams = [engine.submit(one, sampling, ANSWER_TOKENS, ignore_end=True) for one in asked]
    return [list(stream) for stream in streams]


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> list[list[list[int]]]:
    """What one process answers, greedy and sampled."""
    with start_engine(bundle, slots=4, context=CONTEXT) as engine:
        return [answers(engine, prompts(bundle, 6), one) for one in (Sampling(), WILD)]


@pytest.mark.parametrize("counts", [(5, 3), (2, 3, 3), (2, 2, 2, 2)], ids=str)
def test_answers_are_those_of_one_process_over_any_number_of_nodes(
    cluster: LocalCluster,
    bundle: Bundle,
    expected: list[list[list[int]]],
    counts: tuple[int, ...],
    record_property: Any,
) -> None:
    placed = split(bundle, nodes(), counts)
    with cluster_engine(placed, bundle, 4, shared=False) as engine:
        asked = prompts(bundle, 6)
        assert [answers(engine, asked, one) for one in (Sampling(), WILD)] == expected
        pipeline = engine.pipeline
        assert isinstance(pipeline, ClusterPipeline)
        stages = pipeline.statuses()
        assert [one["host"] for one in stages] == ["a", "b", "c", "d"][: len(counts)]
        assert len({one["pid"] for one in stages}) == len(counts)
        assert all(size > 0 for size in pipeline.resident_bytes())
        generation = Generation()
        list(engine.generate(asked[0], Sampling(), ANSWER_TOKENS, generation))
        hops = sorted(step.hop_seconds for step in generation.decode)
        record_property(
            "figure",
            f"{len(counts)} stages on {len(counts)} nodes: {1e3 * hops[len(hops) // 2]:.2f} ms of a"
            f" step in {len(counts) + 1} hops (median, measured)",
        )


def test_each_node_fetches_its_own_blocks_and_only_once(
    cluster: LocalCluster, bundle: Bundle
) -> None:
    """Whatever ran before this test has brought them; nothing is fetched again."""
    placed = split(bundle, nodes(), (5, 3))
    with cluster_engine(placed, bundle, 1, shared=False) as engine:
        assert isinstance(engine.pipeline, ClusterPipeline)
    with cluster_engine(placed, bundle, 1, shared=False) as engine:
        assert [one["fetched_bytes"] for one in engine.pipeline.statuses()] == [0, 0]
    blocks = {
        name: {path.name for path in cluster.data_dir(name).rglob("block_*.mnn")} for name in "ab"
    }
    assert {f"block_{n:02}.mnn" for n in range(5, 8)} <= blocks["b"]
    assert "block_00.mnn" not in blocks["b"]


@pytest.mark.parametrize(("head", "wire"), [(0, "fp32"), (1, "fp16")])
def test_lm_head_may_be_on_the_first_node_and_the_wire_narrow(
    cluster: LocalCluster,
    bundle: Bundle,
    expected: list[list[list[int]]],
    head: int,
    wire: str,
) -> None:
    """At fp16 the sampled answers may differ; the tiny model's greedy ones do not."""
    placed = split(bundle, nodes(), (5, 3), head=head)
    with cluster_engine(placed, bundle, 4, wire=wire) as engine:
        greedy = answers(engine, prompts(bundle, 6), Sampling())
        received = [one["received_bytes"] for one in engine.pipeline.statuses()]
    assert greedy == expected[0]
    assert all(received)
