"""Charts of curves: blocks, tokens per second and latency against VRAM, context and slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.report.chart import Canvas, Chart, Spec, spec_of
from scheduler.report.document import Axis, Curve, Point, Report
from scheduler.report.words import (
    VERDICT_WORDS,
    point_text,
    precision_text,
    rate_text,
    seconds_text,
    short_name,
    slots_text,
)
from scheduler.units import GIB

_WIDE, _HEIGHT = 460, 250
_MOST_DOTS = 24  # on a line; beyond, they show under the pointer only
_DASHES = ([1, 0], [7, 4], [2, 3], [10, 3, 2, 3], [5, 2], [1, 4])


@dataclass(frozen=True)
class _Measure:
    """What is drawn upwards: its unit, its number, and the number as text."""

    unit: str
    value: Callable[[Point], float | None]
    text: Callable[[Point], str]
    steps: bool = False


_BLOCKS = _Measure("blocks on the GPU", lambda p: p.gpu_blocks, lambda p: str(p.gpu_blocks), True)
_RATE = _Measure(
    "tok/s of all slots", lambda p: p.tokens_per_second, lambda p: rate_text(p.tokens_per_second)
)
_LATENCY = _Measure(
    "ms per token of each slot",
    lambda p: None if p.step_seconds is None else 1e3 * p.step_seconds,
    lambda p: seconds_text(p.step_seconds),
)
_AXIS_TITLES: dict[Axis, str] = {
    "vram": "free VRAM, GiB",
    "context": "context, tokens",
    "slots": "slots: requests at once",
}
_AXIS_WORDS: dict[Axis, str] = {"vram": "free VRAM", "context": "context", "slots": "slots"}


def curve_charts(report: Report, model: str) -> list[Chart]:
    """The charts of one model: those that its curves give something to draw for."""
    curves = [curve for curve in report.curves if curve.setting.model == model]
    vram = [curve for curve in curves if curve.against == "vram"]
    first = [c for c in vram if c.setting.machine == vram[0].setting.machine]
    context = [curve for curve in curves if curve.against == "context"]
    slots = [curve for curve in curves if curve.against == "slots"]
    drawn = (
        (first, "vram-blocks", "Blocks on the GPU against VRAM", _BLOCKS),
        (vram, "vram-speed", "Speed against VRAM", _RATE),
        (context, "context-speed", "Speed against context", _RATE),
        (slots, "slots-latency", "Latency against slots", _LATENCY),
    )
    return [
        _chart(report, f"{slug}-{report_index(report, model)}", title, group, measure)
        for group, slug, title, measure in drawn
        if group
    ]


def report_index(report: Report, model: str) -> int:
    """The model's number in the report: safe in anchors and file names, whatever it is called."""
    return [facts.name for facts in report.models].index(model) + 1


def labels_of(curves: Sequence[Curve]) -> list[str]:
    """Tell curves apart by card, by precision, or by both, whichever differ."""
    settings = [curve.setting for curve in curves]
    machines = {setting.machine for setting in settings}
    precisions = {(setting.gpu_precision, setting.cpu_precision) for setting in settings}
    labels = []
    for setting in settings:
        precision = precision_text(setting.gpu_precision, setting.cpu_precision)
        machine = short_name(setting.machine)
        if len(machines) > 1 and len(precisions) > 1:
            labels.append(f"{machine}, {precision}")
        else:
            labels.append(machine if len(machines) > 1 else precision)
    return labels


def _chart(
    report: Report, slug: str, title: str, curves: Sequence[Curve], measure: _Measure
) -> Chart:
    labels = labels_of(curves)
    axis = curves[0].against
    speeds = sorted({curve.speed_provenance for curve in curves})
    provenance = "estimated" if measure.steps else " or ".join(speeds)
    free = {machine.name: machine.gpus[0].free_bytes for machine in report.machines if machine.gpus}
    values: list[dict[str, Any]] = []
    for label, curve in zip(labels, curves, strict=True):
        own = free.get(curve.setting.machine) if axis == "vram" else None
        values += [
            {
                "x": _position(axis, point.x),
                "y": measure.value(point),
                "series": label,
                "own": point.x == own,
                "text": point_text(label, _amount(axis, point.x), point),
            }
            for point in curve.points
        ]
    return Chart(
        slug=slug,
        title=title,
        headline=f"{curves[0].setting.model}: {title[:1].lower()}{title[1:]}",
        subtitle=f"{measure.unit} ({provenance})",
        wide=_WIDE,
        alt=_alt(title, labels, curves, measure),
        draw=lambda canvas: _draw(canvas, values, labels, axis, measure),
        columns=("", _AXIS_WORDS[axis], measure.unit, "verdict"),
        rows=[
            (label, _amount(axis, point.x), measure.text(point), VERDICT_WORDS[point.verdict])
            for label, curve in zip(labels, curves, strict=True)
            for point in curve.points
        ],
    )


