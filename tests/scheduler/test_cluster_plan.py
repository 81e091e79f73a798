"""Cluster plans: their document, replicas against every division of the hosts, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from scheduler.cluster import Cluster, Host, Link
from scheduler.cluster_fit import ClusterQuestion, Fitter
from scheduler.cluster_plan import ClusterPlan
from scheduler.cluster_plan_file import read_cluster_plan
from scheduler.cluster_planner import make_cluster_plan
from scheduler.cluster_replicas import best_chains, rate
from scheduler.errors import PlanError
from scheduler.plan_file import plan_json, write_plan
from scheduler.profiles import load_model
from scheduler.request import PlanRequest
from scheduler.units import GIB
from tests.scheduler.clusters import machine, questions, small_model

CHATGLM = load_model("chatglm-6b")
FAST = Link(10.0, 1e-4)


def cluster(*hosts: tuple[int, int], link: Link = FAST) -> Cluster:
    """Hosts with GiB of RAM and of one GPU's memory (0: none), at 30 and 300 GB/s."""
    return Cluster(
        tuple(
            Host(
                f"h{number}",
                machine(f"m{number}", ram * 1024, 3e10, ((vram * 1024, 3e11),) if vram else ()),
                link,
            )
            for number, (ram, vram) in enumerate(hosts)
        ),
        "h0",
    )


def request(**given: object) -> PlanRequest:
    return replace(
        PlanRequest(model=CHATGLM, context=512, policy="fit"),
        **given,  # type: ignore[arg-type]
    )


@settings(max_examples=60, deadline=None)
@given(questions(most_hosts=4, most_blocks=6))
def test_plans_keep_budgets_and_come_back_from_json(question: ClusterQuestion) -> None:
    try:
        plan = make_cluster_plan(question.request, question.cluster, question.wire)
    except PlanError:
        return
    assert ClusterPlan.model_validate_json(plan_json(plan)) == plan
    for budget in plan.hosts:
        assert budget.ram.needed_bytes <= (budget.ram.available_bytes or 0)
    for replica in plan.replicas:
        for stage in replica.stages:
            if stage.device != "cpu":
                assert stage.memory.total_bytes <= (stage.free_bytes or 0)
        steps = sum(stage.step_seconds + stage.hop.step_seconds for stage in replica.stages)
        assert replica.speed.step_seconds == pytest.approx(steps + replica.entry.step_seconds)
        assert 0 <= replica.speed.bubble_share < 1


@settings(max_examples=25, deadline=None)
@given(questions(most_hosts=4, most_blocks=3, objective="throughput"))
def test_no_division_into_replicas_is_better(question: ClusterQuestion) -> None:
    fitter = Fitter(question)
    hosts = list(range(len(question.cluster.hosts)))
    own = {(): 0.0}

    def alone(part: tuple[int, ...]) -> float:
        if part not in own:
            chain = fitter.best(part)
            own[part] = 1 / chain.round_seconds(question.groups) if chain else 0.0
        return own[part]

    def best(left: list[int], parts: list[tuple[int, ...]]) -> float:
        if not left:
            return sum(map(alone, parts))
        first, rest = left[0], left[1:]
        joined = [
            best(rest, [*parts[:n], (*part, first), *parts[n + 1 :]])
            for n, part in enumerate(parts)
        ]
        return max([best(rest, [*parts, (first,)]), *joined])

    chains = best_chains(fitter)
    assert rate(fitter, chains) == pytest.approx(best(hosts, []))
    used = [host for chain in chains for host in chain.hosts]
    assert len(set(used)) == len(used)


def test_a_model_too_large_for_each_host_is_spread() -> None:
    plan = make_cluster_plan(request(), cluster((16, 8), (16, 8), (16, 0)))
    assert {stage.host for stage in plan.replicas[0].stages} >= {"h0", "h1"}
    assert plan.decision["search"] == "exact"
    assert plan.hosts[0].name == plan.driver_host == "h0"
    # 16 KiB of fp32 hidden states for each token of width 4,096
    assert plan.replicas[0].entry.step_bytes == 16384
    halved = make_cluster_plan(request(), cluster((16, 8), (16, 8), (16, 0)), "fp16")
    carried = [
        hop
        for hop in [halved.replicas[0].entry, *(s.hop for s in halved.replicas[0].stages)]
        if hop.network and hop.carries == "hidden"
    ]
    assert carried
    assert {hop.step_bytes for hop in carried} == {8192}
    assert {hop.prompt_bytes for hop in carried} == {512 * 8192}


