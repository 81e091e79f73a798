"""Render charts: Vega-Lite through vl-convert, offline, as SVG for the page and PNG for slides."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from scheduler.errors import UserInputError
from scheduler.report.chart import Canvas, Chart
from scheduler.report.palette import PAGE, SLIDE

if TYPE_CHECKING:
    from types import ModuleType

NARROW, SLIDE_WIDTH = 300, 800
"""Widths of the plotting area in pixels on a phone and on a slide."""

_VEGA_LITE = "6.1"
_SLIDE_SCALE = 2.0  # 1600 pixels and more, as projectors and retina screens show
_ROLES = re.compile(r' role="graphics-(?:symbol|object)" aria-roledescription="[^"]*"')
_GEOMETRY = re.compile(r' (?:d|transform|x|y|x1|x2|y1|y2|width|height)="[^"]*"')
_LONG_NUMBER = re.compile(r"(\d\.\d{2})\d+")


def converter() -> ModuleType:
    """The chart library. Raises UserInputError, naming the extra, where it is not installed."""
    try:
        import vl_convert
    except ImportError:
        raise UserInputError(
            "HTML pages and PNG charts need the report extra; install it with"
            " `pip install 'glm-plan[report]'`, or choose --format md, csv or json."
        ) from None
    return vl_convert


def svg(chart: Chart, narrow: bool = False) -> str:
    """Draw a chart for the page: an SVG whose colours come from the page's style sheet."""
    spec = chart.draw(Canvas(PAGE, NARROW if narrow else chart.wide))
    drawn = converter().vegalite_to_svg(json.dumps(spec), vl_version=_VEGA_LITE)
    return _slim(str(drawn))


def png(chart: Chart) -> bytes:
    """Draw a chart for a slide: light, 16:9 or so, at twice its size, with its title."""
    spec = chart.draw(Canvas(SLIDE, SLIDE_WIDTH))
    title = {
        "text": chart.headline,
        "subtitle": chart.subtitle,
        "anchor": "start",
        "fontSize": 20,
        "fontWeight": 600,
        "color": SLIDE.ink,
        "subtitleColor": SLIDE.muted,
        "subtitleFontSize": 13,
        "subtitlePadding": 6,
        "offset": 16,
    }
    spec = {**spec, "title": title, "padding": 24}
    drawn = converter().vegalite_to_png(json.dumps(spec), vl_version=_VEGA_LITE, scale=_SLIDE_SCALE)
    return bytes(drawn)


def _slim(drawn: str) -> str:
    """Leave out what the page says once for the whole chart, and pixels' hundredths."""
    return _GEOMETRY.sub(
        lambda attribute: _LONG_NUMBER.sub(r"\1", attribute.group()), _ROLES.sub("", drawn)
    )
