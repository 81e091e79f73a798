"""A cluster report for reading: sentences, a table as rows, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json

from scheduler.report.cluster_report import ClusterReport, ClusterSize, HostCount
from scheduler.report.markdown import escape, table
from scheduler.report.words import precision_text

COLUMNS = (
    "precision",
    "context",
    "slots",
    "hosts",
    "used",
    "tok/s a slot",
    "first token",
    "tok/s together",
    "replicas",
    "price",
    "how sure",
)


def title_of_cluster(report: ClusterReport) -> str:
    """The question that the report answers."""
    return f"How many hosts for {report.model}?"


def lead_of_cluster(report: ClusterReport) -> list[str]:
    """One sentence for each setting: how many hosts hold it, how many reach the target."""
    return [_answer(report, count) for count in report.counts]


def row_of(size: ClusterSize) -> tuple[str, ...]:
    """One size of the cluster as texts, in the order of `COLUMNS`."""
    return (
        precision_text(size.gpu_precision, size.cpu_precision),
        f"{size.context_tokens:,}",
        str(size.slots),
        str(size.hosts),
        _whole(size.hosts_used),
        _figure(size.tokens_per_second_per_slot),
        f"{_figure(size.time_to_first_token_seconds)} s"
        if size.time_to_first_token_seconds is not None
        else "-",
        _figure(size.together_tokens_per_second),
        _whole(size.replicas),
        _price(size.price_usd),
        size.provenance or "does not fit",
    )


def cluster_markdown(report: ClusterReport) -> str:
    """The report as Markdown; every name is escaped."""
    parts = [
        f"# {escape(title_of_cluster(report))}",
        "\n".join(f"- {escape(sentence)}" for sentence in lead_of_cluster(report)),
        f"Made by glm-plan {escape(report.version)} on {escape(report.date)}. Memory is estimated;"
        " speed is labelled.",
        table(COLUMNS, map(row_of, report.sizes)),
        escape(NOTE),
        f"```\n{report.command.replace('```', '')}\n```",
    ]
    return "\n\n".join(parts) + "\n"


NOTE = (
    "Hosts are taken in the file's order, the driver's first. tok/s a slot and the first token are"
    " of the plan for latency, tok/s together and replicas of the plan for throughput."
)


def cluster_csv(report: ClusterReport) -> str:
    """One line for each size; bytes and seconds plain, empty where nothing runs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = list(ClusterSize.model_fields)
    writer.writerow(columns)
    for size in report.sizes:
        values = [getattr(size, name) for name in columns]
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def cluster_json(report: ClusterReport) -> str:
    """The whole report."""
    return json.dumps(report.model_dump(mode="json", by_alias=True), indent=2)


def _answer(report: ClusterReport, count: HostCount) -> str:
    setting = (
        f"{report.model} at {precision_text(count.gpu_precision, count.cpu_precision)},"
        f" {count.context_tokens:,} tokens, {count.slots} slot{'s' * (count.slots > 1)}"
    )
    if count.to_hold is None:
        return f"{setting}: {report.hosts} hosts do not hold it."
    told = f"{setting}: {_hosts(count.to_hold)} hold{'s' * (count.to_hold == 1)} it (estimated)"
    target = report.target_tokens_per_second
    if target is None:
        return f"{told}."
    if count.to_reach_target is None:
        return f"{told}; {report.hosts} do not reach {target:g} tok/s for each slot."
    price = count.price_to_reach_target_usd
    cost = "" if price is None else f", {_price(price)}"
    return f"{told}; {target:g} tok/s for each slot need {count.to_reach_target}{cost}."


def _hosts(count: int) -> str:
    return f"{count} host{'s' * (count != 1)}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _whole(value: int | None) -> str:
    return "-" if value is None else str(value)


def _price(value: float | None) -> str:
    return "-" if value is None else f"${value:,.0f}"
