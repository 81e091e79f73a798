"""The cluster report: how many hosts, and the same numbers in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import pytest

from scheduler.cluster import Cluster, Host, Link
from scheduler.cluster_planner import make_cluster_plan
from scheduler.profiles import load_model
from scheduler.report.cluster_page import cluster_html
from scheduler.report.cluster_report import (
    ClusterReport,
    ClusterStudy,
    build_cluster_report,
    host_counts,
)
from scheduler.report.cluster_words import (
    cluster_csv,
    cluster_json,
    cluster_markdown,
    lead_of_cluster,
    row_of,
)
from scheduler.request import PlanRequest
from tests.scheduler.clusters import machine

MODEL = load_model("chatglm-6b")
PC = machine("pc", 6 * 1024, 3e10, ((4 * 1024, 2e11),))
HOSTS = tuple(Host(f"pc-{n}", PC, Link(1.0, 3e-4), price_usd=500.0) for n in range(1, 6))
STUDY = ClusterStudy(
    model=MODEL,
    cluster=Cluster(HOSTS, "pc-1"),
    precisions=[("int4", "int4")],
    contexts=[512],
    slots=[1],
    target_tps=20.0,
    command="glm-plan report --cluster lab.toml",
    version="1",
    date="2024-01-01",
)


@pytest.fixture(scope="module")
def report() -> ClusterReport:
    return build_cluster_report(STUDY)


def test_the_answer_is_what_plans_of_so_many_hosts_say(report: ClusterReport) -> None:
    asked = PlanRequest(
        MODEL, gpu_precision="int4", cpu_precision="int4", context=512, policy="fit"
    )
    rates = []
    for number in range(1, 6):
        plan = make_cluster_plan(asked, replace(STUDY.cluster, hosts=HOSTS[:number]))
        rates.append(plan.speed.tokens_per_second_per_slot)
    assert [size.tokens_per_second_per_slot for size in report.sizes] == rates
    assert rates == sorted(rates)
    enough = next(number for number, rate in enumerate(rates, start=1) if rate >= 20)
    assert enough > 1
    (count,) = report.counts
    assert (count.to_hold, count.to_reach_target) == (1, enough)
    assert count.price_to_reach_target_usd == 500 * enough
    assert f"20 tok/s for each slot need {enough}, ${500 * enough:,}" in lead_of_cluster(report)[0]


def test_a_cluster_that_does_not_hold_the_model_or_reach_the_target_says_so() -> None:
    small = replace(STUDY, cluster=Cluster(HOSTS[:2], "pc-1"), precisions=[("fp32", "fp32")])
    report = build_cluster_report(small)
    assert lead_of_cluster(report)[0].endswith("2 hosts do not hold it.")
    assert all(size.missing and size.provenance is None for size in report.sizes)
    fast = build_cluster_report(replace(STUDY, target_tps=1e6))
    assert lead_of_cluster(fast)[0].endswith("5 do not reach 1e+06 tok/s for each slot.")


def test_every_format_holds_the_same_numbers(report: ClusterReport) -> None:
    assert ClusterReport.model_validate(json.loads(cluster_json(report))) == report
    lines = list(csv.DictReader(io.StringIO(cluster_csv(report))))
    assert [float(line["tokens_per_second_per_slot"]) for line in lines] == [
        size.tokens_per_second_per_slot for size in report.sizes
    ]
    markdown = cluster_markdown(report)
    for size in report.sizes:
        assert row_of(size)[5] in markdown
        assert row_of(size)[-1] == "estimated"
    assert "$2,500" in markdown.replace("\\", "")


def test_the_page_loads_nothing_and_escapes_names(report: ClusterReport) -> None:
    pytest.importorskip("vl_convert")
    pytest.importorskip("jinja2")
    page = cluster_html(report.model_copy(update={"driver_host": "<script>alert(1)</script>"}))
    assert "<script>alert" not in page
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    assert page.count("<svg") == 6  # three charts, wide and narrow
    for size in report.sizes:
        assert f"<td>{row_of(size)[5]}</td>" in page


def test_large_clusters_are_counted_in_growing_steps() -> None:
    assert host_counts(5) == [1, 2, 3, 4, 5]
    counts = host_counts(1000)
    assert counts[:16] == list(range(1, 17))
    assert (counts[-1], len(counts) <= 34) == (1000, True)
    assert counts == sorted(set(counts))
