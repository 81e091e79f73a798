"""`fit` over clusters against a search through every placement, and what must hold for any."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler.cluster import Cluster, Link
from scheduler.cluster_fit import HOST_AGENT_BYTES, ClusterQuestion, Fitter
from scheduler.cost import block_decode_seconds, device_kind, lm_head_seconds
from scheduler.memory import DRIVER_BYTES, gpu_host_bytes, hop_bytes, stage_memory
from scheduler.slots import decode_groups
from tests.scheduler.clusters import Placed, every_placement, links, questions


def holds(question: ClusterQuestion, stages: list[Placed]) -> bool:
    """Whether every budget holds, from the planner's own items and nothing of the search."""
    request, spec = question.request, question.request.model
    context, slots = request.context_tokens, request.slots
    ram: dict[int, int] = {}
    count: dict[int, int] = {}
    for number, device, blocks, head in stages:
        host = question.cluster.hosts[number].machine.host
        kind = device_kind(device)
        precision = request.cpu_precision if kind == "cpu" else request.gpu_precision
        parts = (blocks, precision, precision if head else None, context, slots)
        needed = stage_memory(spec, kind, *parts, host.cpu.usable_cores).total_bytes
        count[number] = count.get(number, 0) + 1
        ram[number] = ram.get(number, 0)
        if kind == "cpu":
            ram[number] += needed
            continue
        gpu = next(gpu for gpu in host.gpus if gpu.name == device)
        ram[number] += gpu_host_bytes(spec, *parts)
        if host.planned[device].shares_ram:
            ram[number] += needed
        if needed > (gpu.free_bytes or 0):
            return False
    for number, for_stages in ram.items():
        own = question.cluster.hosts[number]
        beside = HOST_AGENT_BYTES + hop_bytes(spec, count[number], context, slots)
        beside += DRIVER_BYTES if own.name == question.cluster.driver else 0
        if for_stages + beside > own.machine.host.cpu.available_bytes:
            return False
    return True


def seconds(question: ClusterQuestion, stages: list[Placed]) -> tuple[float, float]:
    """A step's time, and its slowest stage or link, from the definition in the documentation."""
    request, spec, cluster = question.request, question.request.model, question.cluster
    groups = decode_groups(request.slots)
    hidden = request.slots * spec.hidden_size * 4
    on_wire = hidden // 2 if question.wire == "fp16" else hidden
    logits = request.slots * spec.vocab_size * 4
    total, slowest = 0.0, 0.0
    before = cluster.host(cluster.driver)
    driver = before
    for number, device, blocks, head in stages:
        host = cluster.hosts[number]
        if host is before:
            total += groups * 2e-4 + hidden / 5e9
        else:
            link = cluster.link(before, host)
            busy = on_wire * 8 / (1e9 * link.gbit_per_second)
            total += groups * link.latency_seconds + busy
            slowest = max(slowest, busy)
        kind, speed = device_kind(device), host.machine.speeds.devices[device]
        precision = request.cpu_precision if kind == "cpu" else request.gpu_precision
        own = blocks * block_decode_seconds(
            spec, speed, kind, precision, request.context_tokens, request.slots
        )
        own += lm_head_seconds(spec, speed, kind, precision, request.slots) if head else 0.0
        total, slowest = total + own, max(slowest, own)
        before = host
    if before is not driver:
        link = cluster.link(before, driver)
        busy = logits * 8 / (1e9 * link.gbit_per_second)
        total += groups * link.latency_seconds + busy
        slowest = max(slowest, busy)
    return total, slowest


def value(question: ClusterQuestion, stages: list[Placed]) -> float:
    total, slowest = seconds(question, stages)
    if question.request.objective == "latency":
        return total
    return max(slowest, total / decode_groups(question.request.slots))


def answer(question: ClusterQuestion, exact: bool | None = None) -> list[Placed] | None:
    fitter = Fitter(question, exact)
    hosts = question.cluster.hosts
    chain = fitter.best(range(len(hosts)))
    if chain is None:
        return None
    stages = []
    for number, option in zip(chain.hosts, chain.options, strict=True):
        names = [gpu.name for gpu in hosts[number].machine.host.gpus] + ["cpu"]
        for seat, blocks in option.runs:
            stages.append((number, names[seat], blocks, seat == option.lm_head))
    total, slowest = seconds(question, stages)
    assert chain.total_seconds == pytest.approx(total)
    assert chain.slowest_seconds == pytest.approx(slowest)
    return stages


@settings(max_examples=150, deadline=None)
@given(questions())
def test_no_placement_is_better(question: ClusterQuestion) -> None:
    best = min(
        (
            value(question, stages)
            for stages in every_placement(question)
            if holds(question, stages)
        ),
        default=None,
    )
    found = answer(question)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert holds(question, found)
    assert value(question, found) == pytest.approx(best)


@settings(max_examples=100, deadline=None)
@given(questions(most_hosts=6, most_blocks=12), st.booleans())
def test_no_budget_is_exceeded_and_every_block_is_placed(
    question: ClusterQuestion, exact: bool
) -> None:
    found = answer(question, exact)
    assume(found is not None)
    assert found is not None
    assert holds(question, found)
    assert sum(stage[2] for stage in found) == question.request.model.blocks
    assert [stage[3] for stage in found] == [False] * (len(found) - 1) + [True]
    assert len({stage[:2] for stage in found}) == len(found)


@settings(max_examples=60, deadline=None)
@given(questions(most_hosts=5, most_blocks=8))
def test_more_hosts_are_never_slower(question: ClusterQuestion) -> None:
    cluster = question.cluster
    assume(cluster.hosts[-1].name != cluster.driver)
    fewer = replace(question, cluster=replace(cluster, hosts=cluster.hosts[:-1]))
    before = answer(fewer)
    if before is not None:
        after = answer(question)
        assert after is not None
        assert value(question, after) <= value(fewer, before) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(questions(most_hosts=4, most_blocks=8), st.integers(0, 3), st.sampled_from([1.0, 2.0, 50.0]))
def test_more_bandwidth_is_never_slower(
    question: ClusterQuestion, which: int, factor: float
) -> None:
    cluster = question.cluster
    before = answer(question)
    assume(before is not None)
    assert before is not None
    hosts = tuple(
        replace(host, link=faster(host.link, factor)) if number == which else host
        for number, host in enumerate(cluster.hosts)
    )
    pairs = {pair: faster(link, factor) for pair, link in cluster.pairs.items()}
    better = replace(question, cluster=Cluster(hosts, cluster.driver, pairs))
    after = answer(better)
    assert after is not None
    assert value(better, after) <= value(question, before) * (1 + 1e-9)


def faster(link: Link, factor: float) -> Link:
    return replace(link, gbit_per_second=link.gbit_per_second * factor)


@given(links, links)
def test_links_of_two_hosts_do_not_depend_on_who_asks(one: Link, other: Link) -> None:
    from scheduler.cluster import Host
    from tests.scheduler.clusters import machine

    a, b = Host("a", machine("m", 1, 1e9), one), Host("b", machine("m", 1, 1e9), other)
    cluster = Cluster((a, b), "a")
    assert cluster.link(a, b) == cluster.link(b, a)