def _draw(
    canvas: Canvas,
    values: list[dict[str, Any]],
    labels: list[str],
    axis: Axis,
    measure: _Measure,
) -> Spec:
    palette = canvas.palette
    domain = list(dict.fromkeys(labels))
    colours = [palette.series[n % len(palette.series)] for n in range(len(domain))]
    dashes = [_DASHES[n % len(_DASHES)] for n in range(len(domain))]
    legend = None
    if len(domain) > 1:
        legend = {"symbolType": "stroke", "columns": 1 if canvas.narrow else 2}
    colour = {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": domain, "range": colours},
        "legend": legend,
    }
    dash = {**colour, "scale": {"domain": domain, "range": dashes}}
    y = {
        "field": "y",
        "type": "quantitative",
        "title": None,
        "scale": {"zero": True, "nice": True},
        "axis": {"tickCount": 5},
    }
    crowded = len(values) > _MOST_DOTS * len(domain)
    line = {
        "type": "line",
        "interpolate": "step-after" if measure.steps else "linear",
        "aria": False,
    }
    return spec_of(
        canvas,
        {
            "width": canvas.width,
            "height": _HEIGHT,
            "data": {"values": values},
            "encoding": {"x": _x(canvas, axis, values), "y": y, "color": colour},
            "layer": [
                {"mark": line, "encoding": {"strokeDash": dash}},
                {
                    "transform": [{"filter": "datum.own && datum.y !== null"}],
                    "mark": {
                        "type": "point",
                        "size": 130,
                        "filled": False,
                        "strokeWidth": 2.5,
                        "fill": palette.paper or "var(--card)",
                        "opacity": 1,
                        "aria": False,
                    },
                },
                {
                    "transform": [{"filter": "datum.y !== null"}],
                    "mark": {"type": "circle", "size": 36, "opacity": 0 if crowded else 1},
                    "encoding": {"description": {"field": "text"}},
                },
            ],
        },
    )


def _x(canvas: Canvas, axis: Axis, values: list[dict[str, Any]]) -> Spec:
    shared = {"field": "x", "type": "quantitative", "title": _AXIS_TITLES[axis]}
    if axis == "vram":
        return {**shared, "scale": {"nice": False}, "axis": {"tickCount": 6}}
    largest = max(value["x"] for value in values)
    smallest = min(value["x"] for value in values)
    powers = [2**n for n in range(31) if smallest <= 2**n <= largest]
    every = -(-len(powers) // (5 if canvas.narrow else 8))
    return {
        **shared,
        "scale": {"type": "log", "base": 2, "nice": False},
        "axis": {"values": powers[::every], "format": "~s" if largest >= 100_000 else ",d"},
    }


def _position(axis: Axis, x: int) -> float:
    return x / GIB if axis == "vram" else x


def _amount(axis: Axis, x: int) -> str:
    if axis == "vram":
        return f"{x / GIB:.2f} GiB"
    if axis == "context":
        return f"{x:,} tokens"
    return slots_text(x)


def _alt(title: str, labels: list[str], curves: Sequence[Curve], measure: _Measure) -> str:
    """Say in words what the lines do: where each begins, and where it ends."""
    axis = curves[0].against
    told = []
    for label, curve in zip(labels, curves, strict=True):
        drawn = [point for point in curve.points if measure.value(point) is not None]
        if not drawn:
            told.append(f"{label}: nothing fits")
            continue
        first, last = drawn[0], drawn[-1]
        told.append(
            f"{label}: {measure.text(first)} at {_amount(axis, first.x)},"
            f" {measure.text(last)} at {_amount(axis, last.x)}"
        )
    return f"{title}, in {measure.unit}. {'; '.join(told)}."
