"""Chart: a drawing as a Vega-Lite specification, with its words and the table of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.report.palette import Palette

Spec = dict[str, Any]


@dataclass(frozen=True)
class Canvas:
    """Where a chart is drawn: colours, width in pixels, and whether that is a phone's."""

    palette: Palette
    width: int

    @property
    def narrow(self) -> bool:
        """Less room than labels beside each other need."""
        return self.width < 400


@dataclass(frozen=True)
class Chart:
    """One drawing: `slug` names it in files and anchors, `alt` says what it shows.

    `headline` is the title of a picture that stands alone, `subtitle` names the unit, `wide` is the
    plotting width on a desk in pixels. `draw` gives the specification for a canvas; `columns` and
    `rows` hold the same numbers as text.
    """

    slug: str
    title: str
    headline: str
    subtitle: str
    alt: str
    wide: int
    draw: Callable[[Canvas], Spec]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def spec_of(canvas: Canvas, body: Spec) -> Spec:
    """Complete a specification with the schema and the house's look."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": canvas.palette.paper,
        "config": _config(canvas.palette),
        **body,
    }


def _config(palette: Palette) -> Spec:
    label = {"labelColor": palette.muted, "labelFontSize": 12}
    return {
        "font": "sans-serif",
        "view": {"stroke": None},
        "axis": {
            "aria": False,
            **label,
            "titleColor": palette.muted,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "labelPadding": 6,
            "domain": False,
            "ticks": False,
            "gridColor": palette.line,
        },
        "axisX": {
            "grid": False,
            "domain": True,
            "domainColor": palette.line,
            "ticks": True,
            "tickColor": palette.line,
            "tickSize": 4,
        },
        "legend": {
            "aria": False,
            "labelColor": palette.ink,
            "labelFontSize": 12,
            "title": None,
            "orient": "top",
            "columnPadding": 20,
            "rowPadding": 4,
            "offset": 10,
            "symbolSize": 160,
            "symbolStrokeWidth": 3,
            "labelLimit": 320,
        },
        "line": {"strokeWidth": 2.5, "strokeJoin": "round", "strokeCap": "round"},
        "text": {"color": palette.ink, "fontSize": 12},
    }
