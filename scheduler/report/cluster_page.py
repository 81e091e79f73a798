"""The cluster report as one HTML file: the answer, speed and cost against hosts, every number."""

from __future__ import annotations

from typing import Any

from scheduler.report.chart import Canvas, Chart, Spec, spec_of
from scheduler.report.cluster_report import ClusterReport, ClusterSize
from scheduler.report.cluster_words import (
    COLUMNS,
    NOTE,
    lead_of_cluster,
    row_of,
    title_of_cluster,
)
from scheduler.report.html import render_page
from scheduler.report.words import precision_text

_WIDE, _HEIGHT = 460, 250


def cluster_html(report: ClusterReport) -> str:
    """Make the page; every text is escaped. Raises UserInputError where the extra is missing."""
    return render_page(
        "cluster.html.j2",
        report=report,
        title=title_of_cluster(report),
        lead=lead_of_cluster(report),
        charts=cluster_charts(report),
        columns=COLUMNS,
        rows=[row_of(size) for size in report.sizes],
        note=NOTE,
    )


def cluster_charts(report: ClusterReport) -> list[Chart]:
    """Speed of a slot and of all together against hosts, and cost, where every host has a price."""
    measures = [
        ("cluster-slot", "Speed of one slot", "tok/s", "tokens_per_second_per_slot"),
        ("cluster-all", "Speed of all slots together", "tok/s", "together_tokens_per_second"),
    ]
    if all(size.price_usd is not None for size in report.sizes):
        measures.append(("cluster-price", "Cost", "US dollars", "price_usd"))
    return [_chart(report, *measure) for measure in measures]


def _chart(report: ClusterReport, slug: str, title: str, unit: str, field: str) -> Chart:
    drawn = [size for size in report.sizes if getattr(size, field) is not None]
    sure = (
        "given"
        if field == "price_usd"
        else " or ".join(sorted({s.provenance or "" for s in drawn}))
    )
    values: list[dict[str, Any]] = [
        {
            "x": size.hosts,
            "y": getattr(size, field),
            "series": _label(size),
            "text": f"{_label(size)}, {size.hosts} hosts: {getattr(size, field):.3g} {unit}",
        }
        for size in drawn
    ]
    ends = f" {values[0]['text']}; {values[-1]['text']}." if values else " Nothing fits."
    return Chart(
        slug=slug,
        title=title,
        headline=f"{report.model}: {title[:1].lower()}{title[1:]}",
        subtitle=f"{unit} against hosts ({sure})",
        alt=f"{title}, {unit} against the number of hosts.{ends}",
        wide=_WIDE,
        draw=lambda canvas: _draw(canvas, values),
        columns=("setting", "hosts", unit),
        rows=[(v["series"], str(v["x"]), f"{v['y']:.3g}") for v in values],
    )


def _label(size: ClusterSize) -> str:
    precision = precision_text(size.gpu_precision, size.cpu_precision)
    return f"{precision}, {size.context_tokens:,} tokens, {size.slots} at once"


def _draw(canvas: Canvas, values: list[dict[str, Any]]) -> Spec:
    domain = list(dict.fromkeys(value["series"] for value in values))
    series = canvas.palette.series
    colour = {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": domain, "range": [series[n % len(series)] for n in range(len(domain))]},
        "legend": {"symbolType": "stroke", "columns": 1} if len(domain) > 1 else None,
    }
    quantity = {"type": "quantitative", "title": None, "scale": {"zero": True}}
    return spec_of(
        canvas,
        {
            "width": canvas.width,
            "height": _HEIGHT,
            "data": {"values": values},
            "encoding": {
                "x": {**quantity, "field": "x", "title": "hosts", "axis": {"tickMinStep": 1}},
                "y": {**quantity, "field": "y", "axis": {"tickCount": 5}},
                "color": colour,
            },
            "layer": [
                {"mark": {"type": "line", "aria": False}},
                {
                    "mark": {"type": "circle", "size": 36},
                    "encoding": {"description": {"field": "text"}},
                },
            ],
        },
    )