def test_throughput_uses_copies_where_the_model_fits_more_than_once() -> None:
    four = cluster(*[(8, 20)] * 4)
    asked = request(objective="throughput", slots=4, gpu_precision="int4", cpu_precision="int4")
    plan = make_cluster_plan(asked, four)
    assert len(plan.replicas) == 4
    alone = make_cluster_plan(asked, cluster((8, 20)))
    assert plan.speed.tokens_per_second > 3 * alone.speed.tokens_per_second


def test_fast_hosts_behind_a_slow_network_stay_idle() -> None:
    slow = cluster((40, 0), (40, 23), link=Link(0.001, 0.5))
    plan = make_cluster_plan(request(), slow)
    assert {stage.host for stage in plan.replicas[0].stages} == {"h0"}
    assert any("h1" in note and "idle" in note for note in plan.notes)
    quick = make_cluster_plan(request(), cluster((40, 0), (40, 23)))
    assert {stage.host for stage in quick.replicas[0].stages} == {"h1"}


def test_a_model_that_does_not_fit_is_refused_with_amounts_for_each_host() -> None:
    with pytest.raises(PlanError) as refused:
        make_cluster_plan(request(), cluster((4, 0), (6, 4), (0, 0)).only(frozenset(("h0", "h1"))))
    told = str(refused.value)
    assert told.startswith("chatglm-6b does not fit 2 hosts with 512 tokens and 1 slot at fp16")
    assert "of 28 blocks and lm_head find no place" in told
    assert "h0 has RAM 3." in told
    assert "h1 has gpu0 4.00 GiB and RAM 5." in told
    assert "more RAM it would take the rest" in told
    assert "--precision int4" in told


def test_a_driver_without_memory_is_told_so() -> None:
    with pytest.raises(PlanError, match="driver's process on h0 needs"):
        make_cluster_plan(request(), cluster((0, 0), (40, 24)))


def test_open_precisions_are_settled_as_on_one_machine() -> None:
    open_both = frozenset(("gpu_precision", "cpu_precision"))
    plan = make_cluster_plan(request(open_choices=open_both), cluster((8, 8), (8, 8)))
    assert plan.decision["gpu_precision"] == "fp16"
    small = make_cluster_plan(request(open_choices=open_both), cluster((5, 0), (5, 0)))
    assert small.decision["cpu_precision"] == "int8"
    assert small.speed.tokens_per_second >= 3
    with pytest.raises(PlanError):
        make_cluster_plan(request(cpu_precision="fp32"), cluster((5, 0), (5, 0)))


def test_files_come_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    plan = make_cluster_plan(request(), cluster((16, 8), (16, 8)))
    file = tmp_path / "plan.json"
    write_plan(plan, file)
    assert read_cluster_plan(file) == plan
    file.write_text(plan_json(plan).replace("cluster-plan/1", "cluster-plan/0"))
    with pytest.raises(PlanError, match="expected 'glm-plan/cluster-plan/1'"):
        read_cluster_plan(file)
    text = plan_json(plan).replace('"to_host": "h1"', '"to_host": "h7"')
    file.write_text(text)
    with pytest.raises(PlanError, match="do not lead from stage to stage"):
        read_cluster_plan(file)


def test_documents_that_contradict_themselves_are_refused() -> None:
    asked = request(objective="throughput", slots=4, gpu_precision="int4", cpu_precision="int4")
    document = make_cluster_plan(asked, cluster(*[(8, 20)] * 2)).model_dump(
        mode="json", by_alias=True
    )
    with pytest.raises(ValidationError, match="appears in two replicas"):
        ClusterPlan.model_validate({**document, "replicas": document["replicas"][:1] * 2})
    with pytest.raises(ValidationError, match="hosts must list"):
        ClusterPlan.model_validate({**document, "hosts": document["hosts"][:1]})
    with pytest.raises(ValidationError, match="blocks of 29"):
        ClusterPlan.model_validate({**document, "blocks": 29})


def test_a_thousand_hosts_are_planned() -> None:
    many = Cluster(cluster(*[(8, 4), (16, 8)]).hosts[:1], "h0")
    kinds = [machine(f"m{n}", 8192, 3e10 + n, ((4096 + 512 * n, 2e11),)) for n in range(5)]
    hosts = tuple(Host(f"h{n}", kinds[n % 5], FAST) for n in range(1000))
    asked = request(model=replace(small_model(400), hidden_size=4096, ffn_size=16384))
    plan = make_cluster_plan(asked, replace(many, hosts=hosts))
    assert plan.decision["search"] == "heuristic"
    assert plan.replicas[0].blocks == 400
    assert max(stage.memory.total_bytes for stage in plan.replicas[0].stages) < 8 * GIB
