"""From a template to an HTML page that loads nothing: its style and script are in the file."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from scheduler.errors import UserInputError
from scheduler.report.chart import Chart
from scheduler.report.render import svg


def render_page(template: str, **values: Any) -> str:
    """Fill a template of this package; it also gets `css`, `script`, `script_hash` and `svg`.

    Every text is escaped, and the page's own policy lets no script run but the one it brings.
    Raises UserInputError where the extra is missing.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise UserInputError(
            "HTML pages need the report extra; install it with `pip install 'glm-plan[report]'`,"
            " or choose --format md, csv or json."
        ) from None

    def draw(chart: Chart, narrow: bool) -> Markup:
        # vl-convert escapes the texts of a chart; the tests hold it to that
        return Markup(svg(chart, narrow))  # noqa: S704

    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.from_string(_resource(template)).render(
        css=Markup(_resource("page.css")),  # noqa: S704 - ours
        script=Markup(script),  # noqa: S704 - ours
        script_hash=f"sha256-{digest}",
        svg=draw,
        **values,
    )


def _resource(name: str) -> str:
    return (files("scheduler.report") / name).read_text(encoding="utf-8")
